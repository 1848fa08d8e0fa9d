"""Splits that leak as little as we know how to avoid: what belongs together goes together, and hashes decide.

A unit is a set of documents joined by a near-duplicate cluster or by their `group` (a package and its tests).
The unit's split is a pure function of its name and the seed: adding documents moves no other unit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.core.seeds import fraction
from gristmill.data.dedup.clusters import connected
from gristmill.data.documents import SPLITS


@config
class Split:
    """Shares of the corpus that are held out; the rest is for training.

    They are expectations: units differ in size, and what a unit gets depends on nothing but its name and the seed.
    funnel.json says what came out.
    """

    valid: float = 0.05
    """Share for validation during training, 0 to 0.5."""
    test: float = 0.05
    """Share for the final evaluation, 0 to 0.5."""
    groups: bool = True
    """Keep what a source calls a group (a package of the standard library and its tests) in one split."""

    def __post_init__(self) -> None:
        for name in ("valid", "test"):
            require(0 <= getattr(self, name) <= 0.5, name, "must be between 0 and 0.5")
        require(self.valid + self.test < 1, "valid", "valid and test together must leave something to train on")

    def shares(self) -> dict[str, float]:
        """The held-out splits that are asked for."""
        return {name: share for name, share in (("test", self.test), ("valid", self.valid)) if share > 0}


def join(clusters: np.ndarray, groups: np.ndarray, group_count: int) -> np.ndarray:
    """The unit of each document: the smallest cluster that it is joined to, through clusters and groups.

    clusters: (documents,) numbers; groups: (documents,) numbers below group_count, -1 joins nothing.
    """
    names, index = np.unique(clusters, return_inverse=True)
    joining = np.unique(np.stack([index, groups + len(names)], axis=1)[groups >= 0], axis=0)
    root = connected(len(names) + group_count, joining.tolist())
    return names[np.array(root, np.int64)[index]] if len(names) else clusters


def point(unit: str, seed: int) -> float:
    """Where a unit lies in [0, 1): by its name and the seed alone."""
    return fraction(seed, "split", unit)


def choose(unit: str, seed: int, shares: Mapping[str, float]) -> str:
    """The split of one unit."""
    place, start = point(unit, seed), 0.0
    for name, share in shares.items():
        if start <= place < start + share:
            return name
        start += share
    return "train"


def assign(points: np.ndarray, split: Split) -> np.ndarray:
    """(units,) int8, numbers in `SPLITS`, from the units' points (`point`), as `choose` says. In a small corpus a split
    that hashes leave empty gets the unit with the smallest point of the split that has most.

    Raises UserError if there are fewer units than splits.
    """
    shares = split.shares()
    wanted = [SPLITS.index(name) for name in ("train", *shares)]
    if len(points) < len(wanted):
        raise UserError(
            f"{len(points)} independent document(s) cannot be split into {', '.join(SPLITS[one] for one in wanted)}",
            where="split",
            fix="give more documents, cut long ones (`piece_kb: 16` on a source of kind files), "
                "or set `split: {valid: 0, test: 0}`",
        )
    chosen, start = np.full(len(points), wanted[0], np.int8), 0.0
    for name, share in shares.items():
        chosen[(points >= start) & (points < start + share)] = SPLITS.index(name)
        start += share
    for one in wanted:
        if not (chosen == one).any():
            giving = max(wanted, key=lambda other: int((chosen == other).sum()))
            own = np.flatnonzero(chosen == giving)
            chosen[own[points[own].argmin()]] = one
    return chosen
