"""Several projections of one input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def joined_linear(x: Tensor, *linears: nn.Linear) -> tuple[Tensor, ...]:
    """Several projections of the same input as one matrix product: the weights stay apart, the work does not."""
    weight = torch.cat([linear.weight for linear in linears])
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    return F.linear(x, weight, bias).split([linear.out_features for linear in linears], dim=-1)
