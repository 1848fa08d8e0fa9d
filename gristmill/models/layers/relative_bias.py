"""Relative positions as a learned bias of attention scores: one number a head for each bucket of distances (Raffel et
al. 2020, arXiv:1910.10683, section 2.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gristmill.models.layers.rotary import Tables


def relative_buckets(distances: Tensor, buckets: int, furthest: int, both_ways: bool) -> Tensor:
    """Number of the bucket of each distance, int64 of the same shape.

    distances: place of the key minus place of the query, int64. Half of the buckets hold one distance each, the other
    half grow with its logarithm up to `furthest`; all beyond share the last one. both_ways: keys after the query have
    buckets of their own, the upper half; otherwise they all lie in bucket 0, with the query itself.
    """
    shift = torch.zeros_like(distances)
    if both_ways:
        buckets //= 2
        shift = (distances > 0).long() * buckets
        distances = distances.abs()
    else:
        distances = (-distances).clamp(min=0)
    exact = buckets // 2
    # In fp32, as public code computes it: at the borders rounding decides which bucket it is.
    share = torch.log(distances.clamp(min=1).float() / exact) / math.log(furthest / exact)
    grown = (exact + (share * (buckets - exact)).long()).clamp(max=buckets - 1)
    return shift + torch.where(distances < exact, distances, grown)


class RelativeBias(Tables):
    """What is added to the scores of a stack's self-attention, the same in all of its layers."""

    bucket_of: Tensor

    def __init__(self, heads: int, buckets: int, furthest: int, both_ways: bool) -> None:
        super().__init__()
        self.settings = (buckets, furthest, both_ways)
        self.weight = nn.Parameter(torch.zeros(buckets, heads))
        self.register_buffer("bucket_of", self._table(), persistent=False)

    def _table(self) -> Tensor:
        """Buckets of the distances -furthest to furthest, beyond which none is new."""
        buckets, furthest, both_ways = self.settings
        return relative_buckets(torch.arange(-furthest, furthest + 1), buckets, furthest, both_ways)

    def build_tables(self, device: torch.device) -> None:
        # On the CPU, so that every device has the same borders.
        with torch.device("cpu"):
            self.bucket_of = self._table().to(device)

    def at(self, distances: Tensor) -> Tensor:
        """Bias of each distance (...), key minus query -> (..., heads)."""
        furthest = self.settings[1]
        return self.weight[self.bucket_of[distances.clamp(-furthest, furthest) + furthest]]

    def forward(self, queries: int, keys: int) -> Tensor:
        """Bias (1, heads, queries, keys) of sequences that both begin at place 0."""
        values = self.at(torch.arange(1 - queries, keys, device=self.weight.device)).t()
        # Row q begins at distance -q: windows of one long row, the last query's first. A lookup for every pair would
        # spend most of the backward pass on adding up queries x keys rows.
        return values.unfold(1, keys, 1).flip(1)[None]
