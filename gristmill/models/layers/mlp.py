"""Feed-forward layers: with a gate (three matrices) and without (two)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.models.layers import cpu_linear
from gristmill.models.layers.linear import joined_linear, one_linear, plain

GATES: dict[str, Callable[[Tensor], Tensor]] = {"swiglu": F.silu, "geglu": lambda x: F.gelu(x, approximate="tanh")}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}
"""gelu is exact (erf), gelu_tanh its approximation (arXiv:1606.08415), relu2 the squared relu of arXiv:2109.08668."""


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, dim: int, inner: int, activation: str = "swiglu", bias: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, inner, bias=bias)
        self.up = nn.Linear(dim, inner, bias=bias)
        self.down = nn.Linear(inner, dim, bias=bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        layers = self.gate, self.up, self.down
        if self.activation == "swiglu" and all(map(plain, layers)) and self.down.bias is None:
            weights = [layer.weight for layer in layers]
            if cpu_linear.takes(x, weights):
                return cpu_linear.gated(x, *weights)
        gate, up = joined_linear(x, self.gate, self.up)
        return one_linear(GATES[self.activation](gate) * up, self.down)


class MLP(nn.Module):
    """down(act(up(x))) (Vaswani et al. 2017, eq. 2)."""

    def __init__(self, dim: int, inner: int, activation: str = "gelu", bias: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(dim, inner, bias=bias)
        self.down = nn.Linear(inner, dim, bias=bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return one_linear(ACTIVATIONS[self.activation](one_linear(x, self.up)), self.down)


def make_mlp(dim: int, inner: int, activation: str, bias: bool) -> GatedMLP | MLP:
    """The feed-forward layer that a config names."""
    return (GatedMLP if activation in GATES else MLP)(dim, inner, activation, bias)
