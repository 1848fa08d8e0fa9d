"""Multi-token prediction: every place predicts the next tokens, not only the next one (Gloeckle et al. 2024,
arXiv:2404.19737; DeepSeek-V3, arXiv:2412.19437, section 2.2)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from gristmill.core.config import config, require
from gristmill.objectives.multi_token import MultiTokenLM
from gristmill.objectives.pretraining.causal_lm import check_decoder, check_regularisation, guess_next
from gristmill.tokenizer import Tokenizer
from gristmill.tokens import EvaluationBatches, PackedBatches, TokenShards, WholeBatches, text_batches


@config
class MultiTokenPrediction:
    """Predict the next `depth` tokens. The blocks that predict the further ones are trained along and not saved: what
    comes out is a model like any other."""

    best_fit: ClassVar[bool] = True

    kind: Literal["multi_token"] = "multi_token"
    depth: int = 2
    """Tokens predicted at every place; 1 is causal_lm."""
    weight: float = 0.3
    """Of the mean loss of the further tokens, beside that of the next one (DeepSeek-V3: 0.3, later 0.1)."""
    form: Literal["sequential", "parallel"] = "sequential"
    """sequential: each prediction knows the tokens before it (DeepSeek-V3); parallel: all from the same state (Gloeckle
    et al.)."""
    label_smoothing: float = 0.0
    """Share of each next token's target that is spread over the whole vocabulary. `loss` is reported without it."""
    z_loss: float = 0.0
    """Weight of log(Z)² of the next token's prediction. `loss` is reported without it."""

    def __post_init__(self) -> None:
        require(1 <= self.depth <= 16, "depth", "must be from 1 to 16")
        require(self.weight >= 0, "weight", "must not be negative")
        check_regularisation(self.label_smoothing, self.z_loss)

    def check(self, model_config: Any, tokenizer: Tokenizer) -> None:
        """Only decoders are causal."""
        check_decoder(self.kind, model_config)

    def loss(self, model_config: Any) -> MultiTokenLM:
        return MultiTokenLM(self.depth, weight=self.weight, form=self.form, label_smoothing=self.label_smoothing,
                            z_loss=self.z_loss)

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
