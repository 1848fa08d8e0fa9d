"""Which tokens of a row a process has where rows are shared out: one stretch from the front, one from the back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gristmill.objectives.base import IGNORED, Batch

PADDING: dict[str, int] = {"input_ids": 0, "targets": IGNORED, "document_ids": -1, "position_ids": 0, "prefix": 0}
"""What fills rows up; nothing else of a batch can be cut."""


def filled(batch: Batch, number: int) -> Batch:
    """Rows of a multiple of `number` tokens: those of `batch` with padding behind them, which no token before it sees,
    and which `document_ids` tell from tokens."""
    more = -batch["input_ids"].shape[1] % number
    if not more:
        return batch
    if "document_ids" not in batch:
        batch = {**batch, "document_ids": torch.zeros_like(batch["input_ids"])}
    return {name: F.pad(tensor, (0, more), value=PADDING[name]) for name, tensor in batch.items()}


@dataclass(frozen=True)
class Stretches:
    """A row is cut into 2 x `size` equal stretches; the process at `place` has number `place` and, counted from the
    end, number `place`: every process then has the same number of pairs of a query and a key before it."""

    place: int
    size: int

    @property
    def number(self) -> int:
        """How many stretches a row has."""
        return 2 * self.size

    def of(self, place: int) -> tuple[int, int]:
        """Numbers of the two stretches of the process at `place`."""
        return place, self.number - 1 - place

    def mine(self, tokens: int, place: int | None = None) -> Iterator[tuple[int, int, slice]]:
        """The stretches of a process (default: this one) that has `tokens` tokens: first and last position (not
        included) in the row, and where they lie among its tokens."""
        length = tokens // 2
        for at, stretch in enumerate(self.of(self.place if place is None else place)):
            yield stretch * length, (stretch + 1) * length, slice(at * length, (at + 1) * length)

    def cut(self, rows: Tensor) -> Tensor:
        """rows (rows, time), time a multiple of `number` -> this process's tokens, (rows, time / size)."""
        parts = rows.chunk(self.number, dim=1)
        return torch.cat([parts[stretch] for stretch in self.of(self.place)], dim=1)

    def joined(self, parts: Tensor, dim: int) -> Tensor:
        """parts (size, ...): the tokens of each process along `dim` (counted from the end) -> whole rows (...)."""
        front, back = zip(*(part.chunk(2, dim=dim) for part in parts.unbind()), strict=True)
        return torch.cat((*front, *reversed(back)), dim=dim)
