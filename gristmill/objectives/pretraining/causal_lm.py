"""Causal language modelling: rows of text, every token predicted from the ones before it (Radford et al. 2018)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from gristmill.core.config import config
from gristmill.core.errors import UserError
from gristmill.models.config import DecoderConfig
from gristmill.objectives.causal_lm import CausalLM
from gristmill.tokenizer import Tokenizer
from gristmill.tokens import EvaluationBatches, PackedBatches, TokenShards


@config
class CausalLanguageModelling:
    """Predict each token from the ones before it."""

    kind: Literal["causal_lm"] = "causal_lm"

    def check(self, model_config: Any, tokenizer: Tokenizer) -> None:
        """Only decoders are causal."""
        if not isinstance(model_config, DecoderConfig):
            raise UserError(f"causal_lm trains decoders; {model_config.family} is none", where="objective",
                            fix="leave `objective` out to use the family's own")

    def loss(self, model_config: Any) -> CausalLM:
        return CausalLM()

    def batches(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, seed: int
    ) -> PackedBatches:
        return PackedBatches(shards, context=context, batch=batch, seed=seed)

    def held_out(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, limit_tokens: int, seed: int
    ) -> EvaluationBatches:
        return EvaluationBatches(shards, context, batch, limit_tokens=limit_tokens)

    def guess(self, model: Any, tokenizer: Tokenizer, before: str, true: str) -> tuple[Tensor, int]:
        ids = ([] if tokenizer.bos_id is None else [tokenizer.bos_id]) + tokenizer.encode(before)
        logits = model(torch.tensor([ids], device=model.head_weight.device))[0, -1]
        return logits.float().log_softmax(-1), tokenizer.encode(true)[0]
