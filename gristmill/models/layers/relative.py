"""Attention by relative positions, for one stream of queries or two (Dai et al. 2019, arXiv:1901.02860, section 3.3;
Yang et al. 2019, arXiv:1906.08237, sections 2.3 and 2.5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gristmill.models.config import TwoStreamConfig
from gristmill.models.layers.attention import attention
from gristmill.models.layers.linear import joined_linear
from gristmill.models.layers.masks import FULL


class Scene(NamedTuple):
    """What is the same for every block of a pass."""

    positions: Tensor
    """Vectors of the distances keys, keys - 1, ..., 1 - time: (time + keys, dim)."""
    seen: Tensor | None
    """Keys that each token's content stream sees, (batch or 1, 1, time, keys) of bool; None for all."""
    other_segment: Tensor | None
    """Keys of another segment than the token's, (batch, 1, time, keys) of bool; None without segments."""
    targets: Tensor | None = None
    """The place of each query, (batch, targets)."""
    seen_by_query: Tensor | None = None
    """The same as `seen` for the queries, (batch, 1, targets, keys)."""
    other_segment_of_query: Tensor | None = None


class RelativeAttention(nn.Module):
    """Keys and values come from the content stream; both streams look at them through the same weights.

    The score of key j for query i is (q_i + u)·k_j + (q_i + v)·r_(i-j) + (q_i + b)·s, where s is one vector for keys
    of the same segment and another for the rest.
    """

    def __init__(self, config: TwoStreamConfig) -> None:
        super().__init__()
        self.head_dim, self.dropout, self.scale = config.head_dim, config.dropout, config.head_dim**-0.5
        self.query = nn.Linear(config.dim, config.inner, bias=False)
        self.key = nn.Linear(config.dim, config.inner, bias=False)
        self.value = nn.Linear(config.dim, config.inner, bias=False)
        self.position = nn.Linear(config.dim, config.inner, bias=False)
        self.output = nn.Linear(config.inner, config.dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(config.inner))
        self.position_bias = nn.Parameter(torch.zeros(config.inner))
        self.segment_bias = nn.Parameter(torch.zeros(config.inner))
        self.same_segment = nn.Parameter(torch.zeros(config.inner))
        self.other_segment = nn.Parameter(torch.zeros(config.inner))

    def forward(
        self, h: Tensor, g: Tensor | None, memory: Tensor | None, scene: Scene, content: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """What attention adds to h (batch, time, dim), where `content` asks for it, and to g (batch, targets, dim)."""
        source = h if memory is None else torch.cat([memory.to(h.dtype), h], dim=1)
        k, v = (self._heads(part) for part in joined_linear(source, self.key, self.value))
        r = self._heads(self.position(scene.positions)[None])
        time, keys = h.shape[1], source.shape[1]
        for_h = for_g = None
        if content:
            for_h = self._mix(h, k, v, r, scene.seen, scene.other_segment,
                              lambda scores: relative_shift(scores, keys))
        if g is not None and scene.targets is not None:
            places = scene.targets.clamp(min=0)
            for_g = self._mix(g, k, v, r, scene.seen_by_query, scene.other_segment_of_query,
                              lambda scores: gathered_shift(scores, places, time, keys))
        return for_h, for_g

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, time, heads * head_dim) -> (batch, heads, time, head_dim)."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _mix(
        self, x: Tensor, k: Tensor, v: Tensor, r: Tensor, seen: Tensor | None, other_segment: Tensor | None,
        shift: Callable[[Tensor], Tensor],
    ) -> Tensor:
        q = self.query(x)
        # Position and segment scores are added to the content scores, so they are a bias to them.
        bias = shift(self._heads(q + self.position_bias.to(q.dtype)) @ r.transpose(-2, -1)) * self.scale
        if other_segment is not None:
            by_segment = (self._heads(q + self.segment_bias.to(q.dtype)) * self.scale) @ self._segments()
            bias = bias + torch.where(other_segment, by_segment[..., 1:], by_segment[..., :1])
        if seen is not None:
            # Half of the lowest number: a score may still be added to it. It is finite, so that nothing becomes NaN.
            bias = bias.masked_fill(~seen, torch.finfo(bias.dtype).min / 2)
        mixed = attention(self._heads(q + self.content_bias.to(q.dtype)), k, v, pattern=FULL, bias=bias,
                          scale=self.scale, dropout=self.dropout if self.training else 0.0)
        if seen is not None:
            # Where nothing is seen, nothing is added: an average over everything would tell a query its own word.
            mixed = mixed * seen.any(-1, keepdim=True).to(mixed.dtype)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _segments(self) -> Tensor:
        """Vectors for keys of the same and of another segment, (heads, head_dim, 2)."""
        return torch.stack([self.same_segment, self.other_segment], dim=-1).unflatten(0, (-1, self.head_dim))


def queried(scene: Scene, targets: Tensor, seen: Tensor | None) -> Scene:
    """The scene with queries at `targets` (batch, targets); a query of nothing (-1) sees nothing.

    seen (batch or 1, 1, time, keys): what a query at each place sees; None for everything.
    """
    places = targets.clamp(min=0)[:, None, :, None]

    def at_targets(x: Tensor) -> Tensor:
        rows = x.expand(len(targets), -1, -1, -1)
        return rows.gather(2, places.expand(-1, -1, -1, x.shape[-1]))

    exists = (targets >= 0)[:, None, :, None]
    keys = len(scene.positions) - seen.shape[2] if seen is not None else 1
    by_query = exists.expand(-1, -1, -1, keys) if seen is None else at_targets(seen) & exists
    other = None if scene.other_segment is None else at_targets(scene.other_segment)
    return scene._replace(targets=targets, seen_by_query=by_query, other_segment_of_query=other)


def relative_shift(scores: Tensor, keys: int) -> Tensor:
    """From scores by distance to scores by key, without moving a number (arXiv:1901.02860, appendix B).

    scores (..., time, time + keys): column p stands for the distance keys - p. Key j is keys - time + i - j away from
    query i, which is column time - i + j: rows of the flattened scores that are one shorter. Returns (..., time, keys).
    """
    time, span = scores.shape[-2:]
    return scores.flatten(-2)[..., time:].unflatten(-1, (time, span - 1))[..., :keys]


def gathered_shift(scores: Tensor, places: Tensor, time: int, keys: int) -> Tensor:
    """`relative_shift` for some of the queries: scores (batch, heads, targets, time + keys) and the places of the
    targets (batch, targets) -> (batch, heads, targets, keys)."""
    columns = time - places[:, :, None] + torch.arange(keys, device=places.device)
    return scores.gather(-1, columns[:, None].expand(-1, scores.shape[1], -1, -1))


def sinusoids(distances: Tensor, dim: int) -> Tensor:
    """Vectors of relative distances (span,), of either sign: sines first, then cosines, (span, dim), fp32."""
    frequencies = 1 / 10_000 ** (torch.arange(0, dim, 2, device=distances.device).float() / dim)
    angles = distances.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
