"""How a corpus becomes training rows: its components, their shares, what comes when, and how rows are filled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from gristmill.core.artifact import Artifact
from gristmill.core.config import to_plain
from gristmill.core.errors import UserError
from gristmill.core.seeds import derive_seed
from gristmill.tokens.best_fit import stable_order
from gristmill.tokens.curriculum import Curriculum, cuts_at, row_cuts, schedule, table
from gristmill.tokens.interleave import Interleaving, fixed_shares
from gristmill.tokens.labels import component_labels, difficulties
from gristmill.tokens.mixture import Mixture, MixturePlan, plan_mixture, planned
from gristmill.tokens.selection import grouped
from gristmill.tokens.shards import TokenShards
from gristmill.tokens.whole_documents import laid_out

Packing = Literal["concatenate", "best_fit"]


class RowsByPlace(Protocol):
    """Training rows without an end; see `objectives.pretraining.base.TrainingBatches`."""

    @property
    def epoch_rows(self) -> int:
        """Rows after which every one has come once."""

    def rows(self, places: np.ndarray) -> Any: ...


MakeRows = Callable[[TokenShards, int], RowsByPlace]
"""(text, seed) -> its rows."""


@dataclass(frozen=True)
class Component:
    """One part of the corpus: all documents with the same label."""

    name: str
    buckets: list[TokenShards]
    """Its documents by difficulty, easy to hard; one where difficulty does not matter."""

    @property
    def documents(self) -> int:
        return sum(text.documents for text in self.buckets)

    @property
    def tokens(self) -> int:
        return sum(text.total_tokens for text in self.buckets)


@dataclass(frozen=True)
class Arrangement:
    """The components of a corpus and the rules of the order in which their rows are read."""

    components: list[Component]
    context: int
    mixture: Mixture = Mixture()
    curriculum: Curriculum | None = None
    left_out: list[str] = field(default_factory=list)
    """Components that are too short for a single row."""

    @property
    def texts(self) -> list[TokenShards]:
        """The documents of every bucket of every component."""
        return [text for one in self.components for text in one.buckets]

    def rows(self, make: MakeRows, total: int, seed: int) -> ArrangedRows:
        """The rows of a run of `total` rows: a pure function of the place, also beyond the end."""
        parts = [[make(text, derive_seed(seed, "component", one.name, number))
                  for number, text in enumerate(one.buckets)] for one in self.components]
        names = [one.name for one in self.components]
        tokens = np.array([one.tokens for one in self.components])
        staged = self.curriculum is not None and bool(self.curriculum.mixtures)
        drawn = total * self.context
        plan = None if staged else plan_mixture(
            self.mixture, names, [one.documents for one in self.components], tokens.tolist(), drawn)
        shares = np.zeros(len(names)) if plan is None else np.array([one.share for one in plan.shares])
        if self.curriculum is None or not (staged or self.curriculum.by):
            interleaving = Interleaving(fixed_shares(shares))
        else:
            interleaving = Interleaving(*schedule(
                self.curriculum, [[part.epoch_rows for part in own] for own in parts], shares, names, tokens, total))
        if plan is None:
            plan = self._of_stages(interleaving.counts(total))
        return ArrangedRows(self, parts, interleaving, plan, total)

    def _of_stages(self, counts: np.ndarray) -> MixturePlan:
        """What a schedule of mixtures draws in all; UserError where it breaks a limit."""
        sizes = [len(one.buckets) for one in self.components]
        drawn = np.array([own.sum() for own in np.split(counts, np.cumsum(sizes)[:-1])]) * float(self.context)
        plan = planned(self.mixture.over, [one.name for one in self.components],
                       [one.documents for one in self.components], [one.tokens for one in self.components], drawn,
                       [""] * len(sizes))
        most = self.mixture.max_epochs
        for one in plan.shares:
            limit = most.get(one.name, most.get("*")) if isinstance(most, dict) else most
            if limit is not None and one.epochs > limit:
                raise UserError(f"the curriculum's mixtures read {one.name} {one.epochs:.3g} times, and "
                                f"mixture.max_epochs allows {limit:g}", where="curriculum.mixtures",
                                fix="lower its weights, or raise mixture.max_epochs")
        return plan


class ArrangedRows:
    """Rows of all components in the planned order; a batch is `rows` of consecutive places."""

    def __init__(self, arrangement: Arrangement, parts: list[list[RowsByPlace]], interleaving: Interleaving,
                 plan: MixturePlan, total: int) -> None:
        self.arrangement, self.interleaving, self.plan, self.total = arrangement, interleaving, plan, total
        self.by_component = parts
        self.parts = [part for own in parts for part in own]

    def rows(self, places: np.ndarray) -> dict[str, Tensor]:
        """The rows at these places of training, a pure function of (seed, place)."""
        components, draws = self.interleaving.at(places)
        result: dict[str, Tensor] = {}
        for component in np.unique(components).tolist():
            here = components == component
            for name, tensor in self.parts[component].rows(draws[here]).items():
                if name not in result:
                    result[name] = torch.empty((len(places), *tensor.shape[1:]), dtype=tensor.dtype)
                result[name][torch.from_numpy(here)] = tensor
        return result

    def documents(self, place: int) -> list[str]:
        """The documents of the row at this place of training, `id (source)` each; none where its rows do not say."""
        components, draws = self.interleaving.at(np.array([place]))
        known = getattr(self.parts[int(components[0])], "documents", None)
        return [] if known is None else known(int(draws[0]))

    def described(self) -> dict[str, Any]:
        """For plan.json: the mixture, buckets, and the planned shares over the run for plots."""
        arrangement = self.arrangement
        counts = self.interleaving.counts(self.total)
        found: dict[str, Any] = {"mixture": self.plan.plain(), "left_out": arrangement.left_out}
        sizes = [len(own) for own in self.by_component]
        ends = np.cumsum(sizes)[:-1]
        if max(sizes) > 1:
            found["buckets"] = [
                {"component": one.name, "rows": [part.epoch_rows for part in own], "drawn": drawn.tolist()}
                for one, own, drawn in zip(arrangement.components, self.by_component, np.split(counts, ends),
                                           strict=True)]
        if arrangement.curriculum is not None:
            found["curriculum"] = to_plain(arrangement.curriculum)
            found["shares"] = table(
                [one.name for one in arrangement.components],
                lambda rows: [own.sum() for own in np.split(self.interleaving.counts(rows), ends)], self.total)
            if row_cuts(arrangement.curriculum, arrangement.context) > 1:
                found["row_lengths"] = [
                    arrangement.context // cuts_at(arrangement.curriculum, arrangement.context, place / self.total)
                    for place in found["shares"]["rows"]]
        return found

    def visited(self) -> Iterator[tuple[TokenShards, RowsByPlace, int]]:
        """Each text with its rows and how many draws of them the run makes."""
        yield from zip(self.arrangement.texts, self.parts, self.interleaving.counts(self.total).tolist(), strict=True)


def arrange(
    shards: TokenShards, corpus: Artifact, split: str, *, context: int, mixture: Mixture | None = None,
    curriculum: Curriculum | None = None, packing: Packing = "concatenate", cache: Path | None = None,
) -> Arrangement:
    """The components of a corpus, by the mixture's labels and the curriculum's difficulty.

    cache: where tables of documents and rows are kept (12 bytes a document for either); None: in memory.
    Raises UserError where nothing is long enough for a row.
    """
    if mixture is None and curriculum is not None and curriculum.mixtures:
        mixture = Mixture()
    names, numbers = ["text"], np.zeros(shards.documents, dtype=np.int32)
    if mixture is not None:
        names, numbers = component_labels(shards, mixture.over, corpus, split, cache)
    by = None if curriculum is None else curriculum.by
    lengths = np.diff(shards.offsets)
    tokens = np.bincount(numbers, weights=lengths, minlength=len(names))
    usable = tokens > (context if packing == "concatenate" else 1)
    if not usable.any():
        raise UserError(f"none of {', '.join(names[:20])} has the {context + 1} tokens of a row", where="mixture.over",
                        fix="use more text, a shorter context, or other components")
    about: dict[str, Any] = {"corpus": corpus.digest, "over": None if mixture is None else mixture.over, "by": by,
                             "usable": context if packing == "concatenate" else 1}
    groups, levels = _levels(shards, curriculum, numbers, usable, corpus, split, cache, context)
    if by is not None and curriculum is not None:
        about |= {"buckets": curriculum.buckets, "hardest_first": curriculum.hardest_first, "context": context}
    texts: Sequence[TokenShards] = [shards] if sum(levels) == 1 and usable.all() and len(names) == 1 else grouped(
        shards, groups, sum(levels), cache, about)
    if packing == "best_fit":
        texts = [laid_out(text, context, cache, {**about, "group": number}) for number, text in enumerate(texts)]
    components, at = [], 0
    for name, count in zip(names, levels, strict=True):
        if count:
            components.append(Component(name, list(texts[at:at + count])))
        at += count
    left_out = [name for name, one in zip(names, usable, strict=True) if not one]
    chosen = mixture or Mixture()
    for name in left_out:
        if chosen.weights.get(name) or name in chosen.epochs:
            raise UserError(f"{name!r} has {int(tokens[names.index(name)])} tokens, less than a row of {context}",
                            where="mixture", fix="leave it out (weight 0), or use `packing: best_fit`")
    for setting in ("weights", "max_epochs", "max_share"):  # what takes no part has no weight and no limit
        value = getattr(chosen, setting)
        if isinstance(value, dict):
            kept = {name: number for name, number in value.items() if name not in left_out}
            chosen = dataclasses.replace(chosen, **{setting: kept})  # type: ignore[arg-type]
    return Arrangement(components, context, chosen, curriculum, left_out)


def _levels(shards: TokenShards, curriculum: Curriculum | None, numbers: np.ndarray, usable: np.ndarray,
            corpus: Artifact, split: str, cache: Path | None, context: int) -> tuple[np.ndarray, list[int]]:
    """The group of every document, -1 for none, and how many groups each component has: its levels of difficulty."""
    if curriculum is None or curriculum.by is None:
        place = np.where(usable, np.cumsum(usable) - 1, -1)
        return place[numbers], usable.astype(int).tolist()
    values = difficulties(shards, curriculum.by, corpus, split, cache)
    values = -values if curriculum.hardest_first else values
    lengths = np.diff(shards.offsets)
    groups = np.full(shards.documents, -1, dtype=np.int32)
    levels, first = [], 0
    order = np.argsort(values, kind="stable")
    order = order[stable_order(np.asarray(numbers)[order])]
    for component, own in enumerate(np.split(order, np.cumsum(np.bincount(numbers, minlength=len(usable)))[:-1])):
        if not usable[component]:
            levels.append(0)
            continue
        ends = np.cumsum(lengths[own])
        # A level has room for some rows, or the windows' lost ends would be a sizeable part of it.
        count = int(min(curriculum.buckets, max(1, ends[-1] // (8 * context))))
        level = np.minimum((ends - lengths[own] / 2) * count // ends[-1], count - 1).astype(np.int64)
        level = np.unique(level, return_inverse=True)[1]  # a long document can leave a level empty
        level = _merged(level, np.bincount(level, weights=lengths[own]), context)
        groups[own] = first + level
        levels.append(int(level.max()) + 1)
        first += levels[-1]
    return groups, levels


def _merged(level: np.ndarray, tokens: np.ndarray, context: int) -> np.ndarray:
    """Levels with those that have no whole row joined to the one before, or the first to the next."""
    place, current, held = np.zeros(len(tokens), dtype=np.int64), 0, 0.0
    for number, size in enumerate(tokens.tolist()):
        if held > context and size > context:
            current, held = current + 1, 0.0
        held += size
        place[number] = current
    return place[level]
