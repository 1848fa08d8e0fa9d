"""Multi-token prediction: every place predicts the next token and some after it (Gloeckle et al. 2024,
arXiv:2404.19737; DeepSeek-V3, arXiv:2412.19437, section 2.2)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from gristmill.models.layers.norms import make_norm
from gristmill.objectives.base import Batch, LossTerms
from gristmill.objectives.causal_lm import CausalLM
from gristmill.objectives.cross_entropy import IGNORED, output_loss

Form = Literal["sequential", "parallel"]


def later_targets(targets: Tensor, document_ids: Tensor | None, ahead: int) -> Tensor:
    """The targets `ahead` places further on, (batch, time - ahead): -100 where they belong to another document, or
    where anything up to them is not scored.

    targets, document_ids (batch, time).
    """
    time = max(targets.shape[1] - ahead, 0)
    later = targets[:, ahead:].clone()
    for step in range(ahead):
        later[targets[:, step:step + time] == IGNORED] = IGNORED
    if document_ids is not None:
        later[document_ids[:, :time] != document_ids[:, ahead:]] = IGNORED
    return later


class Depth(nn.Module):
    """One more prediction: a block of the model's own kind on the states of the prediction before it.

    sequential (DeepSeek-V3, eq. 21): the block reads join(norm(state), norm(embedding of the token just predicted)), so
    that predictions stay a chain. parallel (Gloeckle et al.): it reads the state alone.
    """

    def __init__(self, model: nn.Module, form: Form) -> None:
        """Starts as a copy of the model's last block (a block at its start is the identity in models of ours) and the
        sum of both inputs: a function of the model's weights, with nothing drawn at random."""
        super().__init__()
        config = model.config
        dim: int = config.dim  # type: ignore[union-attr, assignment]

        def norm() -> nn.Module:
            return make_norm(config.norm, dim, config.norm_eps, config.norm_bias)  # type: ignore[union-attr, arg-type]

        self.state_norm = norm()
        self.token_norm = self.join = None
        if form == "sequential":
            self.token_norm, self.join = norm(), nn.Linear(2 * dim, dim, bias=False)
            with torch.no_grad():
                self.join.weight.copy_(torch.eye(dim).repeat(1, 2) / 2**0.5)
        self.block: nn.Module = copy.deepcopy(model.blocks[-1])  # type: ignore[index, assignment, arg-type]
        # Nothing is looked up here: a table that no gradient reaches would be memory for nothing, and stops DDP.
        self.block.attention.value_embedding = self.block.attention.value_gate = None  # type: ignore[union-attr, assignment]
        self.norm = norm()

    def forward(self, model: nn.Module, states: Tensor, tokens: Tensor, document_ids: Tensor | None) -> Tensor:
        """states (batch, time, dim) and, one a place, tokens and document_ids (batch, time) -> (batch, time, dim)."""
        states = self.state_norm(states)
        if self.join is not None and self.token_norm is not None:
            known = model.embedding(tokens)  # type: ignore[operator]
            states = self.join(torch.cat([states, self.token_norm(known)], dim=-1))
        places = torch.arange(tokens.shape[1], device=tokens.device)[None]
        angles = None if model.rotary is None else model.rotary(places)  # type: ignore[operator]
        return self.norm(self.block(states, angles, document_ids))


class MultiTokenLM:
    """Terms `loss` (the next token), `loss_2`, `loss_3`, ...: the tokens after it; in nats a token.

    A place is scored at depth k where the k tokens after it are of its document and row. The head and the embedding are
    the model's; the blocks in between are trained along and then left behind (`attach`). The total is
    loss + weight x the mean of the others (DeepSeek-V3, eq. 24-25).
    """

    def __init__(self, depth: int = 2, *, weight: float = 0.3, form: Form = "sequential", label_smoothing: float = 0.0,
                 z_loss: float = 0.0) -> None:
        """depth: tokens predicted at every place; 1 is causal language modelling. The smoothing and the z-loss are of
        the next token's prediction."""
        self.depth, self.form = depth, form
        self.next = CausalLM(label_smoothing=label_smoothing, z_loss=z_loss)
        self.weights: Mapping[str, float] = {
            **self.next.weights, **{f"loss_{k}": weight / (depth - 1) for k in range(2, depth + 1)}}
        self.depths = nn.ModuleList()

    def attach(self, model: nn.Module) -> nn.Module:
        """Fresh parts for this model."""
        device: torch.device = model.head_weight.device  # type: ignore[union-attr, assignment]
        self.depths = nn.ModuleList(Depth(model, self.form) for _ in range(1, self.depth)).to(device)
        return self.depths

    def counts(self, batch: Batch) -> dict[str, int]:
        counts = self.next.counts(batch)
        for k in range(2, self.depth + 1):
            later = later_targets(batch["targets"], batch.get("document_ids"), k - 1)
            counts[f"loss_{k}"] = int((later != IGNORED).sum())
        return counts

    @property
    def looks_up_tokens(self) -> bool:
        """Whether `score` reads the model's embedding."""
        return self.form == "sequential" and self.depth > 1

    def terms(self, model: nn.Module, batch: Batch) -> LossTerms:
        if len(self.depths) != self.depth - 1:
            self.attach(model)
        return self.score(model, self.next.states(model, batch), batch)

    def score(self, model: nn.Module, states: Tensor, batch: Batch) -> LossTerms:
        """The terms that these states give, by the depths that are attached."""
        self.depths.train(model.training)
        trunk = previous = states
        terms = self.next.score(model, trunk, batch)
        ids, document_ids = batch["input_ids"], batch.get("document_ids")
        scale = getattr(model.config, "logit_scale", 1.0)
        for k, depth in enumerate(self.depths, start=2):
            time = ids.shape[1] - k + 1
            if time < 1:  # rows too short for this depth
                nothing = torch.zeros((), device=ids.device)
                terms.sums[f"loss_{k}"], terms.metrics[f"accuracy_{k}"] = nothing, (nothing, f"loss_{k}")
                continue
            source = previous if self.form == "sequential" else trunk
            documents = None if document_ids is None else document_ids[:, :time]
            previous = depth(model, source[:, :time], ids[:, k - 1:], documents)
            found = output_loss(model, previous if scale == 1.0 else previous * scale,
                                later_targets(batch["targets"], document_ids, k - 1))
            terms.sums[f"loss_{k}"] = found.total
            terms.metrics[f"accuracy_{k}"] = (found.correct, f"loss_{k}")
        return terms
