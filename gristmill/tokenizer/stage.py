"""The stage `tokenizer`: a corpus in, a trained tokenizer's public folder out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from gristmill.core.artifact import Artifact
from gristmill.core.config import CorpusRef, require
from gristmill.core.errors import UserError
from gristmill.core.files import write_json
from gristmill.core.stage import StageContext, stage
from gristmill.tokenizer.chat import DEFAULT_TEMPLATE
from gristmill.tokenizer.measure import compression, entry_lengths, longest_tokens, measure, round_trip
from gristmill.tokenizer.sample import Sample, choose_documents
from gristmill.tokenizer.splits import NAMES, Digits, Whitespace, Words
from gristmill.tokenizer.tokenizer import Tokenizer
from gristmill.tokenizer.train import (
    BYTE_LEVEL,
    MASK,
    SPECIAL_TOKENS,
    UNK,
    Method,
    Normalization,
    Plan,
    smallest_vocabulary,
    train,
)

MEASURED_MB = 4
"""Text, in MB, that bytes per token and unused entries are measured on."""


@stage(kind="tokenizer", produces="tokenizer", semantics_version=1)
class TrainTokenizer:
    """Train a tokenizer with special tokens and a chat template."""

    corpus: CorpusRef
    """The corpus whose training split the tokenizer is trained on."""
    method: Method = "bpe"
    """bpe (byte-level byte-pair encoding), unigram (over bytes), wordpiece, word, character, or byte (nothing is
    learned). Text comes back exactly from all but wordpiece and word, which also have unknown words."""
    vocab_size: int = 8192
    """Entries of the vocabulary, special tokens and the 256 bytes included. For word, wordpiece and character the most
    that there may be; byte always has 256 and the special tokens."""
    sample_mb: float = 20.0
    """At most this many megabytes of text (10^6 bytes of UTF-8) are read for training, whole documents chosen by id.
    Memory grows with this sample, not with the corpus."""
    min_count: int = 2
    """A pair of pieces (or a word) seen less often makes no entry."""
    digits: Digits | None = None
    """How numbers are split: single (every digit alone), groups (of up to three), or runs (as they stand).
    Left out: single, or runs with words: gpt2."""
    words: Words = "words"
    """How text is split before entries are learned: words (as GPT-4 does), identifiers (also where camelCase changes
    and around underscores), or gpt2 (as GPT-2 does)."""
    whitespace: Whitespace = "runs"
    """runs: entries for runs of white space, such as indentation, may be learned; single: every one stands alone."""
    normalize: Literal["none", "nfc", "nfkc"] = "none"
    """Unicode normalisation before anything else. What it changes does not come back."""
    lowercase: bool = False
    """Turn text to lower case first. Capital letters do not come back."""
    strip_accents: bool = False
    """Remove accents first. They do not come back."""
    trainer: Literal["tokenizers", "fast"] = "tokenizers"
    """Who counts and merges for bpe: the tokenizers library, or fast (rustbpe, 3 to 4 times faster): the same entries,
    but those seen equally often are numbered in another order. fast takes no min_count, `whitespace: single`,
    `words: identifiers` or normalisation."""
    special_tokens: list[str] | None = None
    """Further special tokens, after the seven that every tokenizer of ours has."""
    mask: bool = False
    """Add <|mask|>, which masked language models (bert, roberta, xlm) need."""
    sentinels: int = 0
    """Add <extra_id_0>, <extra_id_1>, ... for the spans that encoder-decoders (t5) cut out; T5 has 100."""
    chat_template: str | None = None
    """A Jinja chat template in place of the default one; it is rendered in a sandbox."""

    def __post_init__(self) -> None:
        require(0 <= self.sentinels <= 1000, "sentinels", "must be from 0 to 1000")
        extra, always = self._extra_tokens, {*SPECIAL_TOKENS, *([] if self.method in BYTE_LEVEL else [UNK])}
        require(all(t.strip() for t in extra), "special_tokens", "a special token cannot be empty")
        require(len({*always, *extra}) == len(always) + len(extra), "special_tokens",
                f"each must be new; always there are {', '.join(SPECIAL_TOKENS)}, and {UNK} for wordpiece and word")
        least = smallest_vocabulary(len(self.plan.special_tokens), self.method)
        require(least <= self.vocab_size <= 2**20, "vocab_size",
                f"must be from {least} to {2**20} for {self.method}: "
                f"{len(self.plan.special_tokens)} special tokens"
                + (", 256 bytes and one entry that is learned" if self.method in BYTE_LEVEL else " and one word"))
        # The trainers count pairs in 32 bits: beyond this the counts could overflow without a word.
        require(0 < self.sample_mb <= 2000, "sample_mb", "must be above 0 and at most 2000")
        require(self.min_count >= 1, "min_count", "must be at least 1")
        require((self.words, self._digits) in NAMES, "digits",
                f"{self._digits} does not go with words: {self.words}; choose "
                + " or ".join(d for w, d in NAMES if w == self.words))
        whole_words = self.method in ("wordpiece", "word")
        require(not whole_words or (self.words == "words" and self.whitespace == "runs" and self._digits == "single"),
                "method", f"{self.method} splits text at white space and punctuation: leave out words and whitespace, "
                "and digits but single")
        plain = not self.plan.finer and self.plan.normalization == Normalization()
        require(self.trainer == "tokenizers" or (self.method == "bpe" and plain and self.min_count == 2), "trainer",
                "fast is for method: bpe without whitespace: single, words: identifiers, normalisation, min_count")

    @property
    def _extra_tokens(self) -> list[str]:
        sentinels = [f"<extra_id_{number}>" for number in range(self.sentinels)]
        return [*([MASK] if self.mask else []), *sentinels, *(self.special_tokens or [])]

    @property
    def _digits(self) -> Digits:
        return self.digits or ("runs" if self.words == "gpt2" else "single")

    @property
    def plan(self) -> Plan:
        """What is to be trained, as `train` takes it."""
        finer = [rule for rule, wanted in (
            ("digits", self.words == "gpt2" and self._digits == "single"), ("whitespace", self.whitespace == "single"),
            ("identifiers", self.words == "identifiers")) if wanted]
        return Plan(
            vocab_size=self.vocab_size, method=self.method, extra_special_tokens=tuple(self._extra_tokens),
            split=NAMES.get((self.words, self._digits), "qwen2"), finer=tuple(finer), min_count=self.min_count,
            normalization=Normalization(self.normalize, self.lowercase, self.strip_accents),
            chat_template=self.chat_template or DEFAULT_TEMPLATE, fast=self.trainer == "fast")

    def run(self, context: StageContext) -> dict[str, Any]:
        """Train, measure and save. The same config, seed and corpus give the same bytes."""
        corpus = context.inputs[self.corpus]
        began = time.perf_counter()
        chosen = choose_documents(corpus, "train", self.sample_mb * 1e6, context.seed)
        read = chosen.bytes
        with context.progress.bar("tokenizer: reading", read / 1e6, "MB") as bar:
            tokenizer = train(_reported(chosen, bar), self.plan)
        if tokenizer.end_of_turn_id is None:
            raise UserError("the chat template closes no answer with a special token", where="chat_template",
                            fix="let it write one, such as <|end|>, after the content of an assistant's message")
        trained = time.perf_counter()
        byte_level = self.method in BYTE_LEVEL
        metrics = {
            "method": self.method,
            "vocab_size": tokenizer.vocab_size,
            "merges": tokenizer.vocab_size - len(tokenizer.special_ids) - (256 if byte_level else 0),
            "special_tokens": {tokenizer.token_name(i): i for i in sorted(tokenizer.special_ids)},
            "train_documents": chosen.count,
            "train_bytes": read,
            **_measured(corpus, tokenizer, context.seed),
            "longest_tokens": longest_tokens(tokenizer, 20),
            "entry_lengths": entry_lengths(tokenizer),
        }
        tokenizer.save(context.work)
        write_json(context.work / "metrics.json", metrics)
        write_json(context.telemetry / "speed.json", {
            "training_seconds": trained - began, "measuring_seconds": time.perf_counter() - trained,
            "training_mb_per_second": read / 1e6 / (trained - began), "encoder": tokenizer.engine})
        return metrics


def _measured(corpus: Artifact, tokenizer: Tokenizer, seed: int) -> dict[str, Any]:
    """Bytes per token on held-out text (on training text where there is none), and entries never used."""
    result: dict[str, Any] = {}
    held_out = any((corpus.path / "documents").glob("valid-*.parquet"))
    for split in ("valid", "train") if held_out else ("train",):
        sample = choose_documents(corpus, split, MEASURED_MB * 1e6, seed, at_least_one=False)
        found, used = measure(tokenizer, sample)
        if found.get("tokens"):
            result[f"{split}_bytes_per_token"] = found["bytes_per_token"]
            # The first that has text: held-out text, where there is some.
            result.setdefault("measured_on", {"split": split, **found, "round_trip": round_trip(tokenizer, sample),
                                              "compression": compression(tokenizer, sample)})
    # Over the last split measured, the training text: an entry unused there was made for text that is not there.
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), sorted(tokenizer.special_ids))
    result["measured_train_bytes"] = sample.bytes
    result["unused_entries"] = int((used[ordinary] == 0).sum())
    return result


def _reported(chosen: Sample, bar: Any) -> Iterator[list[str]]:
    for texts in chosen.batches():
        yield texts
        bar.advance(sum(len(text.encode()) for text in texts) / 1e6)
