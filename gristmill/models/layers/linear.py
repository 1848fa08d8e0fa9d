"""Several projections of one input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLAIN = (Tensor, nn.Parameter)
"""Types of weights that may be laid side by side; those of tensor parallelism, for instance, may not."""


def joined_linear(x: Tensor, *linears: nn.Linear) -> tuple[Tensor, ...]:
    """Several projections of the same input as one matrix product: the weights stay apart, the work does not.

    Where one of them is more than a plain layer (another class, hooks, a weight that is not a plain tensor), each is
    called as a module, so that whatever was put around it happens.
    """
    if not all(map(_plain, linears)):
        return tuple(linear(x) for linear in linears)
    weight = torch.cat([linear.weight for linear in linears])
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    return F.linear(x, weight, bias).split([linear.out_features for linear in linears], dim=-1)


def _plain(linear: nn.Module) -> bool:
    return (type(linear) is nn.Linear and type(linear.weight) in PLAIN
            and not linear._forward_hooks and not linear._forward_pre_hooks)
