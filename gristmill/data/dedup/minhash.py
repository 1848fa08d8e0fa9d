"""MinHash signatures and locality-sensitive hashing: which pairs of documents are worth a look.

Broder, "On the resemblance and containment of documents" (1997); banding: Leskovec, Rajaraman, Ullman, "Mining of
Massive Datasets", section 3.4. What comes out are candidates, never a verdict.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gristmill.data.dedup.shingles import mix

PERMUTATIONS = 128
MISSED = 1e-3
"""Chance, at most, that a pair exactly at the threshold never becomes a candidate."""
MARGIN = 0.2
"""A pair at the threshold whose signatures agree less than this below it is as rare as exp(-2 * 128 * 0.2**2) = 4e-5
(Hoeffding 1963); so the many chance members of a large bucket cost no exact comparison."""
_MULTIPLIERS = mix(np.arange(PERMUTATIONS, dtype=np.uint64)) | np.uint64(1)


def signature(shingle_set: np.ndarray) -> np.ndarray:
    """(PERMUTATIONS,) uint32: under each permutation, the upper half of the smallest number of a set of shingles."""
    if not len(shingle_set):
        return np.full(PERMUTATIONS, np.iinfo(np.uint32).max, np.uint32)
    smallest = np.full(PERMUTATIONS, np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(shingle_set), 4096):
        part = shingle_set[start : start + 4096]
        np.minimum(smallest, (part[None, :] * _MULTIPLIERS[:, None]).min(axis=1), out=smallest)
    return (smallest >> np.uint64(32)).astype(np.uint32)


def rows_per_band(threshold: float) -> int:
    """The longest band that still misses a pair at the threshold with a chance of at most `MISSED`.

    P(missed) = (1 - threshold**rows)**(PERMUTATIONS // rows).
    """
    rows = 1
    while (1 - threshold ** (rows + 1)) ** (PERMUTATIONS // (rows + 1)) <= MISSED:
        rows += 1
    return rows


def candidate_pairs(signatures: np.ndarray, sizes: np.ndarray, threshold: float) -> np.ndarray:
    """(pairs, 2) int64, first < second, sorted: the documents that agree in a whole band.

    signatures: (documents, PERMUTATIONS); sizes: (documents,) number of shingles. Pairs whose sizes alone forbid the
    threshold (|a| < threshold * |b|) are left out, so are those whose signatures agree in far too few places, and
    documents without shingles.
    """
    rows = rows_per_band(threshold)
    found = [np.empty(0, np.int64)]
    count = len(signatures)
    for band in range(PERMUTATIONS // rows):
        keys = np.zeros(count, np.uint64)
        for column in range(band * rows, (band + 1) * rows):
            keys = mix(keys + signatures[:, column].astype(np.uint64))
        for bucket in _buckets(keys, sizes):
            for first, others in _pairs_within(bucket, sizes, threshold):
                agreeing = (signatures[others] == signatures[first]).mean(axis=1)
                others = others[agreeing >= threshold - MARGIN]
                found.append(np.minimum(first, others) * count + np.maximum(first, others))
        if sum(map(len, found)) > 1 << 22:
            found = [np.unique(np.concatenate(found))]
    codes = np.unique(np.concatenate(found))
    return np.stack((codes // max(count, 1), codes % max(count, 1)), axis=1)


def _buckets(keys: np.ndarray, sizes: np.ndarray) -> Iterator[np.ndarray]:
    """Groups of at least two documents with equal keys, each ordered by size."""
    order = np.lexsort((sizes, keys))
    order = order[sizes[order] > 0]
    edges = np.flatnonzero(np.diff(keys[order])) + 1
    for bucket in np.split(order, edges):
        if len(bucket) > 1:
            yield bucket


def _pairs_within(bucket: np.ndarray, sizes: np.ndarray, threshold: float) -> Iterator[tuple[int, np.ndarray]]:
    """For each member of a bucket (ordered by size) the later ones whose sizes allow the threshold."""
    own = sizes[bucket]
    stops = np.searchsorted(own, own / threshold, side="right")
    for place in range(len(bucket) - 1):
        others = bucket[place + 1 : stops[place]]
        if len(others):
            yield int(bucket[place]), others
