"""Keys and values of the requests in a batch: one slot a request, each with its own length.

Storage is one static tensor a layer, (slots, kv_heads, capacity, head_dim), grown by doubling. The views below are
what attention layers talk to: they write the new keys and values and attend over a slot's own tokens only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gristmill.models.config import DecoderConfig
from gristmill.models.layers.attention import attention
from gristmill.models.layers.masks import CAUSAL, Pattern

GRAIN = 64
"""Attention runs over lengths rounded up to this; what lies beyond a request's own length counts exactly zero."""


class SlotCache:
    """Keys and values of `slots` requests, for all layers."""

    def __init__(
        self, config: DecoderConfig, slots: int, context: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.context, self.capacity = context, 0
        self._shape = (slots, config.kv_heads, 0, config.head_dim)
        # Batched products of few rows in bf16 cost more than they save on a CPU.
        self._device, self._dtype = device, torch.float32 if device.type == "cpu" else dtype
        self.keys = [self._empty(*self._shape) for _ in range(config.layers)]
        self.values = [self._empty(*self._shape) for _ in range(config.layers)]
        self.lengths = torch.zeros(slots, dtype=torch.int64, device=device)
        """Tokens stored in each slot."""

    def _empty(self, *shape: int) -> Tensor:
        return torch.zeros(shape, device=self._device, dtype=self._dtype)

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens in every slot."""
        if length <= self.capacity:
            return
        old, wanted = self.capacity, max(length, 2 * self.capacity, 2 * GRAIN)
        self.capacity = max(min(wanted, _rounded(self.context)), _rounded(length))
        slots, kv_heads, _, size = self._shape
        for store in (self.keys, self.values):
            for layer, tensor in enumerate(store):
                store[layer] = self._empty(slots, kv_heads, self.capacity, size)
                store[layer][:, :, :old] = tensor

    def move(self, source: int, target: int, length: int) -> None:
        """Put what slot `source` holds into `target`."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :length] = tensor[source, :, :length]
        self.lengths[target] = self.lengths[source]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


class DecodeView:
    """One new token in each of the first `rows` slots."""

    def __init__(self, cache: SlotCache, rows: int, longest: int) -> None:
        """longest: most tokens in any of these slots, the new one included."""
        self.cache, self.rows = cache, rows
        cache.reserve(longest)
        self.span = min(_rounded(longest), cache.capacity)
        self.places = cache.lengths[:rows]
        device = self.places.device
        self.index = torch.arange(rows, device=device)
        self.masks: dict[Pattern, Tensor] = {}

    def _mask(self, pattern: Pattern) -> Tensor:
        """0 where a row's new token sees, minus infinity where it does not, (rows, 1, 1, span)."""
        if pattern not in self.masks:
            device = self.places.device
            seen = pattern.visible(self.places, torch.arange(self.span, device=device))
            self.masks[pattern] = torch.zeros(self.rows, 1, 1, self.span, device=device).masked_fill(
                ~seen[:, None, None], -math.inf)
        return self.masks[pattern]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern = CAUSAL) -> Tensor:
        """q (rows, heads, 1, head_dim), k and v (rows, kv_heads, 1, head_dim) -> like q."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.index, :, self.places] = k.squeeze(2).to(keys.dtype)
        values[self.index, :, self.places] = v.squeeze(2).to(values.dtype)
        keys, values = keys[: self.rows, :, : self.span], values[: self.rows, :, : self.span]
        rows, heads, _, size = q.shape
        grouped = q.reshape(rows, keys.shape[1], -1, size).to(keys.dtype) * (1.0 / math.sqrt(size))
        # Written out: the results of these products for a row do not depend on the rows beside it, torch's own do.
        weights = ((grouped @ keys.transpose(-2, -1)).float() + self._mask(pattern)).softmax(-1)
        return (weights.to(values.dtype) @ values).view(rows, heads, 1, size).to(q.dtype)


@dataclass(frozen=True)
class Segment:
    """Tokens [start, start + count) of the sequence in `slot`; slot -1 stores nothing."""

    slot: int
    start: int
    count: int


class PrefillView:
    """Several pieces of prompts one after the other in a single row of tokens, each attending to its own slot."""

    def __init__(self, cache: SlotCache | None, segments: list[Segment]) -> None:
        self.cache, self.segments = cache, segments
        if cache is not None:
            cache.reserve(max(segment.start + segment.count for segment in segments))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern = CAUSAL) -> Tensor:
        """q (1, heads, tokens, head_dim), k and v (1, kv_heads, tokens, head_dim) -> like q."""
        parts, at = [], 0
        for segment in self.segments:
            stop = at + segment.count
            parts.append(self._one(layer, segment, q[:, :, at:stop], k[:, :, at:stop], v[:, :, at:stop], pattern))
            at = stop
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _one(self, layer: int, segment: Segment, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        if self.cache is not None and segment.slot >= 0:
            keys, values = self.cache.keys[layer][segment.slot], self.cache.values[layer][segment.slot]
            stop = segment.start + segment.count
            keys[:, segment.start : stop] = k[0].to(keys.dtype)
            values[:, segment.start : stop] = v[0].to(values.dtype)
            if segment.start:
                k, v = (part[None, :, :stop].to(q.dtype) for part in (keys, values))
                return _continued(q, k, v, segment.start, pattern)
        return attention(q, k, v, pattern=pattern)


def _continued(q: Tensor, k: Tensor, v: Tensor, start: int, pattern: Pattern) -> Tensor:
    """Attention of queries at positions start, start + 1, ... over what they see of the keys before and beside them."""
    batch, heads, time, size = q.shape
    grouped = q.reshape(batch, k.shape[1], -1, size) * (1.0 / math.sqrt(size))
    scores = (grouped @ k.transpose(-2, -1)).float().view(batch, heads, time, -1)
    columns, rows = torch.arange(k.shape[2], device=q.device), start + torch.arange(time, device=q.device)
    scores = scores.masked_fill(~pattern.visible(rows, columns), -math.inf)
    weights = scores.softmax(-1).to(v.dtype).view(batch, k.shape[1], -1, k.shape[2])
    return (weights @ v).view(batch, heads, time, size)


def _rounded(length: int) -> int:
    return -(-length // GRAIN) * GRAIN
