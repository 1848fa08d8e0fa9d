"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split layout of public Llama weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def inverse_frequencies(head_dim: int, theta: float, scaling: dict[str, Any] | None = None) -> Tensor:
    """Angular frequency of each channel pair, (head_dim / 2,), fp32.

    scaling: None, or as public configs write it: {"rope_type": "linear", "factor"} (arXiv:2306.15595); {"rope_type":
    "llama3", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"} (Llama 3.1 model
    card); {"rope_type": "yarn", "factor", "original_max_position_embeddings", ...} (arXiv:2309.00071, 3.2);
    {"rope_type": "dynamic", "factor"}, which up to the model's context changes nothing (`dynamic_theta`).
    """
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    kind = (scaling or {}).get("rope_type", "default")
    if scaling is None or kind in ("default", "dynamic"):
        return frequencies
    if kind == "linear":
        return frequencies / scaling["factor"]
    if kind == "llama3":
        old = scaling["original_max_position_embeddings"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        wavelengths = 2 * math.pi / frequencies
        smooth = ((old / wavelengths - low) / (high - low)).clamp(0, 1)
    elif kind == "yarn":
        smooth = 1 - _ramp(head_dim, theta, scaling)
    else:
        raise ValueError(f"rope_scaling: rope_type {kind!r} is not supported; choose default, linear, llama3, yarn or "
                         "dynamic")
    return (1 - smooth) * frequencies / scaling["factor"] + smooth * frequencies


def _ramp(head_dim: int, theta: float, scaling: dict[str, Any]) -> Tensor:
    """How far each pair is interpolated: 0 where it turns `beta_fast` times or more over the old context, 1 where
    `beta_slow` times or less, (head_dim / 2,) (arXiv:2309.00071, eq. 18-23)."""
    old = scaling["original_max_position_embeddings"]

    def pair(turns: float) -> float:
        return head_dim * math.log(old / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(scaling.get("beta_fast") or 32), pair(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    # The public implementations keep a step of this width where both ends are the same pair.
    return ((torch.arange(head_dim // 2).float() - low) / (high - low or 0.001)).clamp(0, 1)


def amplitude(scaling: dict[str, Any] | None) -> float:
    """Factor of cosines and sines: YaRN sharpens attention by it as the context grows (arXiv:2309.00071, eq. 22)."""
    if scaling is None or scaling.get("rope_type") != "yarn":
        return 1.0
    if scaling.get("attention_factor") is not None:
        return scaling["attention_factor"]

    def sharpened(weight: float) -> float:
        return 0.1 * weight * math.log(scaling["factor"]) + 1.0 if scaling["factor"] > 1 else 1.0

    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return sharpened(scaling["mscale"]) / sharpened(scaling["mscale_all_dim"])
    return sharpened(1.0)


def dynamic_theta(head_dim: int, theta: float, factor: float, context: int, length: int) -> float:
    """Base of the frequencies for a text of `length` tokens: it grows with what exceeds the context, so that the
    slowest pair of channels is stretched most and the fastest not at all (dynamic NTK, arXiv:2309.00071, 3.3)."""
    if length <= context:
        return theta
    return theta * (factor * length / context - (factor - 1)) ** (head_dim / (head_dim - 2))


class Tables(nn.Module):
    """A layer with buffers that follow from its config: rebuilt after loading, never stored in checkpoints."""

    def build_tables(self, device: torch.device) -> None:
        """Put fresh tables on `device`."""
        raise NotImplementedError


class Rotary(Tables):
    """Cosines and sines for positions."""

    frequencies: Tensor

    def __init__(
        self, head_dim: int, theta: float, scaling: dict[str, Any] | None = None, context: int | None = None
    ) -> None:
        """context: longest text of the training; dynamic scaling stretches those beyond it."""
        super().__init__()
        self.dynamic = (scaling or {}).get("rope_type") == "dynamic"
        if self.dynamic and context is None:
            raise ValueError("rope_scaling: dynamic needs to know the context of the training")
        self.context = context or 0
        self.settings = (head_dim, theta, scaling)
        self.amplitude = amplitude(scaling)
        self.register_buffer("frequencies", inverse_frequencies(*self.settings), persistent=False)

    def build_tables(self, device: torch.device) -> None:
        self.frequencies = inverse_frequencies(*self.settings).to(device)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions (batch or 1, time) -> cos, sin, each (batch or 1, 1, time, head_dim), fp32."""
        frequencies = self._stretched(int(positions.max()) + 1) if self.dynamic and positions.numel() else (
            self.frequencies)
        angles = positions[:, None, :, None].float() * frequencies.float()
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos(), angles.sin()
        return (cos, sin) if self.amplitude == 1.0 else (cos * self.amplitude, sin * self.amplitude)

    def _stretched(self, length: int) -> Tensor:
        """The frequencies for a text of `length` tokens."""
        head_dim, theta, scaling = self.settings
        if length <= self.context or scaling is None:
            return self.frequencies
        theta = dynamic_theta(head_dim, theta, scaling["factor"], self.context, length)
        return inverse_frequencies(head_dim, theta).to(self.frequencies.device)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the channel pairs (i, i + head_dim/2) of x (batch, heads, time, head_dim) by their angles."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
