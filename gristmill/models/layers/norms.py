"""Normalisation layers."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from gristmill.models.layers import cpu_norm


class RMSNorm(nn.Module):
    """x / rms(x) * weight, the mean square taken in fp32 (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)


def make_norm(kind: Literal["rms", "layer"], dim: int, eps: float, bias: bool = True) -> nn.Module:
    """The norm that a config names; `bias` counts for layer norms only."""
    return RMSNorm(dim, eps) if kind == "rms" else nn.LayerNorm(dim, eps, bias=bias)


class Parts(NamedTuple):
    """The residual stream as a sum that is not made yet: the next norm makes it, in one pass over both."""

    total: Tensor
    added: Tensor

    def sum(self) -> Tensor:
        return self.total + self.added


def takes_parts(norm: nn.Module, x: Tensor) -> TypeGuard[RMSNorm]:
    """Whether a sum and its norm are made in one pass, of tensors like x, in bf16 for products that are."""
    return type(norm) is RMSNorm and cpu_norm.takes(x, norm.weight)


def norm_for_products(norm: nn.Module, x: Tensor) -> Tensor:
    """norm(x) for layers that make products of it and nothing else: where those are in bf16, so may this be."""
    return cpu_norm.norm(x, norm.weight, norm.eps) if takes_parts(norm, x) else norm(x)


def add_norm_for_products(norm: nn.Module, x: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
    """x + added, and its norm as by `norm_for_products`."""
    if takes_parts(norm, x):
        return cpu_norm.add_norm(x, added, norm.weight, norm.eps)
    x = x + added
    return x, norm(x)
