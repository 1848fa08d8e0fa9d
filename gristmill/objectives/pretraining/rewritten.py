"""Batches made from other batches by a rule that draws random numbers: splits, spans, orders."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from gristmill.objectives.base import Batch
from gristmill.objectives.pretraining.rows import generator
from gristmill.tokens import EvaluationBatches, PackedBatches

Rewrite = Callable[[Batch, np.random.Generator], dict[str, Tensor]]
"""A batch and random numbers -> another batch of the same rows."""


@dataclass
class Rewritten:
    """Training batches; what is drawn is a pure function of (seed, step)."""

    batches: PackedBatches
    rewrite: Rewrite
    seed: int

    @property
    def steps(self) -> int | None:
        """Batches in all, or None without an end."""
        return self.batches.steps

    @property
    def tokens_per_batch(self) -> int:
        return self.batches.tokens_per_batch

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of `step`, a pure function of (seed, step)."""
        return self.rewrite(self.batches.batch(step), generator(self.seed, "rewrite", step))  # type: ignore[arg-type]


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


def pieces(document_ids: np.ndarray) -> list[tuple[int, int, int]]:
    """(row, start, stop) of every run of one document in a row, padding (-1) left out; document_ids (rows, time)."""
    found = []
    for row, ids in enumerate(document_ids):
        borders = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
        found += [(row, start, stop) for start, stop in itertools.pairwise(borders)
                  if stop > start and ids[start] >= 0]
    return found
