"""BERT's two tasks at once: hidden tokens, and whether the second text follows the first (Devlin et al. 2019); or
whether the two are in order (ALBERT, Lan et al. 2020, arXiv:1909.11942)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.objectives.masked_lm import MaskedLM
from gristmill.objectives.masking import Masking, Vocabulary
from gristmill.objectives.pretraining.masked_lm import check_encoder, guess_hidden, mask_id, masked_batches
from gristmill.objectives.pretraining.pairs import Negatives, PairRows
from gristmill.objectives.pretraining.rows import (
    Frame,
    HeldOutRows,
    MaskedBatches,
    SimilarRows,
    first_documents,
)
from gristmill.tokenizer import Tokenizer
from gristmill.tokens import TokenShards


@config
class NextSentencePrediction:
    """Rows are pairs of texts: hidden tokens are predicted, and the pair is judged (term `nsp`)."""

    kind: Literal["next_sentence"] = "next_sentence"
    masking: Masking = Masking()
    """How many tokens are hidden, in which units, and what replaces them."""
    negatives: Negatives = "another_document"
    """What makes the wrong half of the pairs: another_document takes the second text from elsewhere (BERT), swapped
    lets the two change places (ALBERT's sentence order, the harder task)."""
    short: float = 0.1
    """Share of the rows that are shorter than the context, so that the model sees short texts too."""
    similar_lengths: bool = False
    """Batches of rows of similar length, cut to the longest one and with as many tokens as a full batch: nothing is
    spent on padding. How many rows an update has then differs."""

    def __post_init__(self) -> None:
        require(0 <= self.short <= 1, "short", "must be from 0 to 1")

    def check(self, model_config: Any, tokenizer: Tokenizer) -> None:
        check_encoder(self.kind, model_config, tokenizer)
        if not model_config.next_sentence or model_config.segments < 2:
            raise UserError("this model has no head for pairs of texts, or no segments to tell them apart",
                            where="objective",
                            fix="use `model: {family: bert}`, whose option next_sentence is on by default, or "
                                "`objective: {kind: masked_lm}`")
        if tokenizer.document_start_id is None:
            raise UserError("this tokenizer has no token that begins a text, whose state would judge the pair",
                            where="tokenizer", fix="use a tokenizer with a BOS or [CLS] token")

    def loss(self, model_config: Any) -> MaskedLM:
        return MaskedLM(pairs=True)

    def batches(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, seed: int
    ) -> MaskedBatches | SimilarRows:
        batches = self._batches(shards, tokenizer, shards.documents, context=context, batch=batch, seed=seed)
        return SimilarRows(batches, batches.sources[0].lengths()) if self.similar_lengths else batches  # type: ignore[attr-defined]

    def held_out(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, limit_tokens: int, seed: int
    ) -> HeldOutRows:
        documents = first_documents(shards, limit_tokens)
        if self.negatives == "another_document":
            documents = max(documents, min(2, shards.documents))
        return HeldOutRows(self._batches(shards, tokenizer, documents, context=context, batch=batch, seed=seed))

    def guess(self, model: Any, tokenizer: Tokenizer, before: str, true: str) -> tuple[Tensor, int]:
        return guess_hidden(model, tokenizer, before, true)

    def _batches(
        self, shards: TokenShards, tokenizer: Tokenizer, documents: int, *, context: int, batch: int, seed: int
    ) -> MaskedBatches:
        rows = PairRows(shards, Frame.of(tokenizer), Vocabulary.of(tokenizer, mask_id(tokenizer)), context, documents,
                        seed, negatives=self.negatives, short=self.short)
        return masked_batches([rows], [1.0], self.masking, tokenizer, context=context, batch=batch, seed=seed)
