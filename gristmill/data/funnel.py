"""What happened to the documents, phase by phase: counts, bytes, reasons, lengths, leakage."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

LENGTH_EDGES = [0, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
"""Edges of the length histogram, in characters; the last bin is open."""


class Funnel:
    """Counts of one run; deterministic, so it is part of the payload (times are not, they go to telemetry)."""

    def __init__(self) -> None:
        self.phases: list[dict[str, Any]] = []

    def phase(self, name: str, kept: Iterable[tuple[str, int]], dropped: Iterable[tuple[str, str, int]] = ()) -> None:
        """Add a phase. kept: (source, bytes) of each document that goes on; dropped: (source, reason, bytes)."""
        sources: dict[str, Counter[str]] = defaultdict(Counter)
        reasons: dict[str, Counter[str]] = defaultdict(Counter)
        for source, size in kept:
            sources[source].update(documents=1, bytes=size)
        for source, reason, size in dropped:
            sources[source].update(dropped_documents=1, dropped_bytes=size)
            reasons[reason].update(documents=1, bytes=size)
        self.phases.append({
            "phase": name,
            "documents": sum(c["documents"] for c in sources.values()),
            "bytes": sum(c["bytes"] for c in sources.values()),
            "dropped": {r: dict(reasons[r]) for r in sorted(reasons, key=lambda r: (-reasons[r]["documents"], r))},
            "sources": {s: {key: c[key] for key in ("documents", "bytes", "dropped_documents", "dropped_bytes")}
                        for s, c in sorted(sources.items())},
        })


def tally(labels: Iterable[tuple[str, int]]) -> dict[str, dict[str, int]]:
    """{label: {documents, bytes}} of (label, bytes) pairs, the largest first."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for label, size in labels:
        counts[label].update(documents=1, bytes=size)
    return {k: dict(c) for k, c in sorted(counts.items(), key=lambda item: (-item[1]["bytes"], item[0]))}


def histogram(lengths: Sequence[int]) -> dict[str, list[int]]:
    """{edges, documents} of document lengths in characters."""
    places = np.searchsorted(LENGTH_EDGES, np.asarray(lengths, np.int64), side="right") - 1
    return {"edges": LENGTH_EDGES, "documents": np.bincount(places, minlength=len(LENGTH_EDGES)).tolist()}


def leakage(ngrams: Sequence[np.ndarray], splits: Sequence[str]) -> dict[str, Any]:
    """How much of each held-out split was seen in training, in word n-grams.

    ngrams: one sorted set of sampled n-gram hashes a document. For each held-out split: `shared`, the share of its
    n-grams (counted once a document) that some training document has; `documents_over_half`, how many of its documents
    have more than half of theirs in training.
    """
    train = [grams for grams, split in zip(ngrams, splits, strict=True) if split == "train"]
    seen = np.unique(np.concatenate(train)) if train else np.empty(0, np.uint64)
    result: dict[str, Any] = {}
    for wanted in sorted(set(splits) - {"train"}):
        total = shared = over = 0
        for grams, split in zip(ngrams, splits, strict=True):
            if split == wanted and len(grams):
                hits = int(np.isin(grams, seen, assume_unique=True).sum())
                total, shared, over = total + len(grams), shared + hits, over + (hits * 2 > len(grams))
        result[wanted] = {"shared": round(shared / total, 6) if total else 0.0, "documents_over_half": over}
    return result
