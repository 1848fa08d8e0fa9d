"""Span corruption for encoder-decoders: read a text with gaps, write what stood in them (Raffel et al. 2020,
arXiv:1910.10683, section 3.1.4)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.models.config import EncoderDecoderConfig
from gristmill.objectives.pretraining.causal_lm import check_regularisation
from gristmill.objectives.pretraining.corrupted import CorruptedBatches, Specials, corrupted
from gristmill.objectives.pretraining.rows import HeldOutRows
from gristmill.objectives.sequence_to_sequence import SequenceToSequence
from gristmill.objectives.span_corruption import Denoiser
from gristmill.tokenizer import Tokenizer
from gristmill.tokens import TokenShards


@config
class SpanCorruption:
    """Spans of each piece of a document become sentinels in the encoder's row; the decoder writes sentinels and spans.

    A row holds pieces of several documents, which never see each other. A piece has no more spans than the tokenizer
    has sentinels.
    """

    kind: Literal["span_corruption"] = "span_corruption"
    density: float = 0.15
    """Share of the tokens that are cut out."""
    mean_span: float = 3.0
    """Mean length of a span, in tokens."""
    targets: int | None = None
    """Tokens of a row for the decoder; default what a row filled by one text needs, T5's 114 for 512."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over the whole vocabulary. `loss` is reported without it."""
    z_loss: float = 0.0
    """Weight of log(Z)²; T5 has 1e-4. `loss` is reported without it."""

    def __post_init__(self) -> None:
        check_denoising(self.targets, self.label_smoothing, self.z_loss)
        self.denoiser  # noqa: B018 (checks its numbers)

    @property
    def denoiser(self) -> Denoiser:
        """The two numbers as the one denoiser of a mixture."""
        return Denoiser(density=self.density, mean_span=self.mean_span)

    def check(self, model_config: Any, tokenizer: Tokenizer) -> None:
        check_encoder_decoder(self.kind, model_config, tokenizer)

    def loss(self, model_config: Any) -> SequenceToSequence:
        return SequenceToSequence(label_smoothing=self.label_smoothing, z_loss=self.z_loss)

    def batches(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, seed: int
    ) -> CorruptedBatches:
        return corrupted([self.denoiser], shards, tokenizer, context=context, batch=batch, seed=seed,
                         targets=self.targets)

    def held_out(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, limit_tokens: int, seed: int
    ) -> HeldOutRows:
        return HeldOutRows(corrupted([self.denoiser], shards, tokenizer, context=context, batch=batch, seed=seed,
                                     targets=self.targets, limit_tokens=limit_tokens))

    def guess(self, model: Any, tokenizer: Tokenizer, before: str, true: str) -> tuple[Tensor, int]:
        return guess_gap(model, tokenizer, before, true)


def check_encoder_decoder(kind: str, model_config: Any, tokenizer: Tokenizer) -> None:
    """UserError unless this is an encoder-decoder that this tokenizer fits."""
    if not isinstance(model_config, EncoderDecoderConfig):
        raise UserError(f"{kind} trains encoder-decoders; {model_config.family} is none", where="objective",
                        fix="leave `objective` out to use the family's own, or set model.family to t5 or mt5")
    pad = Specials.of(tokenizer).pad
    for name in ("pad_id", "start_id"):
        if getattr(model_config, name) != pad:
            raise UserError(f"the model's {name} is {getattr(model_config, name)}, the tokenizer pads, and texts "
                            f"begin, with token {pad}", where="model",
                            fix=f"set `model: {{options: {{{name}: {pad}}}}}`")


def check_denoising(targets: int | None, label_smoothing: float, z_loss: float) -> None:
    """ValueError for numbers out of range."""
    require(targets is None or targets >= 1, "targets", "must be at least 1")
    check_regularisation(label_smoothing, z_loss)


def guess_gap(model: Any, tokenizer: Tokenizer, before: str, true: str, mode: int | None = None) -> tuple[Tensor, int]:
    """Log-probabilities (vocab,) of what begins the gap behind `before`, and the id of the first token of `true`. mode:
    the token that begins the text, if any."""
    specials, first = Specials.of(tokenizer), tokenizer.sentinel_ids[0]
    kept = tokenizer.encode(before)[-max(1, model.config.context - 3):]
    device = model.head_weight.device
    read = torch.tensor([[*([] if mode is None else [mode]), *kept, first, specials.end]], device=device)
    logits = model(read, torch.tensor([[specials.pad, first]], device=device))[0, -1]
    return logits.float().log_softmax(-1), tokenizer.encode(true)[0]
