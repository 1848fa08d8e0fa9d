"""Ring attention: keys and values travel round the processes of a row, and nobody ever holds a whole row.

Each process adds what its queries make of the keys that are there just now, keeping the log of the softmax's
denominator (Liu et al. 2023, arXiv:2310.01889; the merging is that of arXiv:2205.14135, algorithm 1). Backward sends
them round once more, together with their gradients. Memory: a row's tokens over the processes; no weights are kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gristmill.models.layers.masks import CAUSAL, Pattern, allowed
from gristmill.training.parallel.stretches import Stretches

BLOCK = 256
"""Queries whose scores exist at one time."""


@torch.compiler.disable
def ring_attention(
    q: Tensor, k: Tensor, v: Tensor, document_ids: Tensor | None = None, key_document_ids: Tensor | None = None,
    prefix: Tensor | None = None, *, pattern: Pattern = CAUSAL, scale: float | None = None, stretches: Stretches,
    group: Any,
) -> Tensor:
    """softmax(q kᵀ scale) v over the whole rows of which each process of `group` has two stretches.

    q (batch, heads, tokens, head_dim), k, v (batch, kv_heads, tokens, head_dim) and document_ids (batch, tokens): of
    this process's tokens; key_document_ids and prefix (batch, time): of whole rows. The rest is as in `attention`.
    """
    if torch.is_autocast_enabled(q.device.type):
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    scene = _Scene(pattern, document_ids, key_document_ids, prefix, stretches, group, q.shape[2])
    return _Ring.apply(q, k, v, 1 / math.sqrt(q.shape[-1]) if scale is None else scale, scene)


class _Scene:
    """Who sees whom, and who sends to whom."""

    def __init__(self, pattern: Pattern, document_ids: Tensor | None, key_document_ids: Tensor | None,
                 prefix: Tensor | None, stretches: Stretches, group: Any, tokens: int) -> None:
        self.pattern, self.prefix = pattern, prefix
        self.document_ids, self.key_document_ids = document_ids, key_document_ids
        self.stretches, self.group, self.tokens = stretches, group, tokens

    def source(self, step: int) -> int:
        """Whose keys are here in this step."""
        return (self.stretches.place - step) % self.stretches.size

    def pairs(self, source: int) -> list[tuple[slice, slice, int, tuple[int, int]]]:
        """Blocks of own queries and the keys of `source` that they might see: where the queries and the keys lie
        among the tokens of their process, the position of the first query, and the positions of the keys."""
        time, found = self.tokens * self.stretches.size, []
        for start, stop, queries in self.stretches.mine(self.tokens):
            for low in range(start, stop, BLOCK):
                high = min(low + BLOCK, stop)
                # A prefix may lie anywhere.
                runs = ((0, time),) if self.prefix is not None else self.pattern.reach(low, high, time)
                for key_start, key_stop, keys in self.stretches.mine(self.tokens, source):
                    inside = [(max(a, key_start), min(b, key_stop)) for a, b in runs]
                    inside = [(a, b) for a, b in inside if a < b]
                    if inside:
                        first, last = inside[0][0], inside[-1][1]
                        found.append((
                            slice(queries.start + low - start, queries.start + high - start),
                            slice(keys.start + first - key_start, keys.start + last - key_start), low, (first, last)))
        return found

    def scores(self, q: Tensor, k: Tensor, queries: slice, first: int, run: tuple[int, int]) -> Tensor:
        """q (batch, kv_heads, groups, queries, head_dim), scaled, and k (batch, kv_heads, keys, head_dim) ->
        (batch, kv_heads, groups, queries, keys) fp32, -inf where a query must not look."""
        scores = (q.flatten(2, 3) @ k.transpose(-2, -1)).float().unflatten(2, q.shape[2:4])
        if self.pattern.plain and self.document_ids is None and self.prefix is None and (
                not self.pattern.causal or run[1] <= first + 1):
            return scores
        seen = allowed(
            self.pattern, first, first + q.shape[3], (run,), q.device,
            None if self.document_ids is None else self.document_ids[:, queries], self.key_document_ids, self.prefix,
            first)
        return scores.masked_fill_(~seen[:, :, None], -math.inf)

    def send(self, tensor: Tensor) -> tuple[Tensor, list[Any]]:
        """Begin to give `tensor` to the next process and to take what the one before gives."""
        size, place, taken = self.stretches.size, self.stretches.place, torch.empty_like(tensor)
        works = dist.batch_isend_irecv([
            dist.P2POp(dist.isend, tensor, group=self.group, group_peer=(place + 1) % size),
            dist.P2POp(dist.irecv, taken, group=self.group, group_peer=(place - 1) % size)])
        return taken, works


def _arrived(taken: Tensor, works: list[Any]) -> Tensor:
    for work in works:
        work.wait()
    return taken


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, scale, scene):  # type: ignore[no-untyped-def]
        with torch.autocast(q.device.type, enabled=False):
            out, logs = _forward(q, k, v, scale, scene)
        ctx.save_for_backward(q, k, v, out, logs)
        ctx.scale, ctx.scene = scale, scene
        return out

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        q, k, v, out, logs = ctx.saved_tensors
        return *_backward(q, k, v, out, logs, gradient, ctx.scale, ctx.scene), None, None


def _grouped(x: Tensor, kv_heads: int) -> Tensor:
    """(batch, heads, tokens, ...) -> (batch, kv_heads, heads / kv_heads, tokens, ...)."""
    return x.unflatten(1, (kv_heads, -1))


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float, scene: _Scene) -> tuple[Tensor, Tensor]:
    """The mixed values, like q, and the logs of the softmax's denominators, (batch, heads, tokens) fp32."""
    queries = _grouped(q * scale, k.shape[1])
    out = torch.zeros(queries.shape, dtype=torch.float32, device=q.device)
    logs = torch.full(queries.shape[:-1], -math.inf, dtype=torch.float32, device=q.device)
    held = torch.stack([k, v])
    for step in range(scene.stretches.size):
        last = step == scene.stretches.size - 1
        coming = None if last else scene.send(held)
        for rows, columns, first, run in scene.pairs(scene.source(step)):
            keys, values = held[:, :, :, columns]
            scores = scene.scores(queries[:, :, :, rows], keys, rows, first, run)
            old = logs[:, :, :, rows]
            new = torch.logaddexp(old, scores.logsumexp(-1))
            safe = new.masked_fill(new == -math.inf, 0.0)  # queries that have seen nothing yet
            weights = (scores - safe[..., None]).exp_().to(values.dtype)
            mixed = (weights.flatten(2, 3) @ values).float().unflatten(2, weights.shape[2:4])
            out[:, :, :, rows] = out[:, :, :, rows] * (old - safe).exp()[..., None] + mixed
            logs[:, :, :, rows] = new
        if coming is not None:
            held = _arrived(*coming)
    return out.flatten(1, 2).to(v.dtype), logs.flatten(1, 2)


def _backward(q: Tensor, k: Tensor, v: Tensor, out: Tensor, logs: Tensor, gradient: Tensor, scale: float,
              scene: _Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v: the weights are computed anew from the logs (arXiv:2205.14135, algorithm 4)."""
    kv_heads = k.shape[1]
    queries, slopes, denominators = (_grouped(x, kv_heads) for x in (q * scale, gradient, logs))
    means = _grouped((gradient.float() * out.float()).sum(-1), kv_heads)
    to_queries = torch.zeros(queries.shape, dtype=torch.float32, device=q.device)
    held = torch.stack([k, v])
    to_held = torch.zeros(held.shape, dtype=torch.float32, device=q.device)
    for step in range(scene.stretches.size):
        last = step == scene.stretches.size - 1
        coming = None if last else scene.send(held)
        for rows, columns, first, run in scene.pairs(scene.source(step)):
            keys, values = held[:, :, :, columns]
            scores = scene.scores(queries[:, :, :, rows], keys, rows, first, run)
            weights = (scores - denominators[:, :, :, rows, None]).exp_()
            slope = slopes[:, :, :, rows].flatten(2, 3).to(values.dtype)
            by_weight = (slope @ values.transpose(-2, -1)).float().unflatten(2, weights.shape[2:4])
            by_score = (weights * (by_weight - means[:, :, :, rows, None])).to(keys.dtype).flatten(2, 3)
            to_queries[:, :, :, rows] += (by_score @ keys).float().unflatten(2, weights.shape[2:4])
            flat = queries[:, :, :, rows].flatten(2, 3)
            to_held[0, :, :, columns] += (by_score.transpose(-2, -1) @ flat).float()
            to_held[1, :, :, columns] += (weights.to(values.dtype).flatten(2, 3).transpose(-2, -1) @ slope).float()
        if coming is not None:
            held = _arrived(*coming)
        # Gradients travel with their keys; after the last step they are one process before home.
        to_held = _arrived(*scene.send(to_held))
    to_keys, to_values = to_held
    return (to_queries.flatten(1, 2) * scale).to(q.dtype), to_keys.to(k.dtype), to_values.to(v.dtype)
