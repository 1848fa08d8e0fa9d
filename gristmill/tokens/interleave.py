"""Which component each place of a mixed stream belongs to, in shares that are kept exactly rather than on average.

Places come in blocks. After whole blocks each of K components has had its share of all rows so far, rounded up or down,
by earliest deadlines (the chairman assignment problem, Tijdeman 1980); within a block its rows are spread evenly. Any
place is found without walking through those before it.
"""

from __future__ import annotations

import heapq
import threading
from collections import OrderedDict

import numpy as np

UNIT = 1 << 24
"""Shares are whole numbers of this part of a row: 6e-8."""
BLOCK = 1 << 16
"""Places in a block where the shares never change. Shares of 1 in so many rows or more are multiples of it."""
BLOCKS = 4096
"""Most blocks of a schedule, whose shares change from block to block."""
KEPT = 3
"""Blocks that stay in memory."""
NEVER = np.iinfo(np.int64).max


def fixed_shares(shares: np.ndarray) -> np.ndarray:
    """Shares (components,) that never change, for blocks of BLOCK places: not negative and not all 0.

    Every share that gives at least a row a block is rounded to whole rows, so that all blocks are alike; the largest
    takes what this leaves.
    """
    exact = np.asarray(shares, dtype=np.float64)
    exact = exact / exact.sum() * BLOCK
    rows = np.where(exact >= 1, np.rint(exact) * (UNIT // BLOCK), np.rint(exact * (UNIT // BLOCK))).astype(np.int64)
    rows[exact.argmax()] += UNIT - rows.sum()
    return rows


def schedule_shares(cumulative: np.ndarray, block: int) -> np.ndarray:
    """Shares (blocks, components) from the rows (blocks + 1, components) that each component is to have had before each
    block of so many places: never falling, and `block` more in each row than in the one before."""
    whole = np.maximum(np.floor(np.diff(cumulative, axis=0) / block * UNIT), 0).astype(np.int64)
    whole[np.arange(len(whole)), whole.argmax(axis=1)] += UNIT - whole.sum(axis=1)
    return whole


def block_size(places: int, components: int) -> int:
    """Places in a block of a schedule over so many, with tables of at most 8 MB."""
    return max(1, -(-places // min(BLOCKS, max(64, (1 << 20) // components))))


class Interleaving:
    """place -> (component, how many rows of that component came before): a pure function, without an end.

    After whole blocks component i has had floor or ceil of the sum of its shares, and within a block it is less than a
    row away from an even spread of its rows there. With `fixed_shares` that give every component whole rows a block,
    each prefix of the stream is therefore less than one row away from the shares, for every component; else less than
    two. Memory: 16 bytes x components x blocks looked at, and 16 bytes x places of three blocks.
    """

    def __init__(self, shares: np.ndarray, block: int = BLOCK) -> None:
        """shares: (components,), or (blocks, components) of which the last row holds from there on; whole numbers that
        sum to UNIT. block: its places."""
        self.shares = np.atleast_2d(np.asarray(shares, dtype=np.int64))
        self.block, self.components = block, self.shares.shape[1]
        if (self.shares < 0).any() or (self.shares.sum(axis=1) != UNIT).any():
            raise ValueError("shares: whole numbers that sum to UNIT in every block")
        self._due = np.zeros((len(self.shares) + 1, self.components), dtype=np.int64)
        np.cumsum(self.shares * block, axis=0, out=self._due[1:])
        self._counts = np.zeros((1, self.components), dtype=np.int64)
        self._known = 1
        self._spread: OrderedDict[bytes, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(components, draws), both int64 (places,): whose row comes at each place, and its number among theirs."""
        places = np.asarray(places, dtype=np.int64)
        if len(places) and places.min() < 0:
            raise IndexError(f"place {places.min()}")
        components, draws = np.empty_like(places), np.empty_like(places)
        blocks = places // self.block
        for number in np.unique(blocks).tolist():
            here = blocks == number
            within = places[here] - number * self.block
            start, own, before = self._made(number)
            components[here] = own[within]
            draws[here] = start[own[within]] + before[within]
        return components, draws

    def counts(self, places: int) -> np.ndarray:
        """Rows of each component among the first so many places, int64 (components,)."""
        number, within = divmod(places, self.block)
        if not within:
            with self._lock:
                return self._boundary(number).copy()
        start, own, _ = self._made(number)
        return start + np.bincount(own[:within], minlength=self.components)

    def _made(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of each component before a block; the component of each of its places; and the rows of that component
        before the place within the block. Blocks of equal counts are alike."""
        with self._lock:
            stop = self._boundary(number + 1)
            start = self._boundary(number)
            sizes = stop - start
            key = sizes.tobytes()
            if key not in self._spread:
                self._spread[key] = _spread(sizes)
                while len(self._spread) > KEPT:
                    self._spread.popitem(last=False)
            self._spread.move_to_end(key)
            return (start, *self._spread[key])

    def _owed(self, number: int) -> np.ndarray:
        """Share of all rows before block `number`, in units."""
        beyond = number - len(self.shares)
        return self._due[number] if beyond <= 0 else self._due[-1] + beyond * self.block * self.shares[-1]

    def _boundary(self, number: int) -> np.ndarray:
        """Rows of each component before block `number`; every boundary follows from the one before it.

        Those that are rounded up are those whose next row is due earliest. Among them are then all that had been
        rounded up before and are not due yet, so that no count ever has to fall.
        """
        if number >= len(self._counts):
            grown = np.empty((max(number + 1, 2 * len(self._counts)), self.components), dtype=np.int64)
            grown[:self._known] = self._counts[:self._known]
            self._counts = grown
        while self._known <= number:
            now = self._known
            owed = self._owed(now)
            floor, rest = owed // UNIT, owed % UNIT
            counts = np.maximum(floor, self._counts[now - 1])
            free = now * self.block - int(counts.sum())
            if free > 0:
                open_ = np.flatnonzero((rest > 0) & (counts == floor))
                if len(open_) > free:
                    due = self._due_at(now, open_, floor[open_] + 1)
                    open_ = open_[np.lexsort((open_, due))[:free]]
                counts[open_] += 1
            self._counts[now] = counts
            self._known += 1
        return self._counts[number]

    def _due_at(self, number: int, components: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """After how many places each component's share reaches so many rows, seen from block `number` on."""
        wanted, last = rows * UNIT, len(self.shares)
        low = np.full(len(components), min(number, last))
        high = np.full(len(components), last)
        while (high - low > 1).any():  # the last block that begins before: bisection for all of them at once
            middle = (low + high) // 2
            before = self._due[middle, components] < wanted
            low, high = np.where(before, middle, low), np.where(before, high, middle)
        low = np.where(self._due[high, components] < wanted, high, low)
        block = np.maximum(low, number)
        share = self.shares[np.minimum(block, last - 1), components]
        owed = self._due[low, components] + (block - low) * self.block * share
        return np.where(share > 0, block * self.block - (owed - wanted) // np.maximum(share, 1), NEVER)


def _spread(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(component, rows of it before) of each place of a block with so many rows of each: row k of n lies between k / n
    and (k + 1) / n of the block, the earliest deadline first; there always is such an order."""
    block = int(sizes.sum())
    component = np.repeat(np.arange(len(sizes)), sizes)
    own = np.repeat(sizes, sizes)
    row = np.arange(block) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    release, deadline = row * block // np.maximum(own, 1), -(-(row + 1) * block // np.maximum(own, 1))
    order = np.lexsort((component, deadline, release))
    jobs = list(zip(release[order].tolist(), deadline[order].tolist(), component[order].tolist(), strict=True))
    waiting: list[tuple[int, int]] = []
    filled, at = [0] * block, 0
    for place in range(block):
        while at < block and jobs[at][0] <= place:
            heapq.heappush(waiting, jobs[at][1:])
            at += 1
        filled[place] = heapq.heappop(waiting)[1]
    result = np.array(filled, dtype=np.int64)
    before = np.empty(block, dtype=np.int64)
    before[np.argsort(result, kind="stable")] = row
    return result, before
