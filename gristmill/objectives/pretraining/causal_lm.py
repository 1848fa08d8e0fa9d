"""Causal language modelling: rows of text, every token predicted from the ones before it (Radford et al. 2018)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.models.config import DecoderConfig
from gristmill.objectives.causal_lm import CausalLM
from gristmill.tokenizer import Tokenizer
from gristmill.tokens import EvaluationBatches, PackedBatches, TokenShards, WholeBatches, text_batches


@config
class CausalLanguageModelling:
    """Predict each token from the ones before it."""

    best_fit: ClassVar[bool] = True

    kind: Literal["causal_lm"] = "causal_lm"
    label_smoothing: float = 0.0
    """Share of each target that is spread over the whole vocabulary; 0.1 is usual where it is used. `loss` is reported
    without it."""
    z_loss: float = 0.0
    """Weight of log(Z)², which keeps the logits near zero; PaLM has 1e-4. `loss` is reported without it."""

    def __post_init__(self) -> None:
        check_regularisation(self.label_smoothing, self.z_loss)

    def check(self, model_config: Any, tokenizer: Tokenizer) -> None:
        """Only decoders are causal."""
        check_decoder(self.kind, model_config)

    def loss(self, model_config: Any) -> CausalLM:
        return CausalLM(label_smoothing=self.label_smoothing, z_loss=self.z_loss)

    def batches(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, seed: int
    ) -> PackedBatches | WholeBatches:
        return text_batches(shards, context=context, batch=batch, seed=seed)

    def held_out(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, limit_tokens: int, seed: int
    ) -> EvaluationBatches:
        return EvaluationBatches(shards, context, batch, limit_tokens=limit_tokens)

    def guess(self, model: Any, tokenizer: Tokenizer, before: str, true: str) -> tuple[Tensor, int]:
        return guess_next(model, tokenizer, before, true)


def check_decoder(kind: str, model_config: Any) -> None:
    """UserError for a model that is no decoder."""
    if not isinstance(model_config, DecoderConfig):
        raise UserError(f"{kind} trains decoders; {model_config.family} is none", where="objective",
                        fix="leave `objective` out to use the family's own")


def check_regularisation(label_smoothing: float, z_loss: float) -> None:
    """ValueError for numbers out of range."""
    require(0 <= label_smoothing < 1, "label_smoothing", "must be at least 0 and below 1")
    require(z_loss >= 0, "z_loss", "must not be negative")


def guess_next(model: Any, tokenizer: Tokenizer, before: str, true: str, *, prefix: bool = False) -> tuple[Tensor, int]:
    """Log-probabilities (vocab,) of what follows `before`, and the id of the first token of `true`. prefix: all of
    `before` sees all of it."""
    ids = ([] if tokenizer.bos_id is None else [tokenizer.bos_id]) + tokenizer.encode(before)
    row = torch.tensor([ids], device=model.head_weight.device)
    logits = model(row, prefix=torch.ones_like(row, dtype=torch.bool)) if prefix else model(row)
    return logits[0, -1].float().log_softmax(-1), tokenizer.encode(true)[0]
