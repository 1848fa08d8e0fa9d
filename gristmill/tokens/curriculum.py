"""Curricula: what is read when. Pure functions of how much of the run is done, a number from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any, Literal

import numpy as np

from gristmill.core.config import config, require
from gristmill.tokens.interleave import block_size, schedule_shares
from gristmill.tokens.mixture import base_shares, check_weights

Pacing = Literal["competence", "linear", "sorted"]
POINTS = 65
"""Points of the table for plots."""


@config
class MixturePoint:
    """The mixture from one moment of the run on."""

    at: float
    """Share of the run after which it holds, from 0 to 1."""
    weights: dict[str, float] = field(default_factory=dict)
    """Shares of components by name, as in `mixture`."""
    alpha: float = 1.0
    """For components without a weight, as in `mixture`."""

    def __post_init__(self) -> None:
        require(0 <= self.at <= 1, "at", "must be from 0 to 1")
        check_weights(self.weights, self.alpha)


@config
class Curriculum:
    """What is read when: easy documents first, another mixture later, short rows first. All of them are optional."""

    by: str | None = None
    """What makes a document difficult: length (tokens), rarity (how seldom its tokens are, on average), or
    metadata.NAME for a number that the corpus says of it."""
    hardest_first: bool = False
    """Begin with the largest values instead of the smallest."""
    pacing: Pacing = "competence"
    """competence: draw from the easiest share sqrt(t (1 - start²) / until + start²) of the text at moment t (Platanios
    et al. 2019); linear: from a share that grows evenly; sorted: through everything from easy to hard, each epoch."""
    start: float = 0.1
    """The share of the text that is read from at the beginning (competence, linear)."""
    until: float = 0.5
    """Share of the run after which all of the text is read from (competence, linear)."""
    buckets: int = 16
    """Levels of difficulty in each component; within one the order is random."""
    mixtures: list[MixturePoint] = field(default_factory=list)
    """Mixtures over the run, each from its `at` on; `mixture.over` says what the components are."""
    blend: bool = True
    """Go evenly from each mixture to the next; otherwise change at once."""
    short_rows: int | None = None
    """Begin with rows of at least so many tokens, cut from the full rows (the tokens of an update stay the same), and
    double them until they are full (sequence-length warm-up, Li et al. 2022, arXiv:2108.06084)."""
    short_until: float = 0.3
    """Share of the run after which rows are full."""

    def __post_init__(self) -> None:
        require(self.by is None or self.by in ("length", "rarity") or self.by.startswith("metadata."), "by",
                "length, rarity, or metadata.NAME")
        require(0 < self.start <= 1, "start", "must be above 0 and at most 1")
        for name in ("until", "short_until"):
            require(0 < getattr(self, name) <= 1, name, "must be above 0 and at most 1")
        require(1 <= self.buckets <= 256, "buckets", "must be from 1 to 256")
        require(self.short_rows is None or self.short_rows >= 8, "short_rows", "must be at least 8")
        times = [point.at for point in self.mixtures]
        require(times == sorted(set(times)), "mixtures", "each must come later than the one before")
        require(self.by is not None or bool(self.mixtures) or self.short_rows is not None, "curriculum",
                "set by, mixtures or short_rows")


def competence(curriculum: Curriculum, done: np.ndarray) -> np.ndarray:
    """Share of the text that is read from at moments `done` (Platanios et al. 2019, equations 2 and 3)."""
    part = np.clip(np.asarray(done, dtype=np.float64) / curriculum.until, 0, 1)
    if curriculum.pacing == "linear":
        return curriculum.start + (1 - curriculum.start) * part
    return np.sqrt(part * (1 - curriculum.start**2) + curriculum.start**2)


def mixture_shares(points: Sequence[MixturePoint], blend: bool, names: Sequence[str], tokens: np.ndarray,
                   done: np.ndarray) -> np.ndarray:
    """Shares (moments, components) of the mixtures at moments `done`; before the first `at` the first one holds."""
    knots = np.array([point.at for point in points])
    values = np.stack([base_shares(names, tokens, point.weights, point.alpha) for point in points])
    if not blend:
        return values[np.maximum(np.searchsorted(knots, done, side="right") - 1, 0)]
    return np.stack([np.interp(done, knots, values[:, i]) for i in range(len(names))], axis=1)


def schedule(curriculum: Curriculum, rows: Sequence[Sequence[int]], shares: np.ndarray, names: Sequence[str],
             tokens: np.ndarray, total: int) -> tuple[np.ndarray, int]:
    """Shares of every bucket of every component in blocks of places, for `Interleaving`; and the places of a block.

    rows: for each component the rows of its buckets, easy to hard. shares: of the components, where the curriculum has
    no mixtures. total: rows of the run.
    """
    block = block_size(total, sum(map(len, rows)))
    blocks = -(-total // block)
    edges = np.arange(blocks + 1) * block
    middle = (edges[:-1] + block / 2) / total
    if curriculum.mixtures:
        of_components = mixture_shares(curriculum.mixtures, curriculum.blend, names, tokens, middle)
    else:
        of_components = np.tile(shares, (blocks, 1))
    drawn = np.concatenate([np.zeros((1, len(names))), np.cumsum(of_components * block, axis=0)])
    columns = [_of_buckets(curriculum, np.asarray(own, dtype=np.float64), drawn[:, i], middle)
               for i, own in enumerate(rows)]
    return schedule_shares(np.concatenate(columns, axis=1), block), block


def _of_buckets(curriculum: Curriculum, rows: np.ndarray, drawn: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Rows (blocks + 1, buckets) that have been drawn of each bucket of a component of which `drawn` have been."""
    begins, all_rows = np.cumsum(rows) - rows, rows.sum()
    if len(rows) == 1:
        return drawn[:, None]
    if curriculum.pacing == "sorted":
        epochs, within = np.divmod(drawn, all_rows)
        return epochs[:, None] * rows + np.clip(within[:, None] - begins, 0, rows)
    reach = competence(curriculum, middle) * all_rows
    parts = np.clip(reach[:, None] - begins, 0, rows) / reach[:, None]
    return np.concatenate([np.zeros((1, len(rows))), np.cumsum(parts * np.diff(drawn)[:, None], axis=0)])


def row_cuts(curriculum: Curriculum | None, context: int) -> int:
    """Into how many pieces rows are cut at the beginning: a power of two that divides the context."""
    cuts = 1
    if curriculum is not None and curriculum.short_rows is not None:
        while context % (2 * cuts) == 0 and context // (2 * cuts) >= curriculum.short_rows:
            cuts *= 2
    return cuts


def cuts_at(curriculum: Curriculum | None, context: int, done: float) -> int:
    """Into how many pieces rows are cut at moment `done`: halved in equal times."""
    cuts = row_cuts(curriculum, context)
    if curriculum is None or cuts == 1 or done >= curriculum.short_until:
        return 1
    levels = cuts.bit_length() - 1
    return cuts >> int(done / curriculum.short_until * levels)


def table(names: Sequence[str], counts: Any, total: int) -> dict[str, Any]:
    """Planned shares over the run, for plots. counts(rows) -> rows of each name among the first so many."""
    places = np.unique(np.linspace(0, total, min(POINTS, total + 1)).astype(np.int64))
    found = np.stack([np.asarray(counts(int(place))) for place in places])
    shares = np.diff(found, axis=0) / np.diff(places)[:, None]
    return {"rows": places[1:].tolist(), "names": list(names), "shares": np.round(shares, 5).tolist()}
