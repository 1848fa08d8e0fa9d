"""A mixture of experts in place of a feed-forward layer: router, experts, balance (Shazeer et al. 2017,
arXiv:1701.06538)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.models.config.moe import MoEConfig
from gristmill.models.layers.experts import Experts
from gristmill.models.layers.mlp import make_mlp
from gristmill.models.layers.rotary import Tables


def alone(counts: Tensor) -> Tensor:
    """The sum of counts over processes where there is but one."""
    return counts


@dataclass(frozen=True)
class Routing:
    """What one layer's router decided in its last forward pass; tokens are rows of the batch one after another."""

    logits: Tensor
    """(tokens, experts), fp32, differentiable."""
    shares: Tensor
    """(tokens, experts): the scores over their sum, differentiable."""
    chosen: Tensor
    """(tokens, active): numbers of experts."""
    real: Tensor | None
    """(tokens,) of bool: False for padding; None where there is none."""
    total: Callable[[Tensor], Tensor] = alone
    """Sums counts over all that hold tokens of the same rows."""


class MoE(Tables):
    """Each token goes to the `active` experts of the highest score, and to the shared ones."""

    selection_bias: Tensor | None
    load: Tensor
    dropped: Tensor

    def __init__(self, dim: int, settings: MoEConfig, activation: str) -> None:
        super().__init__()
        self.settings = settings
        self.router = nn.Linear(dim, settings.experts, bias=False)
        self.experts = Experts(settings.experts, dim, settings.width, activation)
        self.shared = make_mlp(dim, settings.shared * settings.width, activation, False) if settings.shared else None
        self.shared_gate = nn.Linear(dim, 1, bias=False) if settings.shared_gate else None
        # State that is no parameter: no gradient reaches it, yet the result depends on it.
        self.register_buffer("selection_bias", torch.zeros(settings.experts) if settings.selection_bias else None)
        # Since the last update: choices that fell on each expert, and how many of them found no room.
        self.register_buffer("load", torch.zeros(settings.experts, dtype=torch.int64), persistent=False)
        self.register_buffer("dropped", torch.zeros((), dtype=torch.int64), persistent=False)
        self.recording = False
        self.routing: Routing | None = None
        self.total: Callable[[Tensor], Tensor] = alone
        """Sums counts over all that hold tokens of the same rows; context parallelism puts another function here."""

    def build_tables(self, device: torch.device) -> None:
        self.load = torch.zeros(self.settings.experts, dtype=torch.int64, device=device)
        self.dropped = torch.zeros((), dtype=torch.int64, device=device)

    def forward(self, x: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """x (batch, time, dim) -> the same shape. document_ids (batch, time): -1 is padding, which is no load."""
        rows = x.flatten(0, -2)
        real = None if document_ids is None else document_ids.flatten() >= 0
        logits, scores, chosen = self.route(rows)
        weights = scores.gather(1, chosen)
        if self.settings.renormalise:
            weights = weights / (weights.sum(1, keepdim=True) + 1e-20)
        weights = weights * self.settings.scale
        kept = self.within_capacity(chosen, real) if self.training and self.settings.capacity else None
        if self.training:
            self.load += loads(chosen, self.settings.experts, real)
        if kept is not None:
            self.dropped += (~kept if real is None else ~kept & real[:, None]).sum()
        if self.recording:
            self.routing = Routing(logits, scores / scores.sum(1, keepdim=True), chosen, real, self.total)
        out = self.experts(rows, chosen, weights, kept)
        if self.shared is not None:
            always = self.shared(rows)
            out = out + (always if self.shared_gate is None else self.shared_gate(rows).sigmoid() * always)
        return out.view_as(x)

    def route(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """rows (tokens, dim) -> logits and scores (tokens, experts) in fp32, chosen (tokens, active).

        In fp32 whatever the precision around it: a rounded logit sends tokens to other experts (arXiv:2101.03961, 2.4).
        """
        with torch.autocast(rows.device.type, enabled=False):
            logits = F.linear(rows.float(), self.router.weight.float())
            scores = logits.softmax(-1) if self.settings.score == "softmax" else logits.sigmoid()
            ranked = scores.detach() if self.selection_bias is None else scores.detach() + self.selection_bias
            return logits, scores, ranked.topk(self.settings.active, dim=-1).indices

    def within_capacity(self, chosen: Tensor, real: Tensor | None) -> Tensor:
        """Which choices find room, (tokens, active) of bool: each expert takes its first ones in reading order, so that
        no token is dropped because of a later one of its row; padding takes no room."""
        assert self.settings.capacity is not None
        tokens = len(chosen) if real is None else int(real.sum())
        room = math.ceil(self.settings.capacity * tokens * self.settings.active / self.settings.experts)
        wanted = F.one_hot(chosen.flatten(), self.settings.experts)
        if real is not None:
            wanted = wanted * real.repeat_interleave(self.settings.active)[:, None]
        place = (wanted.cumsum(0) * wanted).sum(1).view_as(chosen)
        return (place >= 1) & (place <= room)

    @torch.no_grad()
    def rebalance(self, total: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Move the selection bias against the loads since the last call (arXiv:2408.15664, algorithm 1), and begin to
        count anew. Returns those loads (experts,), and how many choices were dropped."""
        load, dropped = total(self.load.clone()), total(self.dropped.clone())
        if self.selection_bias is not None:
            mean = load.to(self.selection_bias.dtype).mean()
            self.selection_bias += self.settings.bias_rate * (mean - load).sign()
        self.load.zero_()
        self.dropped.zero_()
        return load, dropped

    @torch.no_grad()
    def reset_balance(self) -> None:
        """As before the first update."""
        self.load.zero_()
        self.dropped.zero_()
        if self.selection_bias is not None:
            self.selection_bias.zero_()


def loads(chosen: Tensor, experts: int, real: Tensor | None) -> Tensor:
    """How many choices fell on each expert, (experts,) of int64; chosen (tokens, active), real (tokens,) of bool."""
    ones = torch.ones_like(chosen) if real is None else real[:, None].expand_as(chosen).to(torch.int64)
    return torch.zeros(experts, dtype=torch.int64, device=chosen.device).scatter_add_(
        0, chosen.flatten(), ones.flatten())


def expert_layers(model: nn.Module) -> list[MoE]:
    """The layers with experts, in the order of the model."""
    return [module for module in model.modules() if isinstance(module, MoE)]


def rebalance(model: nn.Module, total: Callable[[Tensor], Tensor] = alone,
              stages: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
    """Once an update: let every layer's selection bias follow the loads of the whole window.

    total: sums counts over the processes that share the batch. stages: (n,) -> (stages, n), from those that hold other
    layers; all of them call this together. Returns what a trace wants to know, nothing for a model
    without experts: router_max_load and router_min_load, of the layer that is worst, over the even share (1 is
    balanced); router_dropped, the share of choices dropped for lack of room, where there is a capacity.
    """
    layers = expert_layers(model)
    found = [layer.rebalance(total) for layer in layers]
    if not found and stages is None:
        return {}
    seen = torch.zeros(4, dtype=torch.float64, device=next(model.parameters()).device)
    if found:
        loads = torch.stack([load for load, _ in found]).double()
        shares = loads / loads.mean(1, keepdim=True).clamp(min=1e-9)
        dropped = torch.stack([dropped for _, dropped in found]).double().sum()
        limited = bool(layers[0].settings.capacity)
        seen = torch.stack([shares.max(), shares.min(), loads.sum(), dropped if limited else -torch.ones_like(dropped)])
    seen = seen[None] if stages is None else stages(seen)
    seen = seen[seen[:, 2] > 0]  # the others hold no experts, or computed nothing
    if not len(seen):
        return {}
    largest, least, chosen, dropped = seen.T
    values = {"router_max_load": float(largest.max()), "router_min_load": float(least.min())}
    return values if bool((dropped < 0).any()) else values | {"router_dropped": float(dropped.sum() / chosen.sum())}


@contextlib.contextmanager
def recorded(model: nn.Module) -> Iterator[Callable[[], list[Routing]]]:
    """Inside, layers with experts keep the routing of their last forward pass; call what is given to read it."""
    layers = expert_layers(model)
    for layer in layers:
        layer.recording = True
    try:
        yield lambda: [layer.routing for layer in layers if layer.routing is not None]
    finally:
        for layer in layers:
            layer.recording, layer.routing = False, None
