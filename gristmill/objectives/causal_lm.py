"""Causal language modelling: predict each token from the ones before it (Radford et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from gristmill.objectives.base import Batch, LossTerms
from gristmill.objectives.cross_entropy import IGNORED, output_loss


class CausalLM:
    """Mean negative log-likelihood of the targets that are not ignored, in nats a token.

    Pretraining and supervised fine-tuning are the same objective: they differ in which targets are ignored. A batch
    with `prefix` (batch, time) of bool is a prefix LM's: those tokens are seen by all of their document (Raffel et
    al. 2020, arXiv:1910.10683, section 3.2.1). `position_ids` (batch or 1, time) are passed on where a batch has them.

    With label smoothing or a z-loss the term `regularised` is minimised, and `loss` stays the pure cross-entropy.
    """

    def __init__(self, *, label_smoothing: float = 0.0, z_loss: float = 0.0) -> None:
        """label_smoothing, z_loss: see `cross_entropy.head_loss`."""
        self.label_smoothing, self.z_loss = label_smoothing, z_loss
        self.regularised = bool(label_smoothing or z_loss)
        self.weights: Mapping[str, float] = {"loss": 0.0, "regularised": 1.0} if self.regularised else {"loss": 1.0}

    def counts(self, batch: Batch) -> dict[str, int]:
        scored = int((batch["targets"] != IGNORED).sum())
        return dict.fromkeys(self.weights, scored)

    def states(self, model: nn.Module, batch: Batch) -> Tensor:
        """What the head reads, (batch, time, dim)."""
        further = {name: batch[name] for name in ("prefix", "position_ids") if name in batch}
        return model.hidden(batch["input_ids"], document_ids=batch.get("document_ids"), **further)  # type: ignore[operator]

    def terms(self, model: nn.Module, batch: Batch) -> LossTerms:
        return self.score(model, self.states(model, batch), batch)

    def score(self, model: nn.Module, states: Tensor, batch: Batch) -> LossTerms:
        """The terms that these states give."""
        found = output_loss(model, states, batch["targets"], label_smoothing=self.label_smoothing, z_loss=self.z_loss)
        accuracy = {"accuracy": (found.correct, "loss")}
        if not self.regularised:
            return LossTerms({"loss": found.total}, accuracy)
        squares = {"log_z_squared": (found.z_squares, "loss")} if self.z_loss else {}
        return LossTerms({"loss": found.cross_entropy, "regularised": found.total}, accuracy | squares)
