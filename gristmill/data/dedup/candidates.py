"""Which pairs of documents are compared: from band hashes, without ever listing all the pairs of a large bucket.

Documents are places in the order from the best to the worst, so a pair is (better, worse) and the result depends
neither on how documents are numbered nor on how they are spread over files. In a bucket of at most `SMALL` documents
all are compared with each other. In a larger one the best is compared with all others; then, of those that still stay,
the second best with all that follow, and so on up to `REPRESENTATIVES`: m documents cost at most 32 m comparisons.
Memory: 8 bytes a pair that was looked at, 8 a member of a large bucket, 16 a document.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gristmill.data.dedup.fingerprints import FingerprintFile, Fingerprints
from gristmill.data.dedup.grouping import MEMORY, equal_groups
from gristmill.data.dedup.minhash import MARGIN, PERMUTATIONS

SMALL = 16
"""Documents of the largest bucket in which all are compared with each other at once."""
REPRESENTATIVES = 32
"""In a larger bucket, a document is compared with at most so many of the better ones that stay."""
_CHUNK = 1 << 16
"""Pairs whose sketches are compared at once."""


class Buckets:
    """Documents that agree in a whole band, by place; one number stands for a pair: better * count + worse."""

    def __init__(
        self, parts: Sequence[Fingerprints | FingerprintFile], place: np.ndarray, threshold: float | None, *,
        memory: int = MEMORY,
    ) -> None:
        """parts: the fingerprints of each file. place: (documents,) place of each document in the order, -1 for those
        that take no part. threshold: pairs whose sketches agree far less often are left out; None: every pair is taken.
        """
        self.count = int(place.max(initial=-1)) + 1
        self.threshold = threshold
        self.parts = parts
        self._starts = np.concatenate(([0], np.cumsum([len(part) for part in parts]))).astype(np.int64)
        self._number = np.empty(self.count, np.int64)
        self._number[place[place >= 0]] = np.flatnonzero(place >= 0)
        self._examined = np.empty(0, np.int64)
        large = []
        for band in range(len(parts[0].bands) if len(parts) else 0):
            found = [self._examined]
            for items, starts in equal_groups(_Band(parts, band), memory=memory, skip=0):
                members, edges = _ordered(place[items], starts)
                few = np.diff(edges) <= SMALL
                found.append(self._pairs_of_small(members, edges, few))
                for number in np.flatnonzero(~few).tolist():
                    large.append(members[edges[number] : edges[number + 1]])
            self._examined = np.unique(np.concatenate(found))
        self.large = _unlike(large)
        """The larger buckets, each in order."""
        self._first = True

    def pairs(self, stays: np.ndarray) -> np.ndarray:
        """The next (pairs, 2) places, better and worse, that are to be compared; none when all is done.

        stays: (count,) bool: what stays as far as the comparisons so far tell.
        """
        found = [self._examined if self._first else np.empty(0, np.int64)]
        for bucket in self.large:
            found += self._stars(bucket[stays[bucket]])
        fresh = np.unique(np.concatenate(found))
        if not self._first:
            fresh = fresh[~_within(fresh, self._examined)]
            self._examined = np.sort(np.concatenate((self._examined, fresh)))
        else:
            self._examined = fresh
        self._first = False
        codes = fresh[self._likely(fresh)]
        return np.stack(np.divmod(codes, max(self.count, 1)), axis=1)

    @property
    def examined(self) -> int:
        """Pairs that were looked at so far."""
        return len(self._examined)

    def _stars(self, staying: np.ndarray) -> list[np.ndarray]:
        """The pairs of the first representative that was not yet compared with all that follow it."""
        for number in range(min(REPRESENTATIVES, len(staying) - 1)):
            codes = staying[number] * self.count + staying[number + 1 :]
            fresh = codes[~_within(codes, self._examined)]
            if len(fresh):
                return [fresh]
        return []

    def _pairs_of_small(self, members: np.ndarray, edges: np.ndarray, few: np.ndarray) -> np.ndarray:
        """All the pairs of the buckets marked in `few`."""
        group = np.repeat(np.arange(len(few)), np.diff(edges))
        chosen = few[group]
        members, group = members[chosen], group[chosen]
        found = [np.empty(0, np.int64)]
        for step in range(1, SMALL):
            same = group[step:] == group[:-step]
            if not same.any():
                break
            found.append(members[:-step][same] * self.count + members[step:][same])
        return np.concatenate(found)

    def _likely(self, codes: np.ndarray) -> np.ndarray:
        """(pairs,) bool: do the sketches agree often enough for the threshold?"""
        if self.threshold is None:
            return np.ones(len(codes), bool)
        least = (self.threshold - MARGIN) * PERMUTATIONS
        likely = np.empty(len(codes), bool)
        for start in range(0, len(codes), _CHUNK):
            better, worse = np.divmod(codes[start : start + _CHUNK], self.count)
            agreeing = (self._sketches(better) == self._sketches(worse)).sum(axis=1)
            likely[start : start + _CHUNK] = agreeing >= least
        return likely

    def _sketches(self, places: np.ndarray) -> np.ndarray:
        numbers = self._number[places]
        file = np.searchsorted(self._starts, numbers, side="right") - 1
        found = np.empty((len(numbers), PERMUTATIONS), np.uint8)
        for one in np.unique(file).tolist():
            here = file == one
            found[here] = self.parts[one].sketches[numbers[here] - self._starts[one]]
        return found


class _Band(Sequence[np.ndarray]):
    """One band of all files; each is opened only while it is read."""

    def __init__(self, parts: Sequence[Fingerprints | FingerprintFile], band: int) -> None:
        self.parts, self.band = parts, band

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: Any) -> Any:
        return np.array(self.parts[number].bands[self.band])


def _ordered(places: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The members of each group in order, without those that take no part, and the (groups + 1,) edges."""
    group = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(places))))
    group, places = group[places >= 0], places[places >= 0]
    order = np.lexsort((places, group))
    return places[order], np.searchsorted(group[order], np.arange(len(starts) + 1))


def _within(codes: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """(codes,) bool: which are among the `ordered` ones?"""
    if not len(ordered):
        return np.zeros(len(codes), bool)
    at = np.searchsorted(ordered, codes)
    at[at == len(ordered)] = 0
    return ordered[at] == codes


def _unlike(buckets: list[np.ndarray]) -> list[np.ndarray]:
    """Each bucket once: copies of one document share a bucket in every band."""
    found = {bucket.tobytes(): bucket for bucket in buckets}
    return [found[key] for key in sorted(found)]
