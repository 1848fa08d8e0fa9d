"""Translation language modelling: hide tokens in both texts of a pair, so that each helps with the other (Lample and
Conneau 2019, arXiv:1901.07291, section 3.4), among rows of each language's own text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any, Literal

import numpy as np
from torch import Tensor

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.objectives.masked_lm import MaskedLM
from gristmill.objectives.masking import Masking
from gristmill.objectives.pretraining.masked_lm import check_encoder, guess_hidden, masked_batches
from gristmill.objectives.pretraining.parallel import Languages, ParallelRows, by_language, tempered, translations
from gristmill.objectives.pretraining.rows import Frame, HeldOutRows, MaskedBatches, RowSource, first_documents
from gristmill.tokenizer import Tokenizer
from gristmill.tokens import TokenShards


@config
class TranslationLanguageModelling:
    """Rows of translations beside each other, and rows of each language's own text, with hidden tokens in both."""

    kind: Literal["translation_lm"] = "translation_lm"
    masking: Masking = Masking()
    """How many tokens are hidden, in which units, and what replaces them."""
    languages: list[str] = field(default_factory=list)
    """Names of the languages that the model has embeddings of, in its order (xlm); none for models without."""
    alpha: float = 0.5
    """Languages, and pairs of languages, are drawn in proportion to their size to this power: 1 as the text is, 0 all
    alike."""
    monolingual: float = 0.5
    """Share of the rows that hold one language's text alone."""

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, "alpha", "must be from 0 to 1")
        require(0 <= self.monolingual < 1, "monolingual", "must be at least 0 and below 1; masked_lm has no pairs")

    def check(self, model_config: Any, tokenizer: Tokenizer) -> None:
        check_encoder(self.kind, model_config, tokenizer, self.languages)

    def loss(self, model_config: Any) -> MaskedLM:
        return MaskedLM()

    def batches(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, seed: int
    ) -> MaskedBatches:
        pairs = translations(shards, shards.documents)
        if not pairs:
            raise UserError("this corpus has no two documents that are translations of each other",
                            where="objective.kind",
                            fix="give the records of a translation the same `pair` and each its `language` (sources: "
                                "files), use the source python_functions, or `objective: {kind: masked_lm}`")
        named = Languages.of(shards, self.languages)
        frame = Frame.of(tokenizer)
        sources: list[RowSource] = [
            ParallelRows(shards, frame, context, found, seed, named.numbers) for found in pairs.values()]
        sizes = tempered([len(found) for found in pairs.values()], self.alpha)
        weights = [(1 - self.monolingual) * size / sum(sizes) for size in sizes]
        if self.monolingual:
            own = by_language(shards, frame, context, shards.documents, named, positions=True)
            sizes = tempered([source.tokens for source in own.values()], self.alpha)
            sources += own.values()
            weights += [self.monolingual * size / sum(sizes) for size in sizes]
        return masked_batches(sources, weights, self.masking, tokenizer, context=context, batch=batch, seed=seed)

    def held_out(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, limit_tokens: int, seed: int
    ) -> HeldOutRows:
        """The first pairs that fit into `limit_tokens`; where there are none, the first documents as they are."""
        named = Languages.of(shards, self.languages)
        frame, sources = Frame.of(tokenizer), self._first_pairs(shards, tokenizer, context, limit_tokens, seed, named)
        if not sources:
            sources = list(by_language(shards, frame, context, first_documents(shards, limit_tokens), named,
                                       positions=True).values())
        return HeldOutRows(masked_batches(sources, [1.0] * len(sources), self.masking, tokenizer, context=context,
                                          batch=batch, seed=seed))

    def _first_pairs(
        self, shards: TokenShards, tokenizer: Tokenizer, context: int, limit: int, seed: int, named: Languages,
    ) -> Sequence[RowSource]:
        found = translations(shards, shards.documents)
        sources: list[RowSource] = []
        for pairs in found.values():
            tokens = np.cumsum(np.diff(shards.offsets)[pairs].sum(axis=1))
            kept = max(1, int(np.searchsorted(tokens, limit // len(found), side="right")))
            sources.append(ParallelRows(shards, Frame.of(tokenizer), context, pairs[:kept], seed, named.numbers))
        return sources

    def guess(self, model: Any, tokenizer: Tokenizer, before: str, true: str) -> tuple[Tensor, int]:
        return guess_hidden(model, tokenizer, before, true)
