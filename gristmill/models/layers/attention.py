"""Attention over a whole sequence: one function, four backends.

What a query may see is a `Pattern` over positions, narrowed by documents and widened by prefixes (`masks.py`).
`reference` is the slow, obvious form that the tests compare with; `blocked` is the fast one on a CPU; `sdpa` is
torch's own, for everything else; `flex` is torch's compiled one for long rows of which a mask hides most.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gristmill.models.layers.cpu_attention import cpu_attention, takes
from gristmill.models.layers.flex import flex, pays_flex
from gristmill.models.layers.masks import CAUSAL, Pattern, allowed, cut


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    document_ids: Tensor | None = None,
    *,
    pattern: Pattern = CAUSAL,
    key_document_ids: Tensor | None = None,
    prefix: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    first: int = 0,
    mask: Any = None,
) -> Tensor:
    """softmax(q kᵀ * scale + bias) v over what each query may see, by the backend that is fastest here.

    q (batch, heads, time, head_dim); k, v (batch, kv_heads, keys, head_dim); document_ids, key_document_ids and prefix:
    see `masks.allowed`; bias (batch or 1, heads, time, keys) is added to the scores; scale: default 1/sqrt(head_dim);
    dropout: share of the weights that is dropped; first: position of the first query in the row of keys, where the
    queries are a stretch of a longer row (document_ids are then theirs, and the keys have their own); mask: of pattern,
    documents and prefix, by `flex.layer_masks`. Returns (batch, heads, time, head_dim).
    """
    backend: Callable[..., Tensor] = sdpa
    if q.device.type == "cpu" and q.shape[-2] > 1:
        of_itself = key_document_ids is None and prefix is None and bias is None and not dropout and not first
        if of_itself and takes(q, k, pattern):
            return cpu_attention(q, k, v, document_ids, pattern, _scale(q, scale))
        backend = blocked
    elif bias is None and not dropout and (
            mask is not None or pays_flex(q, k.shape[-2], pattern, document_ids is not None)):
        backend = partial(flex, mask=mask)
    return backend(q, k, v, document_ids, pattern=pattern, key_document_ids=key_document_ids, prefix=prefix, bias=bias,
                   scale=scale, dropout=dropout, first=first)


def reference(
    q: Tensor, k: Tensor, v: Tensor, document_ids: Tensor | None = None, *, pattern: Pattern = CAUSAL,
    key_document_ids: Tensor | None = None, prefix: Tensor | None = None, bias: Tensor | None = None,
    scale: float | None = None, dropout: float = 0.0, first: int = 0,
) -> Tensor:
    """The formula with the whole mask written out (Vaswani et al. 2017, eq. 1)."""
    k, v = _share(q, k), _share(q, v)
    scores = (q @ k.transpose(-2, -1)).float() * _scale(q, scale)
    if bias is not None:
        scores = scores + bias
    seen = allowed(pattern, first, first + q.shape[2], k.shape[2], q.device, document_ids, key_document_ids, prefix,
                   first)
    weights = _softmax(scores, seen)
    return F.dropout(weights, dropout).to(v.dtype) @ v


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, document_ids: Tensor | None = None, *, pattern: Pattern = CAUSAL,
    key_document_ids: Tensor | None = None, prefix: Tensor | None = None, bias: Tensor | None = None,
    scale: float | None = None, dropout: float = 0.0, first: int = 0,
) -> Tensor:
    """torch's scaled_dot_product_attention, with a mask only where one is needed."""
    shared = q.shape[1] != k.shape[1]
    plain = document_ids is None and prefix is None and bias is None and pattern.plain and (
        not pattern.causal or first == 0)
    if plain:
        return F.scaled_dot_product_attention(q, k, v, is_causal=pattern.causal, scale=scale, dropout_p=dropout,
                                              enable_gqa=shared)
    mask = allowed(pattern, first, first + q.shape[2], k.shape[2], q.device, document_ids, key_document_ids, prefix,
                   first)
    if bias is not None:
        mask = bias.to(q.dtype).masked_fill(~mask, torch.finfo(q.dtype).min)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, dropout_p=dropout, enable_gqa=shared)


def blocked(
    q: Tensor, k: Tensor, v: Tensor, document_ids: Tensor | None = None, *, pattern: Pattern = CAUSAL,
    key_document_ids: Tensor | None = None, prefix: Tensor | None = None, bias: Tensor | None = None,
    scale: float | None = None, dropout: float = 0.0, first: int = 0,
    block: int = 128,
) -> Tensor:
    """Query blocks, each against the keys that it can reach: what lies ahead of it, or outside of windows and sparse
    blocks, is never computed.

    On CPUs batched matmuls in bf16 run several times faster than torch's flash kernel
    (docs/decisions.md, "attention on a CPU"). The scale is folded into q.
    """
    k, v = _share(q, k), _share(q, v)
    time, all_keys = q.shape[2], k.shape[2]
    q = q * _scale(q, scale)
    keys = k.transpose(-2, -1)
    parts = []
    for start in range(0, time, block):
        stop = min(start + block, time)
        # A prefix may lie anywhere; documents only narrow what the pattern allows.
        runs = pattern.reach(first + start, first + stop, all_keys) if prefix is None else ((0, all_keys),)
        scores = (q[:, :, start:stop] @ cut(keys, runs)).float()
        if bias is not None:
            scores = scores + cut(bias[:, :, start:stop], runs)
        seen = allowed(pattern, first + start, first + stop, runs, q.device, document_ids, key_document_ids, prefix,
                       first)
        weights = _softmax(scores, seen).to(v.dtype)
        parts.append((F.dropout(weights, dropout) if dropout else weights) @ cut(v, runs, dim=2))
    return torch.cat(parts, dim=2)


def _softmax(scores: Tensor, seen: Tensor) -> Tensor:
    """Softmax over what is seen. A finite mask: a row that sees nothing (padding) gets an average, never NaN."""
    return scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)


def _scale(q: Tensor, scale: float | None) -> float:
    return 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale


def _share(q: Tensor, x: Tensor) -> Tensor:
    """Repeat key/value heads so that every query head has its own."""
    groups = q.shape[1] // x.shape[1]
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)
