"""Prefix language modelling: the beginning of a text is read as a whole, the rest predicted token by token (Raffel et
al. 2020, arXiv:1910.10683, section 3.2.1)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from gristmill.core.config import config
from gristmill.objectives.base import Batch
from gristmill.objectives.causal_lm import CausalLM
from gristmill.objectives.cross_entropy import IGNORED
from gristmill.objectives.pretraining.causal_lm import check_decoder, check_regularisation, guess_next
from gristmill.objectives.pretraining.rewritten import Rewritten, RewrittenHeldOut, pieces
from gristmill.tokenizer import Tokenizer
from gristmill.tokens import EvaluationBatches, TokenShards, text_batches


@config
class PrefixLanguageModelling:
    """Each piece of a document is split at random: its first part is seen by all of the piece and not scored."""

    best_fit: ClassVar[bool] = True

    kind: Literal["prefix_lm"] = "prefix_lm"
    label_smoothing: float = 0.0
    """Share of each target that is spread over the whole vocabulary. `loss` is reported without it."""
    z_loss: float = 0.0
    """Weight of log(Z)². `loss` is reported without it."""

    def __post_init__(self) -> None:
        check_regularisation(self.label_smoothing, self.z_loss)

    def check(self, model_config: Any, tokenizer: Tokenizer) -> None:
        """Only decoders take a prefix."""
        check_decoder(self.kind, model_config)

    def loss(self, model_config: Any) -> CausalLM:
        return CausalLM(label_smoothing=self.label_smoothing, z_loss=self.z_loss)

    def batches(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, seed: int
    ) -> Rewritten:
        return Rewritten(text_batches(shards, context=context, batch=batch, seed=seed), split, seed)

    def held_out(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, limit_tokens: int, seed: int
    ) -> RewrittenHeldOut:
        """Split like the training text, always at the same places."""
        return RewrittenHeldOut(EvaluationBatches(shards, context, batch, limit_tokens=limit_tokens), split, seed)

    def guess(self, model: Any, tokenizer: Tokenizer, before: str, true: str) -> tuple[Tensor, int]:
        return guess_next(model, tokenizer, before, true, prefix=True)


def split(batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
    """The batch with `prefix` (batch, time) of bool, and -100 for targets that lie inside a prefix.

    A prefix has 1 to length - 1 tokens of its piece, each number as likely; its last token predicts the first of the
    continuation.
    """
    targets, prefix = batch["targets"].clone(), torch.zeros_like(batch["targets"], dtype=torch.bool)
    found = pieces(batch["document_ids"].numpy())
    for (row, start, stop), draw in zip(found, rng.random(len(found)), strict=True):
        size = 1 + int(draw * max(stop - start - 1, 1))
        prefix[row, start:start + size] = True
        targets[row, start:start + size - 1] = IGNORED
    return {**batch, "targets": targets, "prefix": prefix}
