"""A sorted array of 64-bit hashes in which millions of numbers are looked up at once.

The hashes are evenly spread, so their leading bits say where to look: a table of buckets holds about one hash each.
Both arrays can be memory-mapped; 8 bytes a hash, and 4 to 8 for the buckets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class HashTable:
    """keys: (n,) uint64, ascending and different. starts: (2**bits + 1,) uint32, where each bucket begins."""

    keys: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray) -> HashTable:
        """The table of some ascending, different keys."""
        return cls(keys, bucket_starts(keys))

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """(wanted,) int64: the place of each among the keys, -1 for those that are not there."""
        found = np.full(len(wanted), -1, np.int64)
        bits = (len(self.starts) - 1).bit_length() - 1
        bucket = (wanted >> np.uint64(64 - bits)).astype(np.int64)
        at, end = self.starts[bucket].astype(np.int64), self.starts[bucket + 1].astype(np.int64)
        active = np.flatnonzero(at < end)
        at, end, left = at[active], end[active], wanted[active]
        while len(active):
            here = self.keys[at]
            hit = here == left
            found[active[hit]] = at[hit]
            at += 1
            go = (here < left) & (at < end)
            active, at, end, left = active[go], at[go], end[go], left[go]
        return found


def bucket_starts(keys: np.ndarray) -> np.ndarray:
    """(2**bits + 1,) uint32: the buckets of some ascending keys, one to two of them for each key."""
    bits = max(1, (max(len(keys), 1) - 1).bit_length())
    edges = np.arange(1, 1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
    return np.concatenate(([0], np.searchsorted(keys, edges), [len(keys)])).astype(np.uint32)
