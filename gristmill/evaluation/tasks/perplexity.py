"""Bits per byte and next-token accuracy on held-out text, beside xz and a 5-gram model of the same tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.core.progress import Bar
from gristmill.core.seeds import derive_seed, fraction
from gristmill.evaluation.baselines import (
    input_artifact,
    ngram_nats,
    pretrained_ancestor,
    tokens_seen,
    xz_bytes,
    xz_overhead,
)
from gristmill.evaluation.ngram import KneserNey
from gristmill.evaluation.perplexity import score_tokens
from gristmill.evaluation.statistics import Estimate, bootstrap, paired_test, ratio_stderr
from gristmill.evaluation.subject import Subject
from gristmill.evaluation.tasks.base import Record, Setting, Summary, comparison, row, successive
from gristmill.tokens import materialise


@dataclass(frozen=True)
class HeldOutText:
    """Documents of a split, about as many as were asked for, and how many were passed over for their size."""

    ids: list[str]
    texts: list[str]
    sizes: np.ndarray
    """UTF-8 bytes (documents,)."""
    too_large: int
    whole: bool
    """All documents of the split are here."""


def held_out_text(corpus_path: Any, split: str, max_bytes: int, seed: int) -> HeldOutText:
    """Documents in an order drawn by hash, as many as come nearest to `max_bytes` together.

    Long and short documents are as likely, so that the sample stands for the split, byte by byte. Those that are
    longer than `max_bytes` alone are passed over; if none is left, the shortest is taken. Raises UserError where the
    split is empty.
    """
    from gristmill.data.documents import read_documents

    found: list[tuple[float, str, str, int]] = []
    for batch in read_documents(corpus_path, split, columns=["id", "text"]):
        for name, text in zip(batch.column("id").to_pylist(), batch.column("text").to_pylist(), strict=True):
            found.append((fraction(seed, "document", name), name, text, len(text.encode())))
    total = sum(size for *_, size in found)
    if not total:
        raise UserError(f"the split {split!r} holds no text to evaluate on", where=str(corpus_path),
                        fix="give the data stage a larger share for this split")
    found.sort(key=lambda item: item[:2])
    fitting = [item for item in found if 0 < item[3] <= max_bytes] or [min(found, key=lambda i: (i[3] == 0, i[3]))]
    ends = np.cumsum([item[3] for item in fitting])
    chosen = fitting[: int(np.abs(ends - max_bytes).argmin()) + 1]
    too_large = sum(item[3] > max_bytes for item in found) - (chosen[0][3] > max_bytes)
    return HeldOutText([i[1] for i in chosen], [i[2] for i in chosen], np.array([i[3] for i in chosen], dtype=float),
                       too_large, len(chosen) == len(found))


@config
class Perplexity:
    """Bits per byte on held-out text."""

    kind: Literal["perplexity"] = "perplexity"
    max_bytes: int | None = None
    """UTF-8 bytes of text to score, in whole documents chosen by hash; default the stage's."""
    stride: int | None = None
    """Tokens by which windows move on; default half the context, so that every token is read with at least
    as many before it (but at the start of a document)."""
    baselines: list[Literal["xz", "5-gram"]] = field(default_factory=lambda: ["xz", "5-gram"])
    """What is printed beside the models: xz, each document packed alone; 5-gram, interpolated modified Kneser-Ney
    over the tokens that the first model (or what it descends from) was pretrained on."""

    def __post_init__(self) -> None:
        require(self.max_bytes is None or self.max_bytes >= 1, "max_bytes", "must be at least 1")
        require(self.stride is None or self.stride >= 1, "stride", "must be at least 1")

    def data(self, setting: Setting) -> HeldOutText:
        """The documents, the same for every model."""
        return held_out_text(setting.corpus.path, setting.split, self.max_bytes or setting.max_bytes, setting.seed)

    def work(self, data: HeldOutText) -> tuple[float, str]:
        return float(data.sizes.sum()) / 1e6, "MB"

    def measure(self, subject: Subject, data: HeldOutText, setting: Setting, bar: Bar) -> Record:
        """Nats, right guesses and tokens of each document."""
        sequences = [np.asarray(subject.document(text)) for text in data.texts]
        per_token = float(data.sizes.sum()) / 1e6 / max(1, sum(len(s) - 1 for s in sequences))
        stride = min(self.stride or max(1, subject.context // 2), subject.context)
        scores = score_tokens(
            subject.model, sequences, context=subject.context, stride=stride, device=subject.compute.device,
            autocast=subject.compute.autocast, name=subject.name, advance=lambda n: bar.advance(n * per_token))
        return {"nats": scores.nats.tolist(), "correct": scores.correct.tolist(), "tokens": scores.tokens.tolist(),
                "context": subject.context, "stride": stride}

    def measure_baselines(self, data: HeldOutText, setting: Setting) -> Record:
        """xz bytes and 5-gram nats of each document, or why there is no 5-gram model."""
        result: Record = {}
        if "xz" in self.baselines:
            result["xz"] = {"bytes": [xz_bytes(text) for text in data.texts], "overhead": xz_overhead()}
        if "5-gram" in self.baselines:
            result["5-gram"] = self._ngram(data, setting)
        return result

    def _ngram(self, data: HeldOutText, setting: Setting) -> Record:
        artifacts = [s.artifact for s in setting.subjects]
        base = next((a for a in (pretrained_ancestor(a, artifacts) for a in artifacts) if a is not None), None)
        if base is None:
            return {"reason": "none of the models was pretrained here, so their training tokens are not known"}
        corpus = input_artifact(base, "corpus", [setting.corpus])
        if corpus is None:
            return {"reason": f"the corpus that {base.name} was trained on is not at hand"}
        tokenizer = next((s.tokenizer for s in setting.subjects if s.artifact.digest == base.digest), None)
        if tokenizer is None:
            from gristmill.tokenizer import Tokenizer

            tokenizer = Tokenizer.load(base.path)
        shards = materialise(corpus, tokenizer, "train", setting.cache, setting.progress)
        segments = tokens_seen(base, shards, corpus, setting.cache)
        model = KneserNey.train(segments, tokenizer.vocab_size)
        start = tokenizer.document_start_id
        prefix = [tokenizer.document_end_id if start is None else start]
        documents = [np.asarray([*prefix, *ids, tokenizer.document_end_id])
                     for ids in tokenizer.encode_batch(data.texts)]
        return {"nats": ngram_nats(model, documents).tolist(), "trained_tokens": int(sum(map(len, segments))),
                "tokens_of": base.name}

    def summarise(self, data: HeldOutText, records: Mapping[str, Record], baselines: Record,
                  setting: Setting) -> Summary:
        """Bits per byte and accuracy, with intervals over documents."""
        bits = {name: np.asarray(r["nats"]) / np.log(2) for name, r in records.items()}
        rivals, shown, notes = rival_bits(baselines, data)
        if data.too_large:
            notes.append(f"{data.too_large} documents longer than the limit were passed over")

        def paired(before: str, after: str, a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
            seed = derive_seed(setting.seed, "paired", before, after)
            return comparison(before, after, paired_test(a, b, data.sizes, seed=seed))

        bits_table = {
            **self._head(data, setting, "bits per byte", "bits/byte", "lower"),
            "rows": [row(name, interval(values, data.sizes, setting, name), tokens=sum(records[name]["tokens"]),
                         bits_per_token=float(values.sum() / sum(records[name]["tokens"])),
                         stride=records[name]["stride"], context=records[name]["context"])
                     for name, values in bits.items()],
            "baselines": shown, "notes": notes,
            "comparisons": [paired(a, b, bits[a], bits[b]) for a, b in successive(setting)]
            + [paired(rival, name, values, bits[name]) for rival, values in rivals.items() for name in bits],
        }
        return Summary(tables=[bits_table, self._accuracy(data, records, setting)])

    def _accuracy(self, data: HeldOutText, records: Mapping[str, Record], setting: Setting) -> dict[str, Any]:
        comparisons = []
        for before, after in successive(setting):
            a, b = records[before], records[after]
            if a["tokens"] == b["tokens"]:  # with other tokens the guesses are about other things
                seed = derive_seed(setting.seed, "accuracy", before, after)
                comparisons.append(comparison(before, after, paired_test(a["correct"], b["correct"], a["tokens"],
                                                                         seed=seed)))
        return {
            **self._head(data, setting, "next-token accuracy", "share", "higher"),
            "rows": [row(name, interval(np.asarray(r["correct"]), np.asarray(r["tokens"]), setting, name + " accuracy"))
                     for name, r in records.items()],
            "baselines": [], "comparisons": comparisons,
        }

    def _head(self, data: HeldOutText, setting: Setting, metric: str, unit: str, better: str) -> dict[str, Any]:
        return {"task": "perplexity", "metric": metric, "unit": unit, "better": better, "split": setting.split,
                "n": len(data.ids), "n_unit": "documents", "bytes": int(data.sizes.sum())}


def interval(numerators: np.ndarray, denominators: np.ndarray, setting: Setting, name: str) -> Estimate:
    """A ratio of sums over documents with its bootstrap interval and its linearised standard error."""
    estimate = bootstrap(numerators, denominators, seed=derive_seed(setting.seed, "bootstrap", name))
    return replace(estimate, stderr=ratio_stderr(numerators, denominators))


def rival_bits(baselines: Record, data: HeldOutText) -> tuple[dict[str, np.ndarray], list[dict[str, Any]], list[str]]:
    """(bits of each document by baseline, entries for the table, remarks)."""
    bits: dict[str, np.ndarray] = {}
    notes: dict[str, str] = {}
    remarks: list[str] = []
    if "xz" in baselines:
        bits["xz"] = np.asarray(baselines["xz"]["bytes"]) * 8.0
        share = 8 * baselines["xz"]["overhead"] * len(data.ids) / data.sizes.sum()
        notes["xz"] = (f"xz -9e, each document alone; {baselines['xz']['overhead']} bytes a document are the "
                       f"file's frame, {share:.3f} bits per byte of this value")
    ngram = baselines.get("5-gram", {})
    if "nats" in ngram:
        bits["5-gram"] = np.asarray(ngram["nats"]) / np.log(2)
        notes["5-gram"] = (f"interpolated modified Kneser-Ney over the {ngram['trained_tokens']:,} distinct tokens of "
                           f"the training text that {ngram['tokens_of']} saw")
    elif ngram:
        remarks.append(f"no 5-gram baseline: {ngram['reason']}")
    shown = [{"name": name, "value": float(values.sum() / data.sizes.sum()), "note": notes[name]}
             for name, values in bits.items()]
    return bits, shown, remarks
