"""Causal language modelling: predict each token from the ones before it (Radford et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from gristmill.objectives.base import Batch, LossTerms
from gristmill.objectives.cross_entropy import IGNORED, linear_cross_entropy


class CausalLM:
    """Mean negative log-likelihood of the targets that are not ignored, in nats a token.

    Pretraining and supervised fine-tuning are the same objective: they differ in which targets are ignored.
    """

    weights: Mapping[str, float] = {"loss": 1.0}

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"loss": int((batch["targets"] != IGNORED).sum())}

    def terms(self, model: nn.Module, batch: Batch) -> LossTerms:
        states = model.hidden(batch["input_ids"], document_ids=batch.get("document_ids"))  # type: ignore[operator]
        total, correct = linear_cross_entropy(
            states.flatten(0, 1), model.head_weight, batch["targets"].flatten()  # type: ignore[arg-type]
        )
        return LossTerms({"loss": total}, {"accuracy": (correct.detach(), "loss")})
