"""Who sees whom: a pattern over positions, and what the batch adds to it (documents, prefixes)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Runs = tuple[tuple[int, int], ...]
"""Stretches [low, high) of key positions, in order."""

GRAIN = 64
"""Runs of keys begin and end at multiples of this."""


@dataclass(frozen=True)
class Pattern:
    """Which keys a query may see by their positions alone; a property of a layer, not of a batch.

    Without window, stride and global_tokens: all of them. Otherwise those that at least one of the three lets through.
    """

    causal: bool = True
    """Only keys at or before the query, whatever the rest says."""
    window: int | None = None
    """Local: keys less than this many places away, the query's own included."""
    dilation: int = 1
    """Of the window: its places lie this far apart, so that it reaches so much farther (arXiv:2004.05150, 3.1)."""
    stride: int | None = None
    """Keys whose distance is a multiple of this (strided attention, arXiv:1904.10509, 4.3)."""
    global_tokens: int = 0
    """The first so many places see everything and are seen by everything (arXiv:2004.05150, 3.1)."""
    block: int = 1
    """The four numbers above count blocks of this many positions (block-sparse, arXiv:2007.14062)."""

    @property
    def plain(self) -> bool:
        """Whether only `causal` says anything."""
        return self.window is None and self.stride is None and self.global_tokens == 0

    def visible(self, rows: Tensor, columns: Tensor) -> Tensor:
        """rows (..., queries) and columns (keys,) are positions -> (..., queries, keys) of bool."""
        return self.sees(rows[..., None], columns)

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether the query at one position sees the key at another, element by element; both of any shape that
        broadcasts to the other's. (Axes are the caller's: what torch compiles into a kernel may not have any.)"""
        ahead = key - query
        seen = ahead <= 0 if self.causal else torch.ones_like(ahead, dtype=torch.bool)
        if self.plain:
            return seen
        if self.block > 1:
            query, key = query // self.block, key // self.block
            ahead = key - query
        distance, chosen = ahead.abs(), torch.zeros_like(seen)
        if self.window is not None:
            near = distance < self.window * self.dilation
            chosen = chosen | (near & (distance % self.dilation == 0) if self.dilation > 1 else near)
        if self.stride is not None:
            chosen = chosen | (distance % self.stride == 0)
        if self.global_tokens:
            chosen = chosen | (key < self.global_tokens) | (query < self.global_tokens)
        return seen & chosen

    def reach(self, start: int, stop: int, keys: int) -> Runs:
        """The stretches of [0, keys) outside of which the queries [start, stop) see nothing."""
        last = min(stop, keys) if self.causal else keys
        if self.plain or last <= 0:
            return ((0, last if last > 0 else keys),)
        runs: list[tuple[int, int]] = []
        for low in range(0, last, GRAIN):
            high = min(low + GRAIN, last)
            if self._meets(start, stop, low, high):
                if runs and runs[-1][1] == low:
                    low = runs.pop()[0]
                runs.append((low, high))
        return tuple(runs) or ((0, keys),)

    def _meets(self, start: int, stop: int, low: int, high: int) -> bool:
        """Whether a query in [start, stop) might see a key in [low, high)."""
        first, last = start // self.block, (stop - 1) // self.block
        lowest, highest = low // self.block, (high - 1) // self.block
        if min(first, lowest) < self.global_tokens:
            return True
        nearest = max(0, first - highest, lowest - last)
        farthest = max(last - lowest, highest - first)
        if self.window is not None:
            multiple = -(-nearest // self.dilation) * self.dilation
            if multiple <= farthest and multiple < self.window * self.dilation:
                return True
        return self.stride is not None and -(-nearest // self.stride) * self.stride <= farthest


CAUSAL = Pattern()
FULL = Pattern(causal=False)


def allowed(
    pattern: Pattern,
    start: int,
    stop: int,
    keys: int | Runs,
    device: torch.device,
    document_ids: Tensor | None = None,
    key_document_ids: Tensor | None = None,
    prefix: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """Which keys the queries [start, stop) may see: (batch or 1, 1, stop - start, keys) of bool.

    keys: how many, or which stretches of them. document_ids (batch, time): a query sees keys of its own document only;
    column 0 belongs to the query at `first`.
    key_document_ids (batch, keys): the documents of the keys where these are another sequence (cross-attention).
    prefix (batch, keys) of bool: tokens that everybody in their document may see, whatever the pattern says (prefix LM,
    arXiv:1910.10683).
    """
    runs = ((0, keys),) if isinstance(keys, int) else keys
    columns = torch.cat([torch.arange(*run, device=device) for run in runs]) if len(runs) > 1 else torch.arange(
        *runs[0], device=device)
    seen = pattern.visible(torch.arange(start, stop, device=device), columns)[None]
    if prefix is not None:
        seen = seen | cut(prefix[:, None], runs)
    if document_ids is not None:
        of_keys = document_ids if key_document_ids is None else key_document_ids
        seen = seen & (document_ids[:, start - first : stop - first, None] == cut(of_keys[:, None], runs))
    return seen[:, None]


def cut(x: Tensor, runs: Runs, dim: int = -1) -> Tensor:
    """The stretches `runs` of x along `dim`, one after the other."""
    parts = [x.narrow(dim, low, high - low) for low, high in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)
