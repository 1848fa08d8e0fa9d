"""Linear layers whose three products are made in float8 (Micikevicius et al. 2022, arXiv:2209.05433).

One scale a tensor, from its largest magnitude now: e4m3 (three bits of mantissa) for activations and weights, e5m2 for
gradients, which need the range. Sums are fp32 inside the product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gristmill.core.errors import UserError
from gristmill.models.layers.linear import PLAIN

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
UNIT = 16
"""Every side of a product is a multiple of this: what the hardware takes."""
NARROW = ("router", "shared_gate", "value_gate")
"""Modules inside blocks that decide rather than transform: a rounded gate is another decision."""


def quantise(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x -> float8 in the same shape, and the fp32 scale (0-d) that it is multiplied by to give x back.

    Where x is not finite, nothing of the result is.
    """
    largest = torch.finfo(dtype).max
    scale = x.abs().amax().float().clamp(min=1e-12) / largest
    return (x.float() / scale).clamp(-largest, largest).to(dtype), scale


def product(a: Tensor, scale_a: Tensor, b: Tensor, scale_b: Tensor, dtype: torch.dtype, fast: bool = False) -> Tensor:
    """a (rows, inner) @ b (inner, columns), both float8, as `dtype`. fast: fewer bits in partial sums, on Hopper.

    On a CPU the numbers are as rounded, and their product is made in fp32: to test what float8 does to a model.
    """
    if not a.is_cuda:
        return ((a.float() * scale_a) @ (b.float() * scale_b)).to(dtype)
    return hardware_product(a, scale_a, b, scale_b, dtype, fast)


def hardware_product(a: Tensor, scale_a: Tensor, b: Tensor, scale_b: Tensor, dtype: torch.dtype,
                     fast: bool = False) -> Tensor:
    """As `product`, by the hardware, which wants rows of the one and columns of the other in one piece.

    Not by `F.scaled_mm`: torch 2.11 cannot compile what that calls.
    """
    return torch._scaled_mm(a.contiguous(), b.t().contiguous().t(), scale_a, scale_b, out_dtype=dtype,
                            use_fast_accum=fast)


class _Linear(torch.autograd.Function):
    """rows (tokens, inner) and weight (outer, inner) -> (tokens, outer), all three products in float8."""

    @staticmethod
    def forward(ctx, rows, weight):  # type: ignore[no-untyped-def]
        (a, scale_a), (b, scale_b) = quantise(rows, FORWARD), quantise(weight, FORWARD)
        ctx.save_for_backward(a, scale_a, b, scale_b)
        ctx.weight_dtype = weight.dtype
        return product(a, scale_a, b.t(), scale_b, rows.dtype, fast=True)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        a, scale_a, b, scale_b = ctx.saved_tensors
        g, scale_g = quantise(gradient, BACKWARD)
        of_rows = product(g, scale_g, b, scale_b, gradient.dtype) if ctx.needs_input_grad[0] else None
        of_weight = product(g.t(), scale_g, a, scale_a, ctx.weight_dtype) if ctx.needs_input_grad[1] else None
        return of_rows, of_weight


class Float8Linear(nn.Linear):
    """A linear layer of float8 products; where the rows of a batch are no multiple of 16, an ordinary one."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features), in autocast's type where that is on."""
        kind = x.device.type
        if not x.numel() or x.numel() // self.in_features % UNIT:
            return super().forward(x)
        rows = x.reshape(-1, self.in_features)
        if torch.is_autocast_enabled(kind):
            rows = rows.to(torch.get_autocast_dtype(kind))
        with torch.autocast(kind, enabled=False):
            out = _Linear.apply(rows, self.weight)
            if self.bias is not None:
                out = out + self.bias.to(out.dtype)
        return out.view(*x.shape[:-1], self.out_features)


def float8_linears(model: nn.Module, *, smallest: int = 0) -> list[str]:
    """Make the linear layers of the blocks float8 ones, in place; names, weights and hooks stay.

    Of the blocks (`all_blocks`) all but gates and routers, with both sides multiples of 16 and of at least `smallest`;
    embedding and head stay as they are. Returns the names of those that changed. Raises UserError where weights are cut
    along `tensor`; they may be sharded afterwards.
    """
    names = {module: name for name, module in model.named_modules()}
    found = []
    for block in model.all_blocks:  # type: ignore[union-attr, operator]
        for inner, module in block.named_modules():
            sides = (module.in_features, module.out_features) if type(module) is nn.Linear else ()
            if sides and type(module.weight) not in PLAIN:
                raise UserError("float8 products are made of whole matrices, and this layout cuts them",
                                where=names[module], fix="use --precision bf16, or a layout without `tensor`")
            if sides and inner.split(".")[-1] not in NARROW and all(
                    side % UNIT == 0 and side >= smallest for side in sides):
                module.__class__ = Float8Linear
                found.append(names[module])
    return found


def float8_problem(device: torch.device) -> str | None:
    """Why float8 products cannot be made on this device, or None. On a CPU they are imitated, slowly."""
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < (8, 9):
        return f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor}) has no float8 products"
    return None
