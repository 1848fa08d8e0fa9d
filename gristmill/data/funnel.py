"""What happened to the documents, phase by phase: counts, bytes, reasons, lengths, leakage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gristmill.data.documents import SPLITS

LENGTH_EDGES = [0, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
"""Edges of the length histogram, in characters; the last bin is open."""
Tally = dict[str, Any]
"""Nested counts, {documents, bytes} at the ends: what each unit found, added up by `merge`."""
DROPPING = ("collect", "pii", "decontaminate", "sample", "filter", "url", "exact", "near", "repeats")


def count(tally: Tally, place: Sequence[str], size: int) -> None:
    """Count one document of `size` bytes at a place of a tally."""
    for part in place:
        tally = tally.setdefault(part, {})
    tally["documents"] = tally.get("documents", 0) + 1
    tally["bytes"] = tally.get("bytes", 0) + size


def count_kept(tally: Tally, row: Mapping[str, Any], size: int, characters: float) -> None:
    """Count a document that stays, of `size` bytes, in all the places that funnel and card read."""
    license = str(json.loads(row["metadata"] or "{}").get("license", "unknown"))
    source = row["source"]
    for place in (("kept", source), ("splits", row["split"]), ("languages", row["language"]),
                  ("domains", row["domain"]), ("licenses", source, license),
                  ("source_languages", source, row["language"]), ("lengths", str(length_bin(characters)))):
        count(tally, place, size)


def merge(tally: Tally, other: Tally) -> None:
    """Add the counts of another tally."""
    for name, value in other.items():
        if isinstance(value, dict):
            merge(tally.setdefault(name, {}), value)
        else:
            tally[name] = tally.get(name, 0) + value


def length_bin(characters: float) -> int:
    """The bin of the length histogram."""
    return int(np.searchsorted(LENGTH_EDGES, characters, side="right")) - 1


def largest_first(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """{label: {documents, bytes}}, the largest first."""
    return {k: dict(c) for k, c in sorted(counts.items(), key=lambda item: (-item[1]["bytes"], item[0]))}


def phases(tally: Tally) -> list[dict[str, Any]]:
    """After each phase: documents and bytes that are left, of each source too, and what was dropped and why.

    The bytes that a source loses by `repeats` include what was cut out of documents that stay.
    """
    dropped: Tally = tally.get("dropped", {})
    names = sorted({*tally.get("kept", {}), *(source for by_source in dropped.values() for source in by_source)})
    left = {source: dict(tally.get("kept", {}).get(source, {"documents": 0, "bytes": 0})) for source in names}
    cut = tally.get("cut", {})
    found = []
    for phase in reversed(DROPPING):
        reasons: Tally = {}
        sources = {}
        for source in names:
            gone: Tally = {}
            for reason, counts in dropped.get(phase, {}).get(source, {}).items():
                merge(reasons.setdefault(reason, {}), counts)
                merge(gone, counts)
            lost = {"documents": gone.get("documents", 0), "bytes": gone.get("bytes", 0)}
            if phase == "repeats":
                lost["bytes"] += cut.get(source, {}).get("bytes", 0)
            if any(left[source].values()) or any(lost.values()):
                sources[source] = left[source] | {f"dropped_{unit}": size for unit, size in lost.items()}
            merge(left[source], lost if phase != "collect" else {})
        optional = phase in ("pii", "decontaminate", "sample", "url") or (phase == "repeats" and not cut)
        if reasons or not optional:
            found.append({
                "phase": phase,
                "documents": sum(c["documents"] for c in sources.values()),
                "bytes": sum(c["bytes"] for c in sources.values()),
                "dropped": {r: reasons[r] for r in sorted(reasons, key=lambda r: (-reasons[r]["documents"], r))},
                "sources": sources,
            })
    return found[::-1]


def funnel(tally: Tally, read: Mapping[str, Any], clusters: Mapping[str, Any],
           leaked: Mapping[str, Any]) -> dict[str, Any]:
    """funnel.json: deterministic, so it is part of the payload (times are not, they go to telemetry)."""
    reasons: Tally = {}
    for by_source in tally.get("dropped", {}).values():
        for by_reason in by_source.values():
            merge(reasons, by_reason)
    splits, lengths = tally.get("splits", {}), tally.get("lengths", {})
    return {
        "read": read,
        "bytes_read": sum(counts["bytes"] for counts in read.values()),
        "phases": phases(tally),
        "reasons": largest_first(reasons),
        "splits": {name: splits.get(name, {"documents": 0, "bytes": 0}) for name in SPLITS},
        "units": clusters["units"],
        "languages": largest_first(tally.get("languages", {})),
        "domains": largest_first(tally.get("domains", {})),
        "lengths": {"edges": LENGTH_EDGES,
                    "documents": [lengths.get(str(i), {}).get("documents", 0) for i in range(len(LENGTH_EDGES))]},
        "clusters": clusters["clusters"],
        "leakage": {
            "unit": "share of word 13-grams of a split that also occur in train", **leaked,
            "near_duplicates_across_splits": clusters["near_duplicates_across_splits"],
            "highest_similarity_across_splits": clusters["highest_similarity_across_splits"],
        },
    }


Grams = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Some documents' n-grams, one document after the other (n-grams,) uint64, each document's sorted and different; how
many each has (documents,); and the number of its split, or -1 (documents,)."""


def leakage(batches: Callable[[], Iterable[Grams]], sampled: int) -> dict[str, Any]:
    """How much of each held-out split was seen in training, in word n-grams.

    batches: gives the n-grams of all documents, as often as it is called. sampled: only hashes that this divides are
    looked at. For each held-out split: `shared`, the share of its n-grams (counted once a document) that some training
    document has; `documents_over_half`, how many of its documents have more than half of theirs in training. Memory: 24
    bytes for each n-gram of train that is looked at.
    """
    def chosen() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for values, sizes, splits in batches():
            document = np.repeat(np.arange(len(sizes)), sizes)
            there = values % np.uint64(sampled) == 0
            yield values[there], document[there], splits

    train = SPLITS.index("train")
    # The last number gives every n-gram a place to look at.
    seen = np.unique(np.concatenate([np.array([2**64 - 1], np.uint64), *(
        values[splits[document] == train] for values, document, splits in chosen())]))
    totals, shared, over = (np.zeros(len(SPLITS), np.int64) for _ in range(3))
    present = set()
    for values, document, splits in chosen():
        present.update(np.unique(splits).tolist())
        held_out = splits[document] > train
        values, document = values[held_out], document[held_out]
        hits = seen[np.searchsorted(seen, values)] == values
        of_document = np.bincount(document, minlength=len(splits))
        hits_of_document = np.bincount(document, hits, minlength=len(splits)).astype(np.int64)
        for split in range(train + 1, len(SPLITS)):
            own = splits == split
            totals[split] += of_document[own].sum()
            shared[split] += hits_of_document[own].sum()
            over[split] += (2 * hits_of_document[own] > of_document[own]).sum()
    return {SPLITS[split]: {"shared": round(int(shared[split]) / max(int(totals[split]), 1), 6),
                            "documents_over_half": int(over[split])}
            for split in sorted(present) if split > train}
