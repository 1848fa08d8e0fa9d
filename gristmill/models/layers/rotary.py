"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split layout of public Llama weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def inverse_frequencies(head_dim: int, theta: float, scaling: dict[str, Any] | None = None) -> Tensor:
    """Angular frequency of each channel pair, (head_dim / 2,), fp32.

    scaling: None; {"rope_type": "linear", "factor": f} (arXiv:2306.15595); or {"rope_type": "llama3", "factor",
    "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"} (Llama 3.1 model card).
    """
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    kind = (scaling or {}).get("rope_type", "default")
    if scaling is None or kind == "default":
        return frequencies
    if kind == "linear":
        return frequencies / scaling["factor"]
    if kind != "llama3":
        raise ValueError(f"rope_scaling: rope_type {kind!r} is not supported; choose default, linear or llama3")
    old = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelengths = 2 * math.pi / frequencies
    smooth = ((old / wavelengths - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * frequencies / scaling["factor"] + smooth * frequencies


class Tables(nn.Module):
    """A layer with buffers that follow from its config: rebuilt after loading, never stored in checkpoints."""

    def build_tables(self, device: torch.device) -> None:
        """Put fresh tables on `device`."""
        raise NotImplementedError


class Rotary(Tables):
    """Cosines and sines for positions."""

    frequencies: Tensor

    def __init__(self, head_dim: int, theta: float, scaling: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.settings = (head_dim, theta, scaling)
        self.register_buffer("frequencies", inverse_frequencies(*self.settings), persistent=False)

    def build_tables(self, device: torch.device) -> None:
        self.frequencies = inverse_frequencies(*self.settings).to(device)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions (batch or 1, time) -> cos, sin, each (batch or 1, 1, time, head_dim), fp32."""
        angles = positions[:, None, :, None].float() * self.frequencies.float()
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the channel pairs (i, i + head_dim/2) of x (batch, heads, time, head_dim) by their angles."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
