"""What keeps the loads of experts equal and their routers calm: losses beside the main one.

The balance loss is a product of means and does not add over batches: its count is 1 a micro-batch, so an update takes
the mean over its micro-batches. The z-loss is a mean over tokens and adds exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gristmill.models.config import MoEConfig
from gristmill.models.layers.moe import Routing, loads, recorded
from gristmill.objectives.base import Batch, LossTerms, Objective

BALANCE, Z = "router_balance", "router_z"
"""Names of the terms."""


def balance_loss(routings: Sequence[Routing], pooled: bool = False) -> Tensor:
    """experts x sum over experts of (choices a token that fell on it) x (its mean share of the scores); `active` when
    all loads are equal (Fedus et al. 2021, arXiv:2101.03961, eq. 4-6; choices of every rank are counted, as Mixtral
    does).

    The mean over the layers, each taken by itself; pooled: shares and choices are averaged over the layers before they
    are multiplied, as transformers does, so that one layer may lean one way and the next the other. Padding is left
    out. Returns a scalar, fp32.
    """
    chosen, shares = (torch.stack(of_layers) for of_layers in zip(*map(_means, routings), strict=True))
    if pooled:
        chosen, shares = chosen.mean(0, keepdim=True), shares.mean(0, keepdim=True)
    return chosen.shape[1] * (chosen * shares).sum(1).mean()


def z_loss(routings: Sequence[Routing]) -> Tensor:
    """Sum over tokens of log(sum of exp(logits))², the mean over layers (Zoph et al. 2022, arXiv:2202.08906, eq. 5)."""
    total = torch.stack([_real(r, r.logits.logsumexp(1).square()).sum() for r in routings])
    return total.mean()


def _real(routing: Routing, values: Tensor) -> Tensor:
    """values (tokens, ...) without padding."""
    return values if routing.real is None else values[routing.real]


def _means(routing: Routing) -> tuple[Tensor, Tensor]:
    """Choices a token that fell on each expert, and its share of the scores, both (experts,).

    Where a row's tokens are spread over processes, the choices are those of all of them and the shares those of this
    process over the tokens of all: the losses of the processes then add up to that of whole rows.
    """
    experts = routing.logits.shape[1]
    shares = _real(routing, routing.shares)
    here = loads(routing.chosen, experts, routing.real)
    everywhere = routing.total(torch.cat([here, here.new_tensor([len(shares)])]))
    choices, tokens = everywhere[:-1], everywhere[-1].clamp(min=1)  # of padding alone: nothing, not nan
    return choices.float() / tokens, shares.sum(0) / tokens


class RouterLosses:
    """Another objective with the losses of the experts of its model.

    They are those of the layers' last forward pass: of an objective that runs the model several times, the last one.
    """

    def __init__(self, objective: Objective, settings: MoEConfig) -> None:
        self.objective, self.settings = objective, settings
        own = {BALANCE: settings.balance_loss, Z: settings.z_loss}
        self.weights: Mapping[str, float] = {
            **objective.weights, **{name: weight for name, weight in own.items() if weight}}

    def counts(self, batch: Batch) -> dict[str, int]:
        real = batch["document_ids"] >= 0 if "document_ids" in batch else None
        tokens = batch["input_ids"].numel() if real is None else int(real.sum())
        own = {BALANCE: min(tokens, 1), Z: tokens}
        return {**self.objective.counts(batch), **{n: c for n, c in own.items() if n in self.weights}}

    def terms(self, model: nn.Module, batch: Batch) -> LossTerms:
        with recorded(model) as routings:
            found = self.objective.terms(model, batch)
            of_layers = routings()
        sums = dict(found.sums)
        if BALANCE in self.weights:
            sums[BALANCE] = balance_loss(of_layers, self.settings.pooled_balance)
        if Z in self.weights:
            sums[Z] = z_loss(of_layers)
        return LossTerms(sums, found.metrics)


def with_router_losses(objective: Objective, config: Any) -> Objective:
    """`objective` with the losses that the experts of a model of this config ask for, if it has any."""
    settings = getattr(config, "moe", None)
    if settings is None or not (settings.balance_loss or settings.z_loss):
        return objective
    return RouterLosses(objective, settings)
