"""The parallel part of the data stage: normal form, signals, hashes and signatures of one shard of documents."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.data.dedup.exact import content_hash
from gristmill.data.dedup.minhash import signature
from gristmill.data.dedup.shingles import SHINGLE, ngram_hashes, word_hashes
from gristmill.data.documents import SCHEMA, write_shard
from gristmill.data.normalise import Normalise, is_code, normalise
from gristmill.data.signals import measure
from gristmill.data.signals.language import UNDETERMINED, language_v1

JOB = f"{__name__}:annotate_shard"
LEAKAGE_NGRAM = 13
"""Length of the word n-grams by which overlap between splits is measured."""
LEAKAGE_SAMPLED = 16
"""One in so many n-grams is kept, chosen by its hash, so the same ones are chosen everywhere."""

ANNOTATED = pa.schema([
    *SCHEMA,
    pa.field("signals", pa.string(), nullable=False),
    pa.field("bytes", pa.int64(), nullable=False),
    pa.field("content_hash", pa.binary(), nullable=False),
    pa.field("shingles", pa.int64(), nullable=False),
    pa.field("signature", pa.binary(), nullable=False),
    pa.field("ngrams", pa.binary(), nullable=False),
])


def annotate_shard(source: str, target: str, options: dict[str, Any]) -> dict[str, Any]:
    """Read the shard `source`, write the annotated shard `target`; gives seconds by step and input bytes.

    options: {normalise: fields of Normalise, languages: "detect" or "none", near: bool}.
    """
    rules, seconds, size = Normalise(**options["normalise"]), dict.fromkeys(STEPS, 0.0), 0
    rows = pq.read_table(source).to_pylist()
    for row in rows:
        clock = _Clock(seconds)
        size += len(row["text"].encode())
        code = is_code(row["language"])
        text = row["text"] = normalise(row["text"], rules, code=code)
        clock.lap("normalise")
        if row["language"] == UNDETERMINED and options["languages"] == "detect":
            row["language"] = language_v1(text)
        clock.lap("language")
        row["signals"] = json.dumps(measure(text, code=code))
        clock.lap("signals")
        row["bytes"] = len(text.encode())
        row["content_hash"] = content_hash(text)
        clock.lap("hash")
        words = word_hashes(text)
        found = np.unique(ngram_hashes(words, SHINGLE))
        row["shingles"] = len(found)
        row["signature"] = signature(found).tobytes() if options["near"] else b""
        clock.lap("signature")
        row["ngrams"] = sampled_ngrams(words).tobytes()
        clock.lap("leakage")
    start = time.perf_counter()
    write_shard(Path(target), rows, ANNOTATED)
    seconds["write"] = time.perf_counter() - start
    return {"bytes": size, "documents": len(rows), "seconds": seconds}


def sampled_ngrams(words: np.ndarray) -> np.ndarray:
    """The sampled set of a document's long n-grams: sorted uint64."""
    grams = ngram_hashes(words, LEAKAGE_NGRAM)
    return np.unique(grams[grams % np.uint64(LEAKAGE_SAMPLED) == 0])


STEPS = ("normalise", "language", "signals", "hash", "signature", "leakage", "write")


class _Clock:
    """Adds the time since the last lap to a step."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.last = seconds, time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] += now - self.last
        self.last = now


