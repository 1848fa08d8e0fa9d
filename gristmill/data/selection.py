"""Which documents stay, which go and why: the decisions of the data stage, over columns without the texts.

Memory: the columns of all documents (about 700 bytes each with signatures) and the shingles of those documents that
are candidates for a near-duplicate; the texts stay on disk.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from gristmill.core.errors import UserError
from gristmill.core.progress import Bar
from gristmill.data.decide import Filter, explain, first_broken
from gristmill.data.dedup.clusters import Pair, connected, removals
from gristmill.data.dedup.minhash import PERMUTATIONS, candidate_pairs
from gristmill.data.dedup.shingles import jaccard, shingles
from gristmill.data.normalise import is_code
from gristmill.data.split import Split, assign, units

_COLUMNS = ["id", "source", "domain", "language", "metadata", "signals", "bytes", "content_hash", "shingles", "ngrams"]


@dataclass(frozen=True)
class Drop:
    """Why a document goes. phase: filter, exact or near."""

    phase: str
    reason: str
    detail: str


class Selection:
    """All annotated documents by number (in reading order) and the decisions about them so far."""

    def __init__(self, folder: Path, shards: int) -> None:
        self.folder, self.shards = folder, shards
        self.documents: list[dict[str, Any]] = []
        for number in range(shards):
            self.documents += pq.read_table(self.path(number), columns=_COLUMNS).to_pylist()
        for document in self.documents:
            document["signals"] = json.loads(document["signals"])
            document["metadata"] = json.loads(document["metadata"])
            document["ngrams"] = np.frombuffer(document["ngrams"], np.uint64)
        self.drops: dict[int, Drop] = {}
        self.pairs: list[Pair] = []
        """Verified pairs of near-duplicates at or above the threshold."""
        self.links: list[tuple[int, int]] = []
        """Pairs of documents, exact and near, that belong into one cluster."""
        self.compared: list[Pair] = []
        """Candidates that turned out to be less similar than the threshold."""
        self.clusters: list[str] = [d["id"] for d in self.documents]
        self.splits: dict[int, str] = {}
        self.unit_bytes: dict[str, int] = {}
        """Size of each set of documents that had to stay in one split."""

    def path(self, shard: int) -> Path:
        """The file of one annotated shard."""
        return self.folder / f"{shard:05d}.parquet"

    def kept(self) -> list[int]:
        """Numbers of the documents that stay so far."""
        return [number for number in range(len(self.documents)) if number not in self.drops]

    def decide(self, rules: Filter) -> None:
        """Drop what breaks a rule; raises UserError, with the counts of each rule, if that is everything."""
        by_class = {code: rules.for_class(code=code) for code in (True, False)}
        for number, document in enumerate(self.documents):
            broken = first_broken(document["signals"], by_class[is_code(document["language"])], document["language"])
            if broken:
                self.drops[number] = Drop("filter", broken[0].name, explain(*broken))
        if len(self.drops) == len(self.documents):
            counts = Counter(drop.reason for drop in self.drops.values()).most_common()
            first = next(iter(self.drops.values()))
            off = f"`filter: {{rules: {{{counts[0][0]}: null}}}}`"
            raise UserError(
                "the filter rejects every document: " + ", ".join(f"{rule} took {n}" for rule, n in counts)
                + f" (e.g. {self.documents[0]['id']}: {first.detail})",
                where="filter", fix=f"switch rules off ({off}), loosen their bounds, or set `filter: {{preset: none}}`",
            )

    def remove_exact(self) -> None:
        """Drop all but the best of the documents with equal content."""
        groups: dict[bytes, list[int]] = {}
        for number in self._best_first():
            groups.setdefault(self.documents[number]["content_hash"], []).append(number)
        for best, *others in groups.values():
            for number in others:
                self.links.append((best, number))
                self.drops[number] = Drop("exact", "exact_duplicate", f"same as {self.documents[best]['id']}")

    def remove_near(self, threshold: float, bar: Bar) -> None:
        """Drop near-duplicates of documents that stay, each verified against the one that stays."""
        kept = self.kept()
        sizes = np.array([self.documents[n]["shingles"] for n in kept], np.int64)
        pairs = candidate_pairs(self._signatures(kept), sizes, threshold)
        numbers = np.array(kept, np.int64)[pairs]
        sets = self._shingles({int(n) for n in np.unique(numbers)})
        for first, second in numbers.tolist():
            pair = Pair(first, second, jaccard(sets[first], sets[second]))
            (self.pairs if pair.similarity >= threshold else self.compared).append(pair)
            bar.advance(1)
        self.links += [(pair.first, pair.second) for pair in self.pairs]
        for gone in removals(self._best_first(), self.pairs):
            detail = f"Jaccard {gone.similarity:.4f} with {self.documents[gone.kept]['id']}"
            self.drops[gone.document] = Drop("near", "near_duplicate", detail)

    def split(self, options: Split, seed: int) -> None:
        """Name the clusters (by their smallest id) and put every kept document into a split."""
        roots = connected(len(self.documents), self.links)
        names: dict[int, str] = {}
        for number, root in enumerate(roots):
            names[root] = min(names.get(root, self.documents[number]["id"]), self.documents[number]["id"])
        self.clusters = [names[root] for root in roots]
        kept = self.kept()
        groups = [self._group(n) if options.groups else "" for n in kept]
        labels = units([self.clusters[n] for n in kept], groups)
        chosen = assign(labels, seed, options)
        for number, unit in zip(kept, labels, strict=True):
            self.splits[number] = chosen[unit]
            self.unit_bytes[unit] = self.unit_bytes.get(unit, 0) + self.documents[number]["bytes"]

    def _group(self, number: int) -> str:
        """What the source says belongs together; "" if it says nothing."""
        group = self.documents[number]["metadata"].get("group", "")
        return f"{self.documents[number]['source']}/{group}" if group else ""

    def _best_first(self) -> list[int]:
        """Kept documents, the longest first; of equally long ones the smallest id."""
        return sorted(self.kept(), key=lambda n: (-self.documents[n]["bytes"], self.documents[n]["id"]))

    def _signatures(self, wanted: list[int]) -> np.ndarray:
        """(documents, PERMUTATIONS) uint32."""
        found = [
            np.frombuffer(value, np.uint32)
            for shard in range(self.shards)
            for value in pq.read_table(self.path(shard), columns=["signature"])["signature"].to_pylist()
        ]
        return np.stack([found[n] for n in wanted]) if wanted else np.empty((0, PERMUTATIONS), np.uint32)

    def _shingles(self, wanted: set[int]) -> dict[int, np.ndarray]:
        """Shingle sets of some documents, from their texts."""
        found, number = {}, 0
        for shard in range(self.shards):
            count = pq.read_metadata(self.path(shard)).num_rows
            here = [n for n in range(number, number + count) if n in wanted]
            if here:
                texts = pq.read_table(self.path(shard), columns=["text"])["text"]
                found.update({n: shingles(texts[n - number].as_py()) for n in here})
            number += count
        return found
