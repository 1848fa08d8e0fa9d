"""Cross-entropy of a linear head, without ever holding the logits of the whole batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Targets with this value count for nothing."""


def linear_cross_entropy(hidden: Tensor, head: Tensor, targets: Tensor, chunk: int = 512) -> tuple[Tensor, Tensor]:
    """Sum of -log softmax(hidden @ headᵀ)[target] over the targets that are not ignored.

    hidden (tokens, dim); head (vocab, dim); targets (tokens,) int64. Returns the sum (scalar, fp32, differentiable
    in hidden and head) and the number of targets whose most likely token is the true one (scalar, no gradient).
    Chunks of `chunk` tokens are pushed through the head one after another and their gradients taken at once, so the
    memory is chunk x vocab instead of tokens x vocab, and nothing is computed twice.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, head = hidden.to(dtype), head.to(dtype)
    kept = targets != IGNORED
    # Ignored rows are left out rather than masked: with loss on answers only, most rows are.
    if not torch.compiler.is_compiling() and not bool(kept.all()):
        hidden, targets = hidden[kept], targets[kept]
    if not torch.is_grad_enabled() or not (hidden.requires_grad or head.requires_grad):
        return _forward_only(hidden, head, targets, chunk)
    return _LinearCrossEntropy.apply(hidden, head, targets, chunk)


def _forward_only(hidden: Tensor, head: Tensor, targets: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
    for states, wanted in zip(hidden.split(chunk), targets.split(chunk), strict=True):
        logits = F.linear(states, head).float()
        total += F.cross_entropy(logits, wanted, reduction="sum")
        correct += (logits.argmax(-1) == wanted).sum()
    return total, correct


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, targets, chunk):  # type: ignore[no-untyped-def]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden)
        head_gradient = torch.zeros(head.shape, dtype=torch.float32, device=head.device)
        for start in range(0, hidden.shape[0], chunk):
            states, wanted = hidden[start : start + chunk], targets[start : start + chunk]
            logits = F.linear(states, head).float()
            correct += (logits.argmax(-1) == wanted).sum()
            logs = torch.log_softmax(logits, dim=-1)
            picked = wanted[:, None]
            total -= logs.gather(1, picked).sum()
            slope = logs.exp_()
            slope.scatter_add_(1, picked, torch.full_like(picked, -1, dtype=slope.dtype))
            slope = slope.to(hidden.dtype)
            hidden_gradient[start : start + chunk] = slope @ head
            head_gradient += slope.t() @ states
        ctx.save_for_backward(hidden_gradient, head_gradient.to(head.dtype))
        ctx.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    def backward(ctx, total_gradient, _):  # type: ignore[no-untyped-def]
        hidden_gradient, head_gradient = ctx.saved_tensors
        scale = total_gradient
        states = hidden_gradient * scale.to(hidden_gradient.dtype)
        return states, head_gradient * scale.to(head_gradient.dtype), None, None


def sequence_log_probabilities(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Sum over time of log p(target), one number a row.

    hidden (batch, time, dim); head (vocab, dim); targets (batch, time), ignored ones add nothing. Returns (batch,).
    """
    kept = targets != IGNORED
    rows = torch.arange(targets.shape[0], device=targets.device)[:, None].expand_as(targets)[kept]
    logits = F.linear(hidden[kept], head).float()
    logs = -F.cross_entropy(logits, targets[kept], reduction="none")
    return torch.zeros(targets.shape[0], dtype=torch.float32, device=hidden.device).index_add(0, rows, logs)
