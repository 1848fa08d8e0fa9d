"""Linear layers, and feed-forward layers with a gate, on CPUs with AVX512-BF16 (cpu_linear.cpp; docs/decisions.md,
"Products on a CPU").

Weights are rounded to bf16 while they are packed, sums are fp32, and gradients of weights stay fp32: nothing is cast
before or after. Operators of torch, as in `cpu_attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gristmill.core import native

SOURCE = Path(__file__).with_suffix(".cpp")
FEWEST = 128
"""Rows below which packing the weights costs more than it gains."""
UNIT = 32
"""Sides of weights are multiples of this."""


def ready() -> bool:
    """Whether this machine can run it; compiles it at the first call."""
    return native.library(SOURCE) is not None


ready._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as in cpu_attention


def takes(x: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether these products are made here: many rows, in bf16 or about to be cast to it, and weights of fp32 or bf16
    with sides of multiples of 32."""
    if x.device.type != "cpu" or x.numel() < FEWEST * x.shape[-1]:
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    kinds = {weight.dtype for weight in weights}
    return (dtype == torch.bfloat16 and len(kinds) == 1 and kinds <= {torch.float32, torch.bfloat16}
            and (kinds == {torch.bfloat16} or torch.is_autocast_enabled("cpu"))
            and all(side % UNIT == 0 for weight in weights for side in weight.shape) and ready())


def linear(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """x (..., inner) times each weight (outer, inner) turned, side by side: (..., sum of outers) in bf16."""
    return _linear(x.to(torch.bfloat16), list(weights))


def gated(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """(silu(x gateᵀ) * (x upᵀ)) downᵀ in bf16: gate and up (width, dim), down (dim, width), x (..., dim)."""
    return _gated(x.to(torch.bfloat16), [gate, up, down])[0]


@torch.library.custom_op("gristmill::cpu_linear", mutates_args=(), device_types="cpu",
                         schema="(Tensor x, Tensor[] weights) -> Tensor")
def _linear(x: Tensor, weights: list[Tensor]) -> Tensor:
    x, weights = _laid_out(x), [weight.contiguous() for weight in weights]
    out = _linear_fake(x, weights)
    native.call(SOURCE, "linear_forward", x, x.stride(-2), _count(x), x.shape[-1], weights, tuple(map(len, weights)),
                len(weights), _wide(weights), out)
    return out


@_linear.register_fake
def _linear_fake(x: Tensor, weights: list[Tensor]) -> Tensor:
    return x.new_empty(*x.shape[:-1], sum(map(len, weights)))


@torch.library.custom_op("gristmill::cpu_linear_backward", mutates_args=(), device_types="cpu",
                         schema="(Tensor slope, Tensor x, Tensor[] weights, bool of_x, bool of_weights)"
                                " -> (Tensor, Tensor)")
def _linear_backward(slope: Tensor, x: Tensor, weights: list[Tensor], of_x: bool,
                     of_weights: bool) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the weights, these one below the other in fp32; empty where not asked for."""
    slope, x, weights = _laid_out(slope), _laid_out(x), [weight.contiguous() for weight in weights]
    found = _linear_backward_fake(slope, x, weights, of_x, of_weights)
    native.call(SOURCE, "linear_backward", slope, slope.stride(-2), x, x.stride(-2), _count(x), x.shape[-1], weights,
                tuple(map(len, weights)), len(weights), _wide(weights), *found)
    return found


@_linear_backward.register_fake
def _linear_backward_fake(slope: Tensor, x: Tensor, weights: list[Tensor], of_x: bool,
                          of_weights: bool) -> tuple[Tensor, Tensor]:
    return (x.new_empty(x.shape if of_x else 0),
            x.new_empty((slope.shape[-1], x.shape[-1]) if of_weights else 0, dtype=torch.float32))


def _keep(ctx: Any, inputs: tuple[Tensor, list[Tensor]], output: Tensor) -> None:
    x, weights = inputs
    ctx.save_for_backward(x, *weights)


def _gradients(ctx: Any, slope: Tensor) -> tuple[Tensor | None, list[Tensor | None]]:
    x, *weights = ctx.saved_tensors
    of_x, of_weights = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1])
    found, stacked = _linear_backward(slope.to(x.dtype), x, weights, of_x, of_weights)
    return found if of_x else None, _apart(stacked, weights, ctx.needs_input_grad[1])


_linear.register_autograd(_gradients, setup_context=_keep)


@torch.library.custom_op("gristmill::cpu_gated", mutates_args=(), device_types="cpu",
                         schema="(Tensor x, Tensor[] weights) -> (Tensor, Tensor)")
def _gated(x: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The result, and what gate and up gave, side by side."""
    x, weights = _laid_out(x), [weight.contiguous() for weight in weights]
    out, halves = _gated_fake(x, weights)
    native.call(SOURCE, "gated_forward", x, x.stride(-2), _count(x), x.shape[-1], len(weights[0]), weights,
                _wide(weights), halves, out)
    return out, halves


@_gated.register_fake
def _gated_fake(x: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(*x.shape[:-1], 2 * len(weights[0]))


@torch.library.custom_op("gristmill::cpu_gated_backward", mutates_args=(), device_types="cpu",
                         schema="(Tensor slope, Tensor x, Tensor halves, Tensor[] weights, bool of_x)"
                                " -> (Tensor, Tensor, Tensor)")
def _gated_backward(slope: Tensor, x: Tensor, halves: Tensor, weights: list[Tensor],
                    of_x: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x (empty where not asked for), of gate and up one below the other, and of down."""
    slope, x, weights = _laid_out(slope), _laid_out(x), [weight.contiguous() for weight in weights]
    found = _gated_backward_fake(slope, x, halves, weights, of_x)
    native.call(SOURCE, "gated_backward", slope, slope.stride(-2), x, x.stride(-2), halves, _count(x), x.shape[-1],
                len(weights[0]), weights, _wide(weights), *found)
    return found


@_gated_backward.register_fake
def _gated_backward_fake(slope: Tensor, x: Tensor, halves: Tensor, weights: list[Tensor],
                         of_x: bool) -> tuple[Tensor, Tensor, Tensor]:
    gate, _, down = weights
    return (x.new_empty(x.shape if of_x else 0), x.new_empty(2 * len(gate), x.shape[-1], dtype=torch.float32),
            x.new_empty(down.shape, dtype=torch.float32))


def _keep_gated(ctx: Any, inputs: tuple[Tensor, list[Tensor]], output: tuple[Tensor, Tensor]) -> None:
    x, weights = inputs
    ctx.set_materialize_grads(False)  # of the halves there is none
    ctx.save_for_backward(x, output[1], *weights)


def _gated_gradients(ctx: Any, slope: Tensor, _: Tensor | None) -> tuple[Tensor | None, list[Tensor | None]]:
    x, halves, *weights = ctx.saved_tensors
    of_x, of_weights = ctx.needs_input_grad
    found, inward, outward = _gated_backward(slope.to(x.dtype), x, halves, weights, of_x)
    return (found if of_x else None,
            [*_apart(inward, weights[:2], of_weights[:2]), *_apart(outward, weights[2:], of_weights[2:])])


_gated.register_autograd(_gated_gradients, setup_context=_keep_gated)


def _apart(stacked: Tensor, weights: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
    """The gradient of each weight, of its type, from those one below the other."""
    if not any(needed):
        return [None] * len(weights)
    parts = stacked.split([len(weight) for weight in weights])
    return [part.to(weight.dtype) if wanted else None
            for part, weight, wanted in zip(parts, weights, needed, strict=True)]


def _laid_out(x: Tensor) -> Tensor:
    """x with its numbers in rows that lie the same distance apart, an even one: they are read in pairs."""
    return x if x.ndim == 2 and x.stride(1) == 1 and x.stride(0) % 2 == 0 else x.contiguous()


def _count(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def _wide(weights: Sequence[Tensor]) -> int:
    return int(weights[0].dtype == torch.float32)
