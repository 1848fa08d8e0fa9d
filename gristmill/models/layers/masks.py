"""Who sees whom: a pattern over positions, and what the batch adds to it (documents, prefixes)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """Which keys a query may see by their positions alone; a property of a layer, not of a batch."""

    causal: bool = True
    """Only keys at or before the query."""
    window: int | None = None
    """Only keys less than this many positions away, the query's own included; None for all."""

    def visible(self, rows: Tensor, columns: Tensor) -> Tensor:
        """rows (queries,) and columns (keys,) are positions -> (queries, keys) of bool."""
        ahead = columns[None, :] - rows[:, None]
        seen = ahead <= 0 if self.causal else torch.ones_like(ahead, dtype=torch.bool)
        if self.window is not None:
            seen = seen & (ahead.abs() < self.window)
        return seen


CAUSAL = Pattern()
FULL = Pattern(causal=False)


def allowed(
    pattern: Pattern,
    start: int,
    stop: int,
    keys: int,
    device: torch.device,
    document_ids: Tensor | None = None,
    key_document_ids: Tensor | None = None,
    prefix: Tensor | None = None,
) -> Tensor:
    """Which of the keys [0, keys) the queries [start, stop) may see: (batch or 1, 1, stop - start, keys) of bool.

    document_ids (batch, time): a query sees keys of its own document only. key_document_ids (batch, keys): the
    documents of the keys where these are another sequence (cross-attention). prefix (batch, keys) of bool: tokens that
    everybody in their document may see, whatever the pattern says (prefix LM, arXiv:1910.10683).
    """
    seen = pattern.visible(torch.arange(start, stop, device=device), torch.arange(keys, device=device))[None]
    if prefix is not None:
        seen = seen | prefix[:, None, :keys]
    if document_ids is not None:
        of_keys = document_ids if key_document_ids is None else key_document_ids
        seen = seen & (document_ids[:, start:stop, None] == of_keys[:, None, :keys])
    return seen[:, None]
