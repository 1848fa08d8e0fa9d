"""Masked language modelling: rows filled with text, some tokens hidden (Devlin et al. 2019; Liu et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.models.config import EncoderConfig
from gristmill.objectives.masked_lm import MaskedLM
from gristmill.objectives.masking import Masking, Vocabulary
from gristmill.objectives.pretraining.parallel import Languages, by_language, tempered
from gristmill.objectives.pretraining.rows import (
    Frame,
    HeldOutRows,
    MaskedBatches,
    RowSource,
    TextRows,
    first_documents,
)
from gristmill.tokenizer import Tokenizer
from gristmill.tokens import TokenShards


@config
class MaskedLanguageModelling:
    """Hide some tokens of rows filled with text, and say what stood there."""

    kind: Literal["masked_lm"] = "masked_lm"
    masking: Masking = Masking()
    """How many tokens are hidden, in which units, and what replaces them."""
    cross_documents: bool = False
    """Let tokens see the other documents of their row, and count positions through it (RoBERTa's full sentences);
    otherwise each document is alone."""
    languages: list[str] = field(default_factory=list)
    """Names of the languages that the model has embeddings of, in its order (xlm); none for other models."""
    alpha: float = 1.0
    """Languages are drawn in proportion to their tokens to this power: 1 as the text is, XLM has 0.5, XLM-R 0.3, and
    0 draws all alike."""

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, "alpha", "must be from 0 to 1")

    def check(self, model_config: Any, tokenizer: Tokenizer) -> None:
        check_encoder(self.kind, model_config, tokenizer, self.languages)

    def loss(self, model_config: Any) -> MaskedLM:
        return MaskedLM()

    def batches(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, seed: int
    ) -> MaskedBatches:
        sources, weights = self._sources(shards, tokenizer, context, shards.documents)
        return masked_batches(sources, weights, self.masking, tokenizer, context=context, batch=batch, seed=seed)

    def held_out(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, limit_tokens: int, seed: int
    ) -> HeldOutRows:
        sources, weights = self._sources(shards, tokenizer, context, first_documents(shards, limit_tokens))
        return HeldOutRows(
            masked_batches(sources, weights, self.masking, tokenizer, context=context, batch=batch, seed=seed))

    def guess(self, model: Any, tokenizer: Tokenizer, before: str, true: str) -> tuple[Tensor, int]:
        return guess_hidden(model, tokenizer, before, true)

    def _sources(
        self, shards: TokenShards, tokenizer: Tokenizer, context: int, documents: int,
    ) -> tuple[Sequence[RowSource], Sequence[float]]:
        frame = Frame.of(tokenizer)
        if self.languages or self.alpha != 1.0:
            named = Languages.of(shards, self.languages)
            sources = by_language(shards, frame, context, documents, named, cross=self.cross_documents)
            return list(sources.values()), tempered([source.tokens for source in sources.values()], self.alpha)
        chosen = None if documents == shards.documents else np.arange(documents)
        return [TextRows(shards, frame, context, chosen, cross=self.cross_documents)], [1.0]


def check_encoder(kind: str, model_config: Any, tokenizer: Tokenizer, languages: Sequence[str] = ()) -> None:
    """UserError unless this is an encoder that this tokenizer and these languages fit."""
    if not isinstance(model_config, EncoderConfig):
        raise UserError(f"{kind} trains encoders; {model_config.family} is none", where="objective",
                        fix="leave `objective` out to use the family's own, or choose bert, roberta, xlm, xlm-roberta")
    mask_id(tokenizer)
    if tokenizer.pad_id is not None and tokenizer.pad_id != model_config.pad_id:
        raise UserError(f"the model pads with token {model_config.pad_id}, the tokenizer with {tokenizer.pad_id}",
                        where="model", fix=f"set `model: {{options: {{pad_id: {tokenizer.pad_id}}}}}`")
    if tuple(languages) != model_config.languages:
        said, known = (", ".join(names) or "none" for names in (languages, model_config.languages))
        raise UserError(f"the objective's languages are {said}, the model's {known}", where="objective.languages",
                        fix="name the same ones, in the same order, in `model: {options: {languages: [...]}}` and here")


def mask_id(tokenizer: Tokenizer) -> int:
    """The mask token; UserError where there is none."""
    if tokenizer.mask_id is None:
        raise UserError("this tokenizer has no mask token", where="tokenizer",
                        fix="set `mask: true` in the tokenizer stage")
    return tokenizer.mask_id


def masked_batches(
    sources: Sequence[RowSource], weights: Sequence[float], masking: Masking, tokenizer: Tokenizer, *, context: int,
    batch: int, seed: int,
) -> MaskedBatches:
    """Batches over these sources; UserError where they hold no text."""
    if not sources or not all(source.rows for source in sources):
        raise UserError("the text has no tokens to make a row of", where="corpus", fix="use more text")
    vocabulary = Vocabulary.of(tokenizer, mask_id(tokenizer))
    return MaskedBatches(sources, weights, masking, vocabulary, Frame.of(tokenizer), context=context, batch=batch,
                         seed=seed)


def guess_hidden(model: Any, tokenizer: Tokenizer, before: str, true: str) -> tuple[Tensor, int]:
    """Log-probabilities (vocab,) of what stands between `before` and the rest of `true`, and the true token's id."""
    frame = Frame.of(tokenizer)
    wanted, *rest = tokenizer.encode(true)
    room = model.config.context - frame.size - 1
    rest = rest[:room // 2]
    known = tokenizer.encode(before)
    known = known[max(0, len(known) - (room - len(rest))):]
    ids = frame.around(np.array([*known, mask_id(tokenizer), *rest], dtype=np.int64))
    place = int(np.flatnonzero(ids == tokenizer.mask_id)[0])
    return model.log_probabilities(torch.from_numpy(ids).to(model.head_weight.device))[place], wanted
