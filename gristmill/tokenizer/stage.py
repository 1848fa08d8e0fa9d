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
from gristmill.core.seeds import derive_seed
from gristmill.core.stage import StageContext, stage
from gristmill.tokenizer.chat import DEFAULT_TEMPLATE
from gristmill.tokenizer.tokenizer import Tokenizer
from gristmill.tokenizer.train import MASK, SPECIAL_TOKENS, smallest_vocabulary, train_bpe

MEASURED_MB = 4
"""Text, in MB, that bytes per token and unused entries are measured on."""


@stage(kind="tokenizer", produces="tokenizer", semantics_version=1)
class TrainTokenizer:
    """Train a byte-level BPE tokenizer with special tokens and a chat template."""

    corpus: CorpusRef
    """The corpus whose training split the tokenizer is trained on."""
    method: Literal["bpe"] = "bpe"
    """How the vocabulary is found: bpe, byte-level byte-pair encoding."""
    vocab_size: int = 8192
    """Entries of the vocabulary, special tokens and the 256 bytes included."""
    sample_mb: float = 20.0
    """At most this many megabytes of text (10^6 bytes of UTF-8) are read for training, whole documents chosen by id."""
    min_count: int = 2
    """A pair of pieces seen less often than this is never merged."""
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
        extra = self._extra_tokens
        require(all(t.strip() for t in extra), "special_tokens", "a special token cannot be empty")
        require(len({*SPECIAL_TOKENS, *extra}) == len(SPECIAL_TOKENS) + len(extra), "special_tokens",
                f"each must be new; always there are {', '.join(SPECIAL_TOKENS)}")
        least = smallest_vocabulary(len(SPECIAL_TOKENS) + len(extra))
        require(least <= self.vocab_size <= 2**20, "vocab_size", f"must be from {least} to {2**20}")
        # The trainer counts pairs in 32 bits: beyond this the counts could overflow without a word.
        require(0 < self.sample_mb <= 2000, "sample_mb", "must be above 0 and at most 2000")
        require(self.min_count >= 1, "min_count", "must be at least 1")

    @property
    def _extra_tokens(self) -> list[str]:
        sentinels = [f"<extra_id_{number}>" for number in range(self.sentinels)]
        return [*([MASK] if self.mask else []), *sentinels, *(self.special_tokens or [])]

    def run(self, context: StageContext) -> dict[str, Any]:
        """Train, measure and save. The same config, seed and corpus give the same bytes."""
        corpus = context.inputs[self.corpus]
        began = time.perf_counter()
        chosen = choose_documents(corpus, "train", self.sample_mb * 1e6, context.seed)
        read = chosen.bytes
        with context.progress.bar("tokenizer: reading", read / 1e6, "MB") as bar:
            texts = _reported(chosen, bar)
            tokenizer = train_bpe(
                texts, vocab_size=self.vocab_size, extra_special_tokens=self._extra_tokens,
                chat_template=self.chat_template or DEFAULT_TEMPLATE, min_count=self.min_count)
        if tokenizer.end_of_turn_id is None:
            raise UserError("the chat template closes no answer with a special token", where="chat_template",
                            fix="let it write one, such as <|end|>, after the content of an assistant's message")
        trained = time.perf_counter()
        metrics = {
            "vocab_size": tokenizer.vocab_size,
            "merges": tokenizer.vocab_size - len(tokenizer.special_ids) - 256,
            "special_tokens": {tokenizer.token_name(i): i for i in sorted(tokenizer.special_ids)},
            "train_documents": chosen.count,
            "train_bytes": read,
            **self._measure(corpus, tokenizer, context.seed),
            "longest_tokens": longest_tokens(tokenizer, 20),
        }
        tokenizer.save(context.work)
        write_json(context.work / "metrics.json", metrics)
        write_json(context.telemetry / "speed.json", {
            "training_seconds": trained - began, "measuring_seconds": time.perf_counter() - trained,
            "training_mb_per_second": read / 1e6 / (trained - began)})
        return metrics

    def _measure(self, corpus: Artifact, tokenizer: Tokenizer, seed: int) -> dict[str, Any]:
        """Bytes per token on held-out text (on training text where there is none), and entries never used."""
        result: dict[str, Any] = {}
        held_out = any((corpus.path / "documents").glob("valid-*.parquet"))
        for split in ("valid", "train") if held_out else ("train",):
            sample = choose_documents(corpus, split, MEASURED_MB * 1e6, seed, at_least_one=False)
            used = np.zeros(tokenizer.vocab_size, dtype=np.int64)
            for texts in sample.batches():
                for ids in tokenizer.encode_arrays(texts):
                    used += np.bincount(ids, minlength=tokenizer.vocab_size)
            if used.sum():
                result[f"{split}_bytes_per_token"] = round(sample.bytes / int(used.sum()), 4)
        # Over the last split measured, the training text: an entry unused there was made for text that is not there.
        ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), sorted(tokenizer.special_ids))
        result["measured_train_bytes"] = sample.bytes
        result["unused_entries"] = int((used[ordinary] == 0).sum())
        return result


class ChosenDocuments:
    """Documents of one split that fit into a limit of bytes, chosen by their ids alone."""

    def __init__(self, corpus: Artifact, split: str, ids: frozenset[str] | None, count: int, total: int) -> None:
        self.corpus, self.split, self.ids, self.count, self.bytes = corpus, split, ids, count, total

    def batches(self) -> Iterator[list[str]]:
        """Texts in the corpus's order, a few hundred kilobytes at a time."""
        from gristmill.data.documents import read_documents

        batch: list[str] = []
        size = 0
        for rows in read_documents(self.corpus.path, self.split, columns=["id", "text"]):
            for name, text in zip(rows.column("id").to_pylist(), rows.column("text").to_pylist(), strict=True):
                if self.ids is None or name in self.ids:
                    batch.append(text)
                    size += len(text)
                    if size > 1 << 19:
                        yield batch
                        batch, size = [], 0
        if batch:
            yield batch


def choose_documents(
    corpus: Artifact, split: str, limit: float, seed: int, *, at_least_one: bool = True
) -> ChosenDocuments:
    """All documents of a split, or as many as fit into `limit` bytes in the order of hash(seed, id).

    The choice depends on ids and lengths only, never on shards or workers. Raises UserError where there is no text.
    """
    import pyarrow.compute as pc

    from gristmill.data.documents import read_documents

    sizes: list[tuple[str, int]] = []
    for rows in read_documents(corpus.path, split, columns=["id", "text"]):
        sizes += zip(rows.column("id").to_pylist(), pc.binary_length(rows.column("text")).to_pylist(), strict=True)
    total = sum(size for _, size in sizes)
    if at_least_one and not total:
        raise UserError(f"the corpus has no text in its {split} split", where=corpus.name,
                        fix="look at the corpus's funnel.json for where the documents went")
    if total <= limit:
        return ChosenDocuments(corpus, split, None, len(sizes), total)
    order = sorted(sizes, key=lambda item: (derive_seed(seed, "tokenizer", item[0]), item[0]))
    kept: list[str] = []
    used = 0
    for name, size in order:
        if used + size <= limit or (at_least_one and not kept):
            kept.append(name)
            used += size
    return ChosenDocuments(corpus, split, frozenset(kept), len(kept), used)


def longest_tokens(tokenizer: Tokenizer, count: int) -> list[dict[str, Any]]:
    """The tokens that stand for most bytes: where a vocabulary has swallowed rubbish, it shows here."""
    sizes = sorted(range(tokenizer.vocab_size), key=lambda i: (-len(tokenizer.token_bytes(i)), i))
    return [{"id": i, "bytes": len(tokenizer.token_bytes(i)),
             "text": tokenizer.token_bytes(i).decode("utf-8", errors="replace")} for i in sizes[:count]]


def _reported(chosen: ChosenDocuments, bar: Any) -> Iterator[list[str]]:
    for texts in chosen.batches():
        yield texts
        bar.advance(sum(len(text.encode()) for text in texts) / 1e6)
