"""From verified pairs to clusters, and to the documents that go.

A document goes only if it was itself compared with a document that stays and found as similar as the threshold asks:
two documents that merely share a neighbour (A ~ B ~ C) both stay. Clusters are for splits: they join A, B and C.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

ROUNDS = 64
"""Rounds over all open documents at once; what a longer chain leaves is decided one by one."""


def components(count: int, pairs: np.ndarray) -> np.ndarray:
    """(count,) int64: for each item the smallest member of its connected component.

    pairs: (pairs, 2) item numbers. Labels sink along the pairs and jump to their label's label until nothing changes
    (Zhang, Azad and Hu, "FastSV", 2020): a logarithmic number of numpy passes, 8 bytes an item.
    """
    parent = np.arange(count)
    first, second = np.asarray(pairs, np.int64).reshape(-1, 2).T
    while len(first):
        low = np.minimum(parent[first], parent[second])
        before = parent.copy()
        for end in (first, second):
            np.minimum.at(parent, before[end], low)
            np.minimum.at(parent, end, low)
        parent = parent[parent]
        if (parent == before).all():
            break
    return parent


def connected(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `count` items, the smallest member of its connected component."""
    listed = np.array(list(pairs), np.int64).reshape(-1, 2)
    found: list[int] = components(count, listed).tolist()
    return found


def keep_best(count: int, better: np.ndarray, worse: np.ndarray) -> np.ndarray:
    """(count,) bool: what stays if the items are taken from 0 (the best) up and what resembles one that stays goes.

    better, worse: (pairs,) ends of the pairs that are similar, better < worse.
    """
    stays = np.ones(count, bool)
    is_open = np.zeros(count, bool)
    is_open[worse] = True
    for _ in range(ROUNDS):
        if not len(worse):
            return stays
        # Who resembles an item that surely stays goes; who then has no open or staying better one left surely stays.
        gone = worse[~is_open[better] & stays[better]]
        stays[gone] = False
        is_open[gone] = False
        left = is_open[worse] & stays[better]
        better, worse = better[left], worse[left]
        waits = np.zeros(count, bool)
        waits[worse] = True
        is_open &= waits
    for place in np.lexsort((better, worse)).tolist():
        if stays[better[place]]:
            stays[worse[place]] = False
    return stays


def reasons(
    stays: np.ndarray, better: np.ndarray, worse: np.ndarray, similarity: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(gone, kept, similarity): for each item that goes, ascending, the most similar (then the best) one that stays."""
    valid = np.flatnonzero(stays[better] & ~stays[worse])
    valid = valid[np.lexsort((better[valid], -similarity[valid], worse[valid]))]
    lead = np.ones(len(valid), bool)
    lead[1:] = worse[valid][1:] != worse[valid][:-1]
    chosen = valid[lead]
    return worse[chosen], better[chosen], similarity[chosen]
