"""Which rows of the one global order an update reads: the place in the order is the number of rows read before."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np

from gristmill.core.config import config, require
from gristmill.core.errors import UserError


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


def check_shares(rows: int, shares: int) -> None:
    """UserError where an update has fewer rows than there are shares of it."""
    if rows < shares:
        raise UserError(f"an update of {rows} rows cannot be dealt to {shares} processes", where="batch",
                        fix="raise batch (and batch_warmup.start), or lower replicate x shard of the layout")


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

    @property
    def smallest(self) -> int:
        """Rows of the smallest update."""
        return min(self._sizes)

    def span(self, step: int) -> tuple[int, int]:
        """First row of an update, and the first of the next one."""
        if step < 0:
            raise IndexError(f"step {step}")
        level = int(np.searchsorted(self._steps, step, side="right")) - 1
        first = self._rows[level] + (step - self._steps[level]) * self._sizes[level]
        return first, first + self._sizes[level]

    @property
    def sizes(self) -> list[range]:
        """The updates of each size, from the smallest to the full ones, which have no end."""
        return [range(first, stop) for first, stop in pairwise([*self._steps, sys.maxsize])]

    def places(self, step: int, share: int = 0, shares: int = 1) -> np.ndarray:
        """Places of the rows of an update; of several shares, those of one: an even stretch, some one row longer.

        All shares together are the same rows in the same order as one alone, so that a run can go on at any step with
        any other number of them. Raises UserError where there are fewer rows than shares.
        """
        first, stop = self.span(step)
        check_shares(stop - first, shares)
        edges = [first + (stop - first) * at // shares for at in (share, share + 1)]
        return np.arange(*edges)

    def steps(self, rows: float) -> int:
        """Updates that read about so many rows, at least one."""
        level = int(np.searchsorted(self._rows, rows, side="right")) - 1
        return max(1, self._steps[level] + round((rows - self._rows[level]) / self._sizes[level]))
