"""The stage `ngram`: good text in, an n-gram model and the percentiles of a reference set out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gristmill.core.config import CorpusRef, config, require
from gristmill.core.errors import UserError
from gristmill.core.files import write_json
from gristmill.core.hashing import digest
from gristmill.core.progress import Progress
from gristmill.core.seeds import fraction
from gristmill.core.stage import StageContext, stage
from gristmill.data.dedup.exact import content_hash
from gristmill.data.inputs import fingerprint, list_inputs
from gristmill.data.ngram.model import NgramModel, Perplexity
from gristmill.data.ngram.tokens import Unit
from gristmill.data.ngram.training import train
from gristmill.data.text_rows import SUFFIXES, passages, text_rows

REPORT = "report.json"
PERCENTS = (1, 5, 10, 25, 33, 50, 67, 75, 90, 95, 99)
MEASURED = 20_000
"""Texts of a set that percentiles are taken of, at most."""
_BATCH, _CHARACTERS = 256, 1 << 20
Part = Literal["train", "held_out"]


@config
class Texts:
    """Texts to train on or to compare with."""

    path: str = ""
    """A .jsonl, .parquet, .csv or .tsv file, .txt or .md files (each is one text), also .gz, .zst, .bz2 or .xz; or a
    folder or glob of them."""
    corpus: CorpusRef | None = None
    """A corpus, in place of `path`."""
    split: Literal["train", "valid", "test"] = "train"
    """Which split of the corpus."""
    column: str = "text"
    """The column that holds the text."""
    passage: int = 0
    """Cut texts into passages of about so many characters, each a text of its own. 0 leaves texts whole: perplexity
    depends a little on length, so train and compare texts of about the length that will be measured."""

    def __post_init__(self) -> None:
        require(bool(self.path) != bool(self.corpus), "path", "give either `path` or `corpus`")
        require(self.passage == 0 or self.passage >= 100, "passage", "must be 0, or at least 100 characters")

    def read(self, inputs: Mapping[str, Any], counts: Counter[str]) -> Iterator[str]:
        """The texts in order; rows without text are counted as `unreadable`."""
        for row in text_rows(self.path, self.column, counts, corpus=inputs.get(self.corpus or ""), split=self.split):
            text = row.get(self.column)
            if not isinstance(text, str) or not text.strip():
                counts["unreadable"] += 1
            elif self.passage:
                yield from passages(text, self.passage)
            else:
                yield text


@stage(kind="ngram", produces="ngram", semantics_version=1)
class TrainNgram:
    """Train an n-gram model of good text; its perplexity of other texts can be read as a signal by the stage `data`."""

    texts: list[Texts]
    """The good text."""
    reference: list[Texts] = field(default_factory=list)
    """Texts whose percentiles are reported, e.g. a sample of the crawl: a third of them is head, middle and tail."""
    unit: Unit = "word"
    """word: faster, tells good from bad prose of one language best; character: any script, bits per byte that compare
    between languages, no unknown words, several times as slow."""
    order: int = 5
    """Length of the longest n-grams (2 to 10)."""
    min_count: int = 2
    """Words (or characters) seen less often are unknown."""
    keep_count: int = 2
    """N-grams of 3 and more tokens that occur less often are left out: a fraction of the size, hardly worse. 1 keeps
    all."""
    sample_mb: float = 100.0
    """Train on at most so many MB (10^6 bytes of UTF-8), whole texts chosen by hash. Memory grows with this sample, not
    with the texts: about 25 MB for each MB with words and order 5."""
    held_out: float = 0.05
    """Share of the texts that is only measured, chosen by hash."""

    def __post_init__(self) -> None:
        require(len(self.texts) > 0, "texts", "name at least one")
        require(2 <= self.order <= 10, "order", "must be from 2 to 10")
        require(self.min_count >= 1, "min_count", "must be at least 1")
        require(self.keep_count >= 1, "keep_count", "must be at least 1")
        require(self.sample_mb > 0, "sample_mb", "must be above 0")
        require(0 <= self.held_out <= 0.5, "held_out", "must be from 0 to 0.5")

    def fingerprint(self) -> str:
        """Digest of the files behind the texts."""
        return digest([{item.name: fingerprint(item) for item in list_inputs(one.path, SUFFIXES)} if one.path else None
                       for one in (*self.texts, *self.reference)])

    def run(self, context: StageContext) -> dict[str, Any]:
        """Train in `context.work`: the arrays, ngram.json and report.json."""
        report = train_on(self, context.inputs, seed=context.seed, work=context.work, scratch=context.scratch / "ngram",
                          progress=context.progress)
        return {**{name: report["held_out"][name] for name in ("perplexity", "bits_per_byte", "unknown")
                   if "held_out" in report},
                **{name: report[name] for name in ("unit", "order", "ngrams", "train", "held_out") if name in report}}


def train_on(config: TrainNgram, inputs: Mapping[str, Any], *, seed: int, work: Path, scratch: Path,
             progress: Progress) -> dict[str, Any]:
    """Train, measure and save; gives the report. The same texts, config and seed give the same bytes."""
    counts = Counter[str]()
    with progress.bar("n-grams: choosing", None, "texts") as bar:
        limit, size = _limit(config, inputs, seed, counts, bar.advance)
    with progress.bar("n-grams: counting", size / 1e6, "MB") as bar:
        chosen = (text for text, point, part in _divided(config, inputs, seed, Counter())
                  if part == "train" and point <= limit)
        model = train(_told(batches(chosen), bar.advance, _megabytes), config.unit, config.order,
                      min_count=config.min_count, keep_count=config.keep_count, scratch=scratch)
    model.save(work)
    model = NgramModel.open(work)
    report: dict[str, Any] = {
        "unit": config.unit, "order": config.order, "ngrams": [len(one.table) for one in model.orders],
        "train": {"bytes": size, "texts": counts["train"], "unreadable": counts["unreadable"]},
    }
    held_out = (text for text, _, part in _divided(config, inputs, seed, Counter()) if part == "held_out")
    sets = {"held_out": held_out, "reference": (
        text for source in config.reference for text in source.read(inputs, counts))}
    with progress.bar("n-grams: measuring", None, "texts") as bar:
        for name, texts in sets.items():
            if (name == "held_out" and config.held_out) or (name == "reference" and config.reference):
                found = summary(model, _told(batches(islice(texts, MEASURED)), bar.advance, len))
                if found:
                    report[name] = found
    report["thresholds"] = thresholds(report.get("reference") or report.get("held_out"))
    write_json(work / REPORT, report)
    return report


def summary(model: NgramModel, texts: Iterator[Sequence[str]]) -> dict[str, Any]:
    """How a set of texts lies: percentiles of each value over the texts, and both values over all text together."""
    parts = [model.measure(batch) for batch in texts]
    if not parts:
        return {}
    every = Perplexity(*(np.concatenate([getattr(part, name) for part in parts])
                         for name in ("tokens", "bits", "unknown", "spelled", "text_bytes")))
    columns = {"perplexity": every.perplexity, "bits_per_byte": every.bits_per_byte}
    return {
        "texts": len(every.bits), "bytes": int(every.text_bytes.sum()),
        "perplexity": float(np.exp2(every.bits.sum() / every.tokens.sum())),
        "bits_per_byte": float((every.bits + every.spelled).sum() / max(every.text_bytes.sum(), 1)),
        "unknown": float(every.unknown.sum() / every.tokens.sum()),
        "percentiles": {name: {str(p): float(v) for p, v in zip(PERCENTS, np.percentile(column, PERCENTS), strict=True)}
                        for name, column in columns.items()},
    }


def thresholds(found: Mapping[str, Any] | None) -> dict[str, dict[str, float]]:
    """Up to `head` a text is in the best third, above `tail` in the worst (Wenzek et al. 2020, CCNet, section 4.3)."""
    if not found:
        return {}
    return {name: {"head": cuts["33"], "tail": cuts["67"]} for name, cuts in found["percentiles"].items()}


def batches(texts: Iterator[str]) -> Iterator[list[str]]:
    """The texts in order, in batches of a size that suits."""
    chosen, held = list[str](), 0
    for text in texts:
        chosen.append(text)
        held += len(text)
        if len(chosen) >= _BATCH or held >= _CHARACTERS:
            yield chosen
            chosen, held = [], 0
    if chosen:
        yield chosen


def _divided(config: TrainNgram, inputs: Mapping[str, Any], seed: int,
             counts: Counter[str]) -> Iterator[tuple[str, float, Part]]:
    """Every text with a number in [0, 1) by which it is chosen, and its part."""
    for source in config.texts:
        for text in source.read(inputs, counts):
            name = content_hash(text).hex()
            held = fraction(seed, "held out", name) < config.held_out
            yield text, fraction(seed, "sample", name), "held_out" if held else "train"


def _limit(config: TrainNgram, inputs: Mapping[str, Any], seed: int, counts: Counter[str],
           advance: Callable[[int], None]) -> tuple[float, int]:
    """Training texts up to this number are taken, and their bytes: as many as `sample_mb` allows, 16 bytes a text."""
    points, sizes = list[float](), list[int]()
    for text, point, part in _divided(config, inputs, seed, counts):
        if part == "train":
            points.append(point)
            sizes.append(len(text.encode("utf-8", "replace")))
        advance(1)
    if not points:
        raise UserError("there is no text to train on", where="texts", fix="give more texts, or `held_out: 0`")
    order = np.argsort(points, kind="stable")
    total = np.cumsum(np.array(sizes)[order])
    last = max(int(np.searchsorted(total, config.sample_mb * 1e6, side="right")) - 1, 0)
    counts["train"] = last + 1
    return points[order[last]], int(total[last])


def _megabytes(batch: list[str]) -> float:
    return sum(len(text.encode("utf-8", "replace")) for text in batch) / 1e6


def _told(texts: Iterator[list[str]], advance: Callable[[float], None],
          amount: Callable[[list[str]], float]) -> Iterator[list[str]]:
    for batch in texts:
        yield batch
        advance(amount(batch))
