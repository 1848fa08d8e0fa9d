"""Best-fit decreasing: pieces of text in as few rows as possible without cutting any (Ding et al. 2024, "Fewer
truncations improve language modeling", arXiv:2404.10830)."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np

GROUP = 1 << 24
"""Pieces that are packed at once; of more, so many at a time, which costs a few rows that are not full."""


@dataclass(frozen=True)
class Layout:
    """Which pieces lie in which row, one behind the other."""

    pieces: np.ndarray
    """(pieces,): numbers of pieces, row after row."""
    starts: np.ndarray
    """(rows + 1,) int64: where each row begins in `pieces`, and the end."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, number: int) -> np.ndarray:
        """The pieces of a row, ascending."""
        return self.pieces[self.starts[number]:self.starts[number + 1]]


def best_fit(sizes: np.ndarray, room: int, group: int = GROUP) -> Layout:
    """Each piece, the largest first and of equal ones the first, goes into the fullest row that still has room for it.

    sizes: (pieces,) whole numbers from 1 to `room`. Rows come in the order of their first pieces. O(pieces + room^2) at
    worst: all pieces of a size are laid into all rows with equal room left at once. Memory: at most 60 bytes a piece of
    one group, and 4 bytes a piece and 8 a row for the result (8 bytes a piece from 2^32 pieces on).
    """
    sizes = np.asarray(sizes)
    if len(sizes) and not 1 <= int(sizes.min()) <= int(sizes.max()) <= room:
        raise ValueError(f"sizes: from 1 to {room}")
    kind = np.uint32 if len(sizes) < 1 << 32 else np.int64
    pieces, starts, total = np.empty(len(sizes), dtype=kind), [np.zeros(1, dtype=np.int64)], 0
    for begin in range(0, len(sizes), group):
        own, ends = _grouped(*_rows(sizes[begin:begin + group], room))
        pieces[begin:begin + len(own)] = own + begin
        starts.append(ends + begin)
        total += len(ends)
    return Layout(pieces, np.concatenate(starts))


def _rows(sizes: np.ndarray, room: int) -> tuple[np.ndarray, int]:
    """The row of each piece, (pieces,) int32, and how many rows there are."""
    order = stable_order(room - sizes)
    row = np.empty(len(sizes), dtype=np.int32)
    counts = np.bincount(sizes, minlength=room + 1)
    # Rows by the room that they have left: stacks of their numbers, in arrays; and the rooms that have any.
    stacks: dict[int, list[np.ndarray]] = {}
    left: list[int] = []
    rows = at = 0

    def push(place: int, numbers: np.ndarray) -> None:
        if place and len(numbers):
            if place not in stacks:
                stacks[place] = []
                bisect.insort(left, place)
            stacks[place].append(numbers)

    def pop(place: int, most: int) -> np.ndarray:
        stack, taken, found = stacks[place], [], 0
        while stack and found < most:
            last = stack.pop()
            if len(last) > most - found:
                stack.append(last[:len(last) - (most - found)])
                last = last[len(last) - (most - found):]
            taken.append(last[::-1])
            found += len(last)
        if not stack:
            del stacks[place]
            left.remove(place)
        return np.concatenate(taken)

    for size in np.flatnonzero(counts)[::-1].tolist():
        waiting = int(counts[size])
        while waiting:
            place = bisect.bisect_left(left, size)
            free = left[place] if place < len(left) else room
            each = free // size
            wanted = -(-waiting // each)
            if place < len(left):
                numbers = pop(free, wanted)
            else:
                numbers = np.arange(rows, rows + wanted, dtype=np.int32)
                rows += wanted
            laid = min(waiting, len(numbers) * each)
            row[order[at:at + laid]] = np.repeat(numbers, each)[:laid]
            whole = laid // each
            push(free - each * size, numbers[:whole])
            push(free - laid % each * size, numbers[whole:])
            waiting, at = waiting - laid, at + laid
    return row, rows


def _grouped(row: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Pieces row after row, and where each row ends; rows in the order of their first pieces."""
    numbers = np.arange(len(row))
    first = np.empty(rows, dtype=np.int64)
    first[row[::-1]] = numbers[::-1]  # the last write, the smallest number, stays
    begins = np.zeros(len(row), dtype=bool)
    begins[first] = True
    rank = (np.cumsum(begins, dtype=np.int32) - 1)[first]
    row = rank[row]
    return stable_order(row), np.cumsum(np.bincount(row, minlength=rows))


def stable_order(keys: np.ndarray) -> np.ndarray:
    """np.argsort(keys, kind="stable") for keys from 0 to 2^32 - 1, in linear time: by their lower 16 bits, then by the
    upper ones."""
    keys = keys.astype(np.uint32)
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    if len(keys) and int(keys.max()) >> 16:
        order = order[np.argsort((keys[order] >> 16).astype(np.uint16), kind="stable")]
    return order
