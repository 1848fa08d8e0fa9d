"""Which rows of the one global order an update reads: the place in the order is the number of rows read before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gristmill.core.config import config, require


@config
class BatchWarmup:
    """Begin with small updates and double them in equal numbers of tokens."""

    start: int
    """Rows of the first updates."""
    tokens: int
    """Training tokens after which updates are full."""

    def __post_init__(self) -> None:
        require(self.start >= 1, "start", "must be at least 1")
        require(self.tokens >= 1, "tokens", "must be at least 1")


class Positions:
    """Step -> its rows. Sizes are start, 2 start, ... and then `batch`; each of the first ones lasts for equally many
    rows, rounded up to whole updates."""

    def __init__(self, batch: int, context: int, warmup: BatchWarmup | None = None) -> None:
        sizes: list[int] = []
        while warmup is not None and warmup.start << len(sizes) < batch:
            sizes.append(warmup.start << len(sizes))
        self.batch = batch
        self._sizes, self._steps, self._rows = [*sizes, batch], [0], [0]
        for size in sizes:
            assert warmup is not None
            steps = -(-warmup.tokens // (context * len(sizes) * size))
            self._steps.append(self._steps[-1] + steps)
            self._rows.append(self._rows[-1] + steps * size)

    def span(self, step: int) -> tuple[int, int]:
        """First row of an update, and the first of the next one."""
        if step < 0:
            raise IndexError(f"step {step}")
        level = int(np.searchsorted(self._steps, step, side="right")) - 1
        first = self._rows[level] + (step - self._steps[level]) * self._sizes[level]
        return first, first + self._sizes[level]

    def steps(self, rows: float) -> int:
        """Updates that read about so many rows, at least one."""
        level = int(np.searchsorted(self._rows, rows, side="right")) - 1
        return max(1, self._steps[level] + round((rows - self._rows[level]) / self._sizes[level]))


class RowsByPlace(Protocol):
    """Training rows without an end."""

    def rows(self, places: np.ndarray) -> Any:
        """The rows at these places, a pure function of the place."""


@dataclass(frozen=True)
class RankBatches:
    """What one of several ranks reads of each update: a stretch of its rows.

    All ranks together read the same rows in the same order as one would alone, so that a run can go on at any step with
    any other number of them; where they do not divide the rows evenly, some read one row more, which a loss that is
    divided by the count over all ranks does not notice. For a `Loader`.
    """

    source: RowsByPlace
    positions: Positions
    rank: int = 0
    world_size: int = 1
    steps: int | None = None

    def __post_init__(self) -> None:
        first, stop = self.positions.span(0)
        require(0 <= self.rank < self.world_size, "rank", f"must be from 0 to {self.world_size - 1}")
        require(stop - first >= self.world_size, "world_size",
                f"{self.world_size} ranks, but the first update has {stop - first} rows")

    def places(self, step: int) -> np.ndarray:
        """Places of this rank's rows in the global order."""
        first, stop = self.positions.span(step)
        cuts = [first + (stop - first) * rank // self.world_size for rank in (self.rank, self.rank + 1)]
        return np.arange(*cuts)

    def batch(self, step: int) -> Any:
        """This rank's rows of update `step`."""
        return self.source.rows(self.places(step))
