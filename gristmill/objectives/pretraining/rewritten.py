"""Batches made from other batches by a rule that draws random numbers: splits, spans, orders."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gristmill.objectives.base import Batch
from gristmill.objectives.pretraining.rows import generator
from gristmill.tokens import EvaluationBatches, PackedBatches, WholeBatches

Rewrite = Callable[[Batch, np.random.Generator], dict[str, Tensor]]
"""A batch and random numbers -> another batch of the same rows."""


@dataclass
class Rewritten:
    """Training batches; what is drawn is a pure function of (seed, step)."""

    batches: PackedBatches | WholeBatches
    rewrite: Rewrite
    seed: int

    @property
    def steps(self) -> int | None:
        """Batches in all, or None without an end."""
        return self.batches.steps

    @property
    def tokens_per_batch(self) -> int:
        return self.batches.tokens_per_batch

    @property
    def epoch_rows(self) -> int:
        """Rows after which each has come once."""
        return self.batches.epoch_rows

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of `step`, a pure function of (seed, step)."""
        return self.rewrite(self.batches.batch(step), generator(self.seed, "rewrite", step))  # type: ignore[arg-type]

    def rows(self, places: np.ndarray) -> dict[str, Tensor]:
        """The rows at these places of training, as the batches have them."""
        return gathered(self.batch, self.batches.batch_size, places)

    def documents(self, place: int) -> list[str]:
        """The documents of the row at this place of training."""
        return self.batches.documents(place)


@dataclass
class RewrittenHeldOut:
    """Held-out batches, drawn alike at every evaluation."""

    batches: EvaluationBatches
    rewrite: Rewrite
    seed: int
    total_bytes: int | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for number, batch in enumerate(self.batches):
            yield self.rewrite(batch, generator(self.seed, "held out", number))  # type: ignore[arg-type]


def gathered(batch: Callable[[int], dict[str, Tensor]], size: int, places: np.ndarray) -> dict[str, Tensor]:
    """The rows at these places out of whole batches of `size`, where draws belong to a batch rather than to a row."""
    steps, within = np.divmod(places, size)
    if len(places) == size and within[0] == 0 and (np.diff(places) == 1).all():
        return batch(int(steps[0]))
    made = {step: batch(step) for step in np.unique(steps).tolist()}
    rows = [{name: tensor[row] for name, tensor in made[step].items()}
            for step, row in zip(steps.tolist(), within.tolist(), strict=True)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def pieces(document_ids: np.ndarray) -> list[tuple[int, int, int]]:
    """(row, start, stop) of every run of one document in a row, padding (-1) left out; document_ids (rows, time)."""
    found = []
    for row, ids in enumerate(document_ids):
        borders = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
        found += [(row, start, stop) for start, stop in itertools.pairwise(borders)
                  if stop > start and ids[start] >= 0]
    return found
