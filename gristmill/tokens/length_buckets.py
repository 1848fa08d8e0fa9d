"""Batches of rows of similar length: little padding, about the same number of tokens in each."""

from __future__ import annotations

import numpy as np

from gristmill.core.seeds import derive_seed
from gristmill.tokens.batches import permuted
from gristmill.tokens.best_fit import stable_order

SPREAD = 1.125
"""The longest row of a bucket has at most so many times the length of its shortest."""


class BucketedOrder:
    """step -> rows of similar length, every row once an epoch: a pure function of (seed, step).

    Rows are sorted into buckets by length. In each epoch the rows of a bucket are shuffled and cut into batches that
    hold as many as fit into `tokens` when all are as long as the bucket's longest; the batches of all buckets are
    shuffled. Memory: 4 bytes a row.
    """

    def __init__(self, lengths: np.ndarray, tokens: int, seed: int) -> None:
        """lengths: (rows,) of at least 1. tokens: most in a batch, padding included; a longer row is a batch alone."""
        lengths = np.asarray(lengths)
        self.rows, self.seed = len(lengths), seed
        self._order = stable_order(lengths).astype(np.uint32)
        lengths = lengths[self._order]
        starts = [0]
        while starts[-1] < len(lengths):
            longest = float(lengths[starts[-1]]) * SPREAD
            starts.append(int(np.searchsorted(lengths, longest, side="right")))
        self._starts = np.array(starts)
        """First row of each bucket in the sorted rows, and the end."""
        self.lengths = lengths[self._starts[1:] - 1]
        """The longest row of each bucket."""
        self._each = np.maximum(tokens // self.lengths, 1)
        counts = np.diff(self._starts)
        self._ends = np.cumsum(-(-counts // self._each))
        self.batches = int(self._ends[-1])
        """Of an epoch."""
        self.padding = 1 - float(lengths.sum()) / float((counts * self.lengths).sum())
        """Share of the places of an epoch's batches that hold nothing."""

    def at(self, step: int) -> tuple[np.ndarray, int, int]:
        """Rows of a batch, the length to pad them to, and the epoch."""
        if step < 0:
            raise IndexError(f"step {step}")
        epoch, place = divmod(step, self.batches)
        number = int(permuted(np.array(place), self.batches, derive_seed(self.seed, "batches", epoch)))
        bucket = int(np.searchsorted(self._ends, number, side="right"))
        first, stop = self._starts[bucket:bucket + 2].tolist()
        each = int(self._each[bucket])
        begin = (number - (int(self._ends[bucket - 1]) if bucket else 0)) * each
        within = permuted(np.arange(begin, min(begin + each, stop - first)), stop - first,
                          derive_seed(self.seed, "bucket", bucket, "epoch", epoch))
        return self._order[first + within].astype(np.int64), int(self.lengths[bucket]), epoch


def random_padding(lengths: np.ndarray, batch: int, seed: int) -> float:
    """Share of padding in batches of `batch` rows in random order, each padded to its longest: what buckets save."""
    order = permuted(np.arange(len(lengths)), len(lengths), seed)
    whole = np.asarray(lengths)[order[:len(order) // batch * batch]].reshape(-1, batch)
    return 1 - float(whole.sum()) / float((whole.max(axis=1) * batch).sum()) if len(whole) else 0.0
