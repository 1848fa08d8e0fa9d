"""Several projections of one input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.models.layers import cpu_linear

PLAIN = (Tensor, nn.Parameter)
"""Types of weights that may be laid side by side; those of tensor parallelism, for instance, may not."""


def joined_linear(x: Tensor, *linears: nn.Linear) -> tuple[Tensor, ...]:
    """Several projections of the same input as one matrix product: the weights stay apart, the work does not.

    Where one of them is more than a plain layer (another class, hooks, a weight that is not a plain tensor), each is
    called as a module, so that whatever was put around it happens.
    """
    if not all(map(plain, linears)):
        return tuple(linear(x) for linear in linears)
    return side_by_side(x, *linears).split([linear.out_features for linear in linears], dim=-1)


def side_by_side(x: Tensor, *linears: nn.Linear) -> Tensor:
    """What `plain` layers give, (..., sum of their features)."""
    weights = [linear.weight for linear in linears]
    bias = None if linears[0].bias is None else _joined([linear.bias for linear in linears])
    if cpu_linear.takes(x, weights):
        out = cpu_linear.linear(x, weights)
        return out if bias is None else out + bias.to(out.dtype)
    return F.linear(x, _joined(weights), bias)


def one_linear(x: Tensor, linear: nn.Linear) -> Tensor:
    """A projection, as by `joined_linear`."""
    return joined_linear(x, linear)[0]


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def plain(linear: nn.Module) -> bool:
    """Whether a layer is no more than its weight and bias."""
    return (type(linear) is nn.Linear and type(linear.weight) in PLAIN
            and not linear._forward_hooks and not linear._forward_pre_hooks)
