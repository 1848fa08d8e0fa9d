"""Collectives that gradients pass through.

Written with the plain ones: torch's differentiable forms are private and have other names in 2.11 than in 2.13.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# torch 2.13 warns of the older names; 2.11 has no others.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def gather(part: Tensor, group: Any) -> Tensor:
    """The parts of all processes, (size, ...); without gradients."""
    size = dist.get_world_size(group)
    whole = part.new_empty(size * part.shape[0], *part.shape[1:])
    _all_gather(whole, part.contiguous(), group=group)
    return whole.unflatten(0, (size, -1))


def gathered(part: Tensor, group: Any) -> Tensor:
    """`gather`; backward adds up the gradients that all processes have of a part."""
    return _Gathered.apply(part, group)


def exchanged(rows: Tensor, given: list[int], taken: list[int], group: Any) -> Tensor:
    """Give the first given[0] rows to the first process of the group, the next given[1] to the second, ...; returns
    those taken from each, (sum of taken, ...). Backward takes the way back."""
    return _Exchanged.apply(rows, given, taken, group)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, part, group):  # type: ignore[no-untyped-def]
        ctx.group = group
        return gather(part, group)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        own = gradient.new_empty(gradient.shape[1:])
        _reduce_scatter(own, gradient.flatten(0, 1).contiguous(), group=ctx.group)
        return own, None


class _Exchanged(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, given, taken, group):  # type: ignore[no-untyped-def]
        ctx.given, ctx.taken, ctx.group = given, taken, group
        return exchange(rows, given, taken, group)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return exchange(gradient, ctx.taken, ctx.given, ctx.group), None, None, None


def exchange(rows: Tensor, given: list[int] | None, taken: list[int] | None, group: Any) -> Tensor:
    """`exchanged`, without gradients; None: as many for each."""
    arrived = rows.new_empty(len(rows) if taken is None else sum(taken), *rows.shape[1:])
    dist.all_to_all_single(arrived, rows.contiguous(), taken, given, group=group)
    return arrived
