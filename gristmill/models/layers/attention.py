"""Causal attention within documents: one function, three backends.

A query sees the keys at or before its own position that belong to its own document. `reference` is the slow,
obvious form that the tests compare with; `blocked` is the fast one on a CPU; `sdpa` is torch's own.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_attention(q: Tensor, k: Tensor, v: Tensor, document_ids: Tensor | None = None) -> Tensor:
    """Attention over a whole sequence, by the backend that is fastest here.

    q (batch, heads, time, head_dim); k, v (batch, kv_heads, time, head_dim);
    document_ids (batch, time) or None for one document a row. Returns (batch, heads, time, head_dim).
    """
    if q.device.type == "cpu" and q.shape[-2] > 1:
        return blocked(q, k, v, document_ids)
    return sdpa(q, k, v, document_ids)


def allowed(document_ids: Tensor, start: int, stop: int) -> Tensor:
    """Which keys [0, stop) the queries [start, stop) may see: (batch, 1, stop - start, stop) of bool."""
    rows = torch.arange(start, stop, device=document_ids.device)
    columns = torch.arange(stop, device=document_ids.device)
    causal = columns <= rows[:, None]
    same = document_ids[:, start:stop, None] == document_ids[:, None, :stop]
    return (causal & same)[:, None]


def reference(q: Tensor, k: Tensor, v: Tensor, document_ids: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / sqrt(head_dim)) v with the mask written out (Vaswani et al. 2017, eq. 1)."""
    k, v = _share(q, k), _share(q, v)
    if document_ids is None:
        document_ids = torch.zeros(q.shape[0], q.shape[2], dtype=torch.int32, device=q.device)
    scores = (q @ k.transpose(-2, -1)).float() / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~allowed(document_ids, 0, q.shape[2]), -math.inf)
    return scores.softmax(-1).to(v.dtype) @ v


def sdpa(q: Tensor, k: Tensor, v: Tensor, document_ids: Tensor | None = None) -> Tensor:
    """torch's scaled_dot_product_attention, with a mask only where documents need one."""
    mask = None if document_ids is None else allowed(document_ids, 0, q.shape[2])
    shared = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=shared)


def blocked(q: Tensor, k: Tensor, v: Tensor, document_ids: Tensor | None = None, block: int = 128) -> Tensor:
    """Query blocks, each against its own prefix of keys: the upper triangle of blocks is never computed.

    On CPUs batched matmuls in bf16 run several times faster than torch's flash kernel
    (docs/decisions.md, "attention on a CPU"). The scale is folded into q.
    """
    k, v = _share(q, k), _share(q, v)
    time = q.shape[2]
    if document_ids is None:
        document_ids = torch.zeros(q.shape[0], time, dtype=torch.int32, device=q.device)
    q = q * (1.0 / math.sqrt(q.shape[-1]))
    keys = k.transpose(-2, -1)
    parts = []
    for start in range(0, time, block):
        stop = min(start + block, time)
        scores = (q[:, :, start:stop] @ keys[:, :, :, :stop]).float()
        scores = scores.masked_fill(~allowed(document_ids[:, :stop], start, stop), -math.inf)
        parts.append(scores.softmax(-1).to(v.dtype) @ v[:, :, :stop])
    return torch.cat(parts, dim=2)


def _share(q: Tensor, x: Tensor) -> Tensor:
    """Repeat key/value heads so that every query head has its own."""
    groups = q.shape[1] // x.shape[1]
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)
