"""Equal numbers in columns that need not fit into memory.

The column is read in passes, each taking the numbers of one range, and each range is sorted in memory. Against sorted
runs that are merged this writes nothing and bounds the memory by one constant; a pass costs one sequential reading.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

MEMORY = 2 << 30
"""Bytes that grouping may take, unless told otherwise."""
_BYTES = 48
"""Bytes that sorting takes for each number of a range."""


def equal_groups(
    parts: Sequence[np.ndarray], *, memory: int = MEMORY, skip: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Groups of at least two equal numbers, in the order of the numbers.

    parts: one-dimensional uint64 arrays (or memory maps), one after the other: their items are numbered 0, 1, ...
    memory: bytes that may be used. skip: a number that makes no group.
    Yields (items, starts): the items (int64) of all groups of a range, those of a group in ascending order, and the
    index in `items` where each group starts.
    """
    total = sum(len(part) for part in parts)
    passes = 1 << math.ceil(math.log2(max(1, total * _BYTES / memory)))
    shift = np.uint64(64 - passes.bit_length() + 1)
    for number in range(passes):
        items, keys, start = [np.empty(0, np.int64)], [np.empty(0, np.uint64)], 0
        for column in parts:
            here = np.arange(len(column)) if passes == 1 else np.flatnonzero(column >> shift == number)
            keys.append(column[here])
            items.append(here + start)
            start += len(column)
        found = _groups(np.concatenate(keys), np.concatenate(items), skip)
        if len(found[0]):
            yield found


def _groups(keys: np.ndarray, items: np.ndarray, skip: int | None) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(keys)
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    if skip is not None:
        same &= ordered[1:] != np.uint64(skip)
    in_group = np.zeros(len(keys), bool)
    in_group[1:] = same
    in_group[:-1] |= same
    members, values = items[order[in_group]], ordered[in_group]
    members = members[np.lexsort((members, values))]
    leads = np.ones(len(values), bool)
    leads[1:] = values[1:] != values[:-1]
    return members, np.flatnonzero(leads)
