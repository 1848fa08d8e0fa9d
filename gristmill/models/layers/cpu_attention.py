"""Attention in bf16 on CPUs with AVX512-BF16: scores and weights of a block of queries and keys never leave the first
cache, and the weights are computed again for the gradients (cpu_attention.cpp; docs/decisions.md, "Attention on a
CPU").

Operators of torch, so that compiled blocks, checkpointing and fake tensors know them: two for queries, keys and values
apart, and two for all of them side by side as one product gave them, which also turn queries and keys by their
positions. Nothing is then written between the two products of a layer but what attention gives.
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
    return q.shape[2] == k.shape[2] and _fits(q, q.shape[0], q.shape[2], q.shape[3], pattern)


def takes_joined(joined: Tensor, head_dim: int, pattern: Pattern) -> bool:
    """As `takes`, of queries, keys and values side by side: joined (batch, time, (heads + 2 kv_heads) head_dim)."""
    return joined.device.type == "cpu" and _fits(joined, joined.shape[0], joined.shape[1], head_dim, pattern)


def _fits(x: Tensor, batch: int, time: int, size: int, pattern: Pattern) -> bool:
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    simple = (pattern.stride is None and not pattern.global_tokens and pattern.block == 1
              and (pattern.window is None or pattern.dilation == 1))
    return (simple and dtype == torch.bfloat16 and size % 32 == 0 and size <= 256 and 0 < time < LONGEST and batch > 0
            and ready())


def cpu_attention(q: Tensor, k: Tensor, v: Tensor, document_ids: Tensor | None, pattern: Pattern,
                  scale: float) -> Tensor:
    """As `attention`, of what `takes` allows; in bf16, sums in fp32."""
    q, k, v = (x.to(torch.bfloat16) for x in (q, k, v))
    return _forward(q, k, v, _narrow(document_ids), pattern.causal, pattern.window or 0, scale)[0]


def joined_attention(joined: Tensor, heads: int, kv_heads: int, angles: tuple[Tensor, Tensor] | None,
                     document_ids: Tensor | None, pattern: Pattern) -> Tensor:
    """Attention of what `takes_joined` allows, (batch, time, heads head_dim) in bf16; queries and keys are turned by
    `angles` as by `rotary.rotate`, in fp32: cosines and sines, (batch or 1, 1, time, head_dim)."""
    cos, sin = (None, None) if angles is None else (part.float() for part in angles)
    scale = (joined.shape[-1] // (heads + 2 * kv_heads)) ** -0.5
    return _joined_forward(joined.to(torch.bfloat16), cos, sin, _narrow(document_ids), heads, kv_heads, pattern.causal,
                           pattern.window or 0, scale)[0]


def _narrow(document_ids: Tensor | None) -> Tensor | None:
    return None if document_ids is None else document_ids.to(torch.int32)


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
    _call("attention_forward", (q, k, v, out), (q, k, v, out, logs), None, None, documents, causal, window, scale)
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
          None, None, documents, causal, window, scale)
    return found


@_backward.register_fake
def _backward_fake(slope: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logs: Tensor,
                   documents: Tensor | None, causal: bool, window: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    return _like(q), _like(k), _like(v)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, documents, *ctx.settings = inputs
    ctx.set_materialize_grads(False)  # of the logarithms there is none
    ctx.save_for_backward(q, k, v, *output, documents)


def _gradients(ctx: Any, slope: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, out, logs, documents = ctx.saved_tensors
    found = _backward(slope.to(q.dtype), q, k, v, out, logs, documents, *ctx.settings)
    return *found, None, None, None, None


_forward.register_autograd(_gradients, setup_context=_keep)


@torch.library.custom_op(
    "gristmill::cpu_joined_attention", mutates_args=(), device_types="cpu",
    schema="(Tensor joined, Tensor? cos, Tensor? sin, Tensor? documents, int heads, int kv_heads, bool causal,"
           " int window, float scale) -> (Tensor, Tensor)")
def _joined_forward(joined: Tensor, cos: Tensor | None, sin: Tensor | None, documents: Tensor | None, heads: int,
                    kv_heads: int, causal: bool, window: int, scale: float) -> tuple[Tensor, Tensor]:
    """The mixed values (batch, time, heads head_dim) and the logarithms, as `_forward`."""
    joined = _rows(joined)
    out, logs = _joined_forward_fake(joined, cos, sin, documents, heads, kv_heads, causal, window, scale)
    q, k, v = _apart(joined, heads, kv_heads)
    mixed = _heads(out, heads)
    _call("attention_forward", (q, k, v, mixed), (q, k, v, out, logs), cos, sin, documents, causal, window, scale)
    return out, logs


@_joined_forward.register_fake
def _joined_forward_fake(joined: Tensor, cos: Tensor | None, sin: Tensor | None, documents: Tensor | None, heads: int,
                         kv_heads: int, causal: bool, window: int, scale: float) -> tuple[Tensor, Tensor]:
    batch, time, size = joined.shape
    return (joined.new_empty(batch, time, size // (heads + 2 * kv_heads) * heads),
            joined.new_empty(batch, heads, time, dtype=torch.float32))


@torch.library.custom_op(
    "gristmill::cpu_joined_attention_backward", mutates_args=(), device_types="cpu",
    schema="(Tensor slope, Tensor joined, Tensor out, Tensor logs, Tensor? cos, Tensor? sin, Tensor? documents,"
           " int heads, int kv_heads, bool causal, int window, float scale) -> Tensor")
def _joined_backward(slope: Tensor, joined: Tensor, out: Tensor, logs: Tensor, cos: Tensor | None, sin: Tensor | None,
                     documents: Tensor | None, heads: int, kv_heads: int, causal: bool, window: int,
                     scale: float) -> Tensor:
    """The gradient of `joined`."""
    joined = _rows(joined)
    found = torch.empty_like(joined, memory_format=torch.contiguous_format)
    q, k, v = _apart(joined, heads, kv_heads)
    out, slope = (_heads(_rows(x), heads) for x in (out, slope))
    slopes = _apart(found, heads, kv_heads)
    _call("attention_backward", (q, k, v, out, slope, *slopes), (q, k, v, out, logs.contiguous(), slope, *slopes), cos,
          sin, documents, causal, window, scale)
    return found


@_joined_backward.register_fake
def _joined_backward_fake(slope: Tensor, joined: Tensor, out: Tensor, logs: Tensor, cos: Tensor | None,
                          sin: Tensor | None, documents: Tensor | None, heads: int, kv_heads: int, causal: bool,
                          window: int, scale: float) -> Tensor:
    return torch.empty_like(joined, memory_format=torch.contiguous_format)


def _keep_joined(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    joined, cos, sin, documents, *ctx.settings = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(joined, *output, cos, sin, documents)


def _joined_gradients(ctx: Any, slope: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    joined, *kept = ctx.saved_tensors
    return _joined_backward(slope.to(joined.dtype), joined, *kept, *ctx.settings), *[None] * 8


_joined_forward.register_autograd(_joined_gradients, setup_context=_keep_joined)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(batch, time, heads head_dim) -> (batch, heads, time, head_dim), where it lies."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _apart(joined: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, ...]:
    """Queries, keys and values where they lie, each (batch, its heads, time, head_dim)."""
    return _heads(joined, heads + 2 * kv_heads).split([heads, kv_heads, kv_heads], dim=1)


def _like(x: Tensor) -> Tensor:
    """Room for a tensor of x's shape whose rows lie as the products before and behind want them: time before heads."""
    batch, heads, time, size = x.shape
    return x.new_empty(batch, time, heads, size).transpose(1, 2)


def _rows(x: Tensor) -> Tensor:
    """Channels side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _call(name: str, laid_out: tuple[Tensor, ...], tensors: tuple[Tensor, ...], cos: Tensor | None,
          sin: Tensor | None, documents: Tensor | None, causal: bool, window: int, scale: float) -> None:
    """laid_out: those whose strides the code is told, the first two of which are queries and keys."""
    (batch, heads, time, size), kv_heads = laid_out[0].shape, laid_out[1].shape[1]
    strides = tuple(step for tensor in laid_out for step in tensor.stride()[:3])
    cos, sin = (None if part is None else part.contiguous() for part in (cos, sin))
    angles_row = 0 if cos is None or len(cos) == 1 else time * size
    native.call(SOURCE, name, *tensors, cos, sin, angles_row, (batch, heads, kv_heads, time, size), strides,
                None if documents is None else documents.contiguous(), causal, window, scale)
