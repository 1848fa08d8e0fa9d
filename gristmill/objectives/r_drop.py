"""R-Drop: two passes with different dropout are to agree (Liang et al. 2021, arXiv:2106.14448)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gristmill.core.errors import InternalError
from gristmill.objectives.base import Batch, LossTerms, Objective
from gristmill.objectives.cross_entropy import CHUNK, HeadCall, head_calls, logits_of, scaled


def symmetric_divergence(first: HeadCall, second: HeadCall, chunk: int = CHUNK) -> Tensor:
    """Sum over tokens of (KL(p ‖ q) + KL(q ‖ p)) / 2 in nats, p and q being what one head makes of two sets of states.

    The head is that of `first`. Scalar, fp32, differentiable; `chunk` tokens' logits exist at one time.
    """
    return _Divergence.apply(first.states, second.states, first.head, first.bias, first.soft_cap, chunk)


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, first, second, head, bias, soft_cap, chunk):  # type: ignore[no-untyped-def]
        total = torch.zeros((), dtype=torch.float32, device=first.device)
        of_states = torch.empty_like(first), torch.empty_like(second)
        of_head = torch.zeros(head.shape, dtype=torch.float32, device=head.device)
        of_bias = None if bias is None else torch.zeros(bias.shape, dtype=torch.float32, device=bias.device)
        near = head.to(first.dtype)
        for start in range(0, first.shape[0], chunk):
            part = slice(start, start + chunk)
            logits = [logits_of(states[part], near, bias, soft_cap) for states in (first, second)]
            logs = [one.log_softmax(-1) for one in logits]
            p, q = logs[0].exp(), logs[1].exp()
            gap = logs[0] - logs[1]
            total += 0.5 * ((p - q) * gap).sum()
            # d/dlogits of KL(p ‖ q) is p (gap - E_p gap), of KL(q ‖ p) it is p - q; and the other way round.
            slopes = (p * (gap - (p * gap).sum(-1, keepdim=True)) + p - q,
                      q * ((q * gap).sum(-1, keepdim=True) - gap) + q - p)
            for states, gradient, slope, one in zip((first, second), of_states, slopes, logits, strict=True):
                slope = 0.5 * slope
                if soft_cap is not None:
                    slope = slope * (1 - (one / soft_cap).square())
                if of_bias is not None:
                    of_bias += slope.sum(0)
                slope = slope.to(states.dtype)
                gradient[part] = slope @ near
                of_head += slope.t() @ states[part]
        ctx.save_for_backward(*of_states, of_head.to(head.dtype), None if of_bias is None else of_bias.to(bias.dtype))
        return total

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        first, second, head, bias = (None if saved is None else scaled(saved, gradient) for saved in ctx.saved_tensors)
        return first, second, head, bias, None, None


def has_dropout(config: Any) -> bool:
    """Whether two passes of a model of this config differ in training."""
    return any(getattr(config, f.name) for f in dataclasses.fields(config)
               if "dropout" in f.name or f.name == "stochastic_depth")


class RDrop:
    """Another objective, run twice in training; its own terms are the mean of both runs, and `r_drop` is how far apart
    their predictions are.

    The paper minimises loss₁ + loss₂ + α (KL₁₂ + KL₂₁) / 2; this is half of it, so that the loss keeps its scale. In
    evaluation mode both runs would be equal: the objective is run once, and nothing is added.
    """

    def __init__(self, objective: Objective, alpha: float) -> None:
        self.objective, self.alpha = objective, alpha
        self.weights: Mapping[str, float] = {**objective.weights, "r_drop": alpha / 2}

    def counts(self, batch: Batch) -> dict[str, int]:
        found = self.objective.counts(batch)
        return {**found, "r_drop": found["loss"]}

    def terms(self, model: nn.Module, batch: Batch) -> LossTerms:
        if not model.training:
            return self.objective.terms(model, batch)
        runs, calls = [], []
        for _ in range(2):
            with head_calls() as noted:
                runs.append(self.objective.terms(model, batch))
            if not noted:
                raise InternalError(f"{type(self.objective).__name__} has no head whose predictions could be compared")
            calls.append(noted[0])  # the first is that of the main term
        sums = {name: (runs[0].sums[name] + runs[1].sums[name]) / 2 for name in runs[0].sums}
        metrics = {name: ((value + runs[1].metrics[name][0]) / 2, unit)
                   for name, (value, unit) in runs[0].metrics.items()}
        return LossTerms({**sums, "r_drop": symmetric_divergence(calls[0], calls[1])}, metrics)
