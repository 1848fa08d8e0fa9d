"""Attention in bf16 on CPUs with AVX512-BF16: scores and weights of a block of queries and keys never leave the first
cache, and the weights are computed again for the gradients (cpu_attention.cpp; docs/decisions.md, "Attention on a
CPU").

Two operators of torch, so that compiled blocks, checkpointing and fake tensors know them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gristmill.core import native
from gristmill.models.layers.masks import Pattern

SOURCE = Path(__file__).with_suffix(".cpp")
LONGEST = 2**24
"""Of a row: positions are 32 bits wide."""


def ready() -> bool:
    """Whether this machine can run it; compiles it at the first call."""
    return native.library(SOURCE) is not None


# All that torch.compiler.assume_constant_result does (2.11 to 2.13), without its import of torch._dynamo, which takes
# as long as that of torch.
ready._dynamo_marked_constant = True  # type: ignore[attr-defined]


def takes(q: Tensor, k: Tensor, pattern: Pattern) -> bool:
    """Whether the kernel computes this: rows that attend to themselves, in bf16 (or about to be cast to it), with heads
    of a multiple of 32 channels; all keys, those before, or a window of them."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else q.dtype
    simple = (pattern.stride is None and not pattern.global_tokens and pattern.block == 1
              and (pattern.window is None or pattern.dilation == 1))
    return (simple and dtype == torch.bfloat16 and q.shape[-1] % 32 == 0 and q.shape[-1] <= 256
            and 0 < q.shape[2] == k.shape[2] < LONGEST and q.shape[0] > 0 and ready())


def cpu_attention(q: Tensor, k: Tensor, v: Tensor, document_ids: Tensor | None, pattern: Pattern,
                  scale: float) -> Tensor:
    """As `attention`, of what `takes` allows; in bf16, sums in fp32."""
    q, k, v = (x.to(torch.bfloat16) for x in (q, k, v))
    if document_ids is not None:
        document_ids = document_ids.to(torch.int32)
    return _forward(q, k, v, document_ids, pattern.causal, pattern.window or 0, scale)[0]


@torch.library.custom_op(
    "gristmill::cpu_attention", mutates_args=(), device_types="cpu",
    schema="(Tensor q, Tensor k, Tensor v, Tensor? documents, bool causal, int window, float scale)"
           " -> (Tensor, Tensor)")
def _forward(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None, causal: bool, window: int,
             scale: float) -> tuple[Tensor, Tensor]:
    """The mixed values (batch, heads, time, head_dim) and, base 2, the logarithms of the softmax's denominators
    (batch, heads, time)."""
    q, k, v = map(_rows, (q, k, v))
    out, logs = _forward_fake(q, k, v, documents, causal, window, scale)
    _call("attention_forward", (q, k, v, out), (q, k, v, out, logs), k.shape[1], documents, causal, window, scale)
    return out, logs


@_forward.register_fake
def _forward_fake(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None, causal: bool, window: int,
                  scale: float) -> tuple[Tensor, Tensor]:
    return _like(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op(
    "gristmill::cpu_attention_backward", mutates_args=(), device_types="cpu",
    schema="(Tensor slope, Tensor q, Tensor k, Tensor v, Tensor out, Tensor logs, Tensor? documents, bool causal,"
           " int window, float scale) -> (Tensor, Tensor, Tensor)")
def _backward(slope: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logs: Tensor, documents: Tensor | None,
              causal: bool, window: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; slope (batch, heads, time, head_dim) is that of the mixed values."""
    slope, q, k, v, out = map(_rows, (slope, q, k, v, out))
    found = _like(q), _like(k), _like(v)
    _call("attention_backward", (q, k, v, out, slope, *found), (q, k, v, out, logs.contiguous(), slope, *found),
          k.shape[1], documents, causal, window, scale)
    return found


@_backward.register_fake
def _backward_fake(slope: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logs: Tensor,
                   documents: Tensor | None, causal: bool, window: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    return _like(q), _like(k), _like(v)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, documents, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, *output, documents)


def _gradients(ctx: Any, slope: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, out, logs, documents = ctx.saved_tensors
    found = _backward(slope.to(q.dtype), q, k, v, out, logs, documents, *ctx.settings)
    return *found, None, None, None, None


_forward.register_autograd(_gradients, setup_context=_keep)


def _like(x: Tensor) -> Tensor:
    """Room for a tensor of x's shape whose rows lie as the products before and behind want them: time before heads."""
    batch, heads, time, size = x.shape
    return x.new_empty(batch, time, heads, size).transpose(1, 2)


def _rows(x: Tensor) -> Tensor:
    """Channels side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _call(name: str, laid_out: tuple[Tensor, ...], tensors: tuple[Tensor, ...], kv_heads: int,
          documents: Tensor | None, causal: bool, window: int, scale: float) -> None:
    batch, heads, time, size = tensors[0].shape
    strides = tuple(step for tensor in laid_out for step in tensor.stride()[:3])
    native.call(SOURCE, name, *tensors, (batch, heads, kv_heads, time, size), strides,
                None if documents is None else documents.contiguous(), causal, window, scale)
