"""RMS norms on CPUs with AVX512-BF16 (cpu_norm.cpp): of fp32 rows, for layers that make their products in bf16.

Operators of torch, as in `cpu_attention`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gristmill.core import native

SOURCE = Path(__file__).with_suffix(".cpp")


def ready() -> bool:
    """Whether this machine can run it; compiles it at the first call."""
    return native.library(SOURCE) is not None


ready._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as in cpu_attention


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether the norm is made here: rows of fp32 on a CPU, read by products in bf16."""
    return (x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and x.shape[-1] % 16 == 0
            and type(weight) in (Tensor, torch.nn.Parameter) and torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") == torch.bfloat16 and ready())


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight in bf16; x (..., dim)."""
    return _norm(x, weight, eps)[0]


def add_norm(x: Tensor, added: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + added in fp32, and its norm in bf16; both (..., dim)."""
    total, out, _ = _add_norm(x, added.to(torch.bfloat16), weight, eps)
    return total, out


@torch.library.custom_op("gristmill::cpu_norm", mutates_args=(), device_types="cpu",
                         schema="(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)")
def _norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm, and 1 / rms of each row."""
    x = x.contiguous()
    out, inverse = _norm_fake(x, weight, eps)
    native.call(SOURCE, "norm_forward", x, None, inverse.numel(), x.shape[-1], weight.contiguous(), eps, None, out,
                inverse)
    return out, inverse


@_norm.register_fake
def _norm_fake(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.bfloat16), x.new_empty(x.shape[:-1])


@torch.library.custom_op("gristmill::cpu_add_norm", mutates_args=(), device_types="cpu",
                         schema="(Tensor x, Tensor added, Tensor weight, float eps) -> (Tensor, Tensor, Tensor)")
def _add_norm(x: Tensor, added: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The sum, its norm, and 1 / rms of each row."""
    x, added = x.contiguous(), added.contiguous()
    total, out, inverse = _add_norm_fake(x, added, weight, eps)
    native.call(SOURCE, "norm_forward", x, added, inverse.numel(), x.shape[-1], weight.contiguous(), eps, total, out,
                inverse)
    return total, out, inverse


@_add_norm.register_fake
def _add_norm_fake(x: Tensor, added: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), *_norm_fake(x, weight, eps)


@torch.library.custom_op("gristmill::cpu_norm_backward", mutates_args=(), device_types="cpu",
                         schema="(Tensor slope, Tensor? sum_slope, Tensor x, Tensor weight, Tensor inverse)"
                                " -> (Tensor, Tensor, Tensor)")
def _backward(slope: Tensor, sum_slope: Tensor | None, x: Tensor, weight: Tensor,
              inverse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, of what was added to it (empty without `sum_slope`), and of the weight."""
    slope, x = slope.contiguous(), x.contiguous()
    sum_slope = None if sum_slope is None else sum_slope.contiguous()
    found = _backward_fake(slope, sum_slope, x, weight, inverse)
    native.call(SOURCE, "norm_backward", slope, sum_slope, x, weight.contiguous(), inverse.contiguous(),
                inverse.numel(), x.shape[-1], *found)
    return found


@_backward.register_fake
def _backward_fake(slope: Tensor, sum_slope: Tensor | None, x: Tensor, weight: Tensor,
                   inverse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (x.new_empty(x.shape), slope.new_empty(x.shape if sum_slope is not None else 0, dtype=torch.bfloat16),
            weight.new_empty(weight.shape))


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(inputs[0], inputs[1], output[1])


def _gradients(ctx: Any, slope: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    of_x, _, of_weight = _backward(slope.to(torch.bfloat16), None, *ctx.saved_tensors)
    return of_x, of_weight, None


_norm.register_autograd(_gradients, setup_context=_keep)


def _keep_sum(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[0], inputs[2], output[2])


def _sum_gradients(ctx: Any, sum_slope: Tensor | None, slope: Tensor | None,
                   _: Tensor | None) -> tuple[Tensor | None, ...]:
    total, weight, inverse = ctx.saved_tensors
    if slope is None:
        return sum_slope, None if sum_slope is None else sum_slope.to(torch.bfloat16), None, None
    if sum_slope is None:
        sum_slope = torch.zeros_like(total)
    return *_backward(slope.to(torch.bfloat16), sum_slope.float(), total, weight, inverse), None


_add_norm.register_autograd(_sum_gradients, setup_context=_keep_sum)
