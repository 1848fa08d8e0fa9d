"""The last phase: documents by split, rejects, funnel, data card and examples, written into the artifact."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.core.files import write_json
from gristmill.core.seeds import fraction
from gristmill.core.stage import StageContext
from gristmill.data.card import data_card
from gristmill.data.documents import REJECTS_SCHEMA, SCHEMA, SPLITS, write_shard
from gristmill.data.funnel import Funnel, histogram, leakage, tally
from gristmill.data.selection import Selection
from gristmill.data.sources import source_names

if TYPE_CHECKING:
    from gristmill.data.stage import Data

SHARD_BYTES = 64 << 20
"""Text in a shard of the corpus."""
KEPT_EXAMPLES, REJECTED_EXAMPLES, EXAMPLE_CHARACTERS = 8, 3, 700


def write_corpus(stage: Data, context: StageContext, selection: Selection, counts: dict[str, Any],
                 folder: Path) -> dict[str, Any]:
    """Write the payload; gives the metrics for the record."""
    for name in ("documents", "rejects"):  # what an interrupted run may have left
        shutil.rmtree(context.work / name, ignore_errors=True)
    writers = {split: _Writer(context.work / "documents", split, SCHEMA) for split in SPLITS}
    rejects = _Writer(context.work / "rejects", "rejects", REJECTS_SCHEMA)
    (context.work / "rejects").mkdir(parents=True)
    examples = _Examples(context.seed)
    unreadable = []
    for row in _unreadable(folder, counts["reject_shards"]):
        unreadable.append((row["source"], row["reason"], len(row["text"].encode())))
        rejects.add(row)
        examples.reject(row)
    with context.progress.bar("write", len(selection.documents), "documents") as bar:
        for number, row in _annotated(selection):
            bar.advance(1)
            row["cluster"], row["split"] = selection.clusters[number], selection.splits.get(number, "")
            if drop := selection.drops.get(number):
                row |= {"reason": drop.reason, "detail": drop.detail}
                rejects.add(row)
                examples.reject(row)
            else:
                writers[row["split"]].add(row)
                examples.keep(row)
    for writer in (*writers.values(), rejects):
        writer.close()
    funnel = _funnel(selection, counts, unreadable)
    write_json(context.work / "funnel.json", funnel)
    write_json(context.work / "examples.json", examples.chosen())
    kept = [
        {"source": d["source"], "language": d["language"], "bytes": d["bytes"],
         "license": d["metadata"].get("license", "unknown")}
        for d in (selection.documents[n] for n in selection.kept())
    ]
    sources = list(zip(source_names(stage.sources), stage.sources, strict=True))
    write_json(context.work / "card.json", data_card(sources, stage, kept, funnel))
    return {
        "documents": len(kept), "bytes": sum(d["bytes"] for d in kept), "splits": funnel["splits"],
        "rejected": len(unreadable) + len(selection.drops), "reasons": funnel["reasons"], "leakage": funnel["leakage"],
    }


def _funnel(selection: Selection, counts: dict[str, Any], unreadable: list[tuple[str, str, int]]) -> dict[str, Any]:
    documents, drops, kept = selection.documents, selection.drops, selection.kept()
    funnel = Funnel()
    alive = list(range(len(documents)))
    funnel.phase("collect", [(d["source"], d["bytes"]) for d in documents], unreadable)
    for phase in ("filter", "exact", "near"):
        gone = [n for n in alive if n in drops and drops[n].phase == phase]
        lost = set(gone)
        alive = [n for n in alive if n not in lost]
        funnel.phase(phase, [(documents[n]["source"], documents[n]["bytes"]) for n in alive],
                     [(documents[n]["source"], drops[n].reason, documents[n]["bytes"]) for n in gone])
    splits = tally((selection.splits[n], documents[n]["bytes"]) for n in kept)
    members: dict[str, int] = {}
    for name in selection.clusters:
        members[name] = members.get(name, 0) + 1
    across = [p.similarity for p in selection.compared
              if p.first in selection.splits and p.second in selection.splits
              and selection.splits[p.first] != selection.splits[p.second]]
    return {
        "read": counts["sources"],
        "bytes_read": counts["bytes"],
        "phases": funnel.phases,
        "reasons": tally([*((drops[n].reason, documents[n]["bytes"]) for n in sorted(drops)),
                          *((reason, size) for _, reason, size in unreadable)]),
        "splits": {name: splits.get(name, {"documents": 0, "bytes": 0}) for name in SPLITS},
        "units": {"number": len(selection.unit_bytes), "largest_bytes": max(selection.unit_bytes.values(), default=0)},
        "languages": tally((documents[n]["language"], documents[n]["bytes"]) for n in kept),
        "domains": tally((documents[n]["domain"], documents[n]["bytes"]) for n in kept),
        "lengths": histogram([int(documents[n]["signals"]["length_v1.characters"]) for n in kept]),
        "clusters": {
            "of_several": sum(size > 1 for size in members.values()), "largest": max(members.values(), default=0),
            "candidates": len(selection.pairs) + len(selection.compared), "verified": len(selection.pairs),
        },
        "leakage": {
            "unit": "share of word 13-grams of a split that also occur in train",
            **leakage([documents[n]["ngrams"] for n in kept], [selection.splits[n] for n in kept]),
            "near_duplicates_across_splits": sum(
                p.first in selection.splits and p.second in selection.splits
                and selection.splits[p.first] != selection.splits[p.second] for p in selection.pairs),
            "highest_similarity_across_splits": round(max(across, default=0.0), 6),
        },
    }


def _annotated(selection: Selection) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for shard in range(selection.shards):
        for row in pq.read_table(selection.path(shard), columns=SCHEMA.names).to_pylist():
            yield number, row
            number += 1


def _unreadable(folder: Path, shards: int) -> Iterator[dict[str, Any]]:
    for shard in range(shards):
        yield from pq.read_table(folder / "collected" / f"rejects-{shard:05d}.parquet").to_pylist()


class _Writer:
    """Rows into shards `<name>-00000.parquet`, ordered by id within each."""

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        self.folder, self.name, self.schema = folder, name, schema
        self.rows: list[dict[str, Any]] = []
        self.size = self.written = 0

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.size += len(row["text"])
        if self.size >= SHARD_BYTES:
            self.close()

    def close(self) -> None:
        """Write what is pending."""
        if self.rows:
            self.rows.sort(key=lambda row: row["id"])
            write_shard(self.folder / f"{self.name}-{self.written:05d}.parquet", self.rows, self.schema)
            self.rows, self.size, self.written = [], 0, self.written + 1


class _Examples:
    """A few kept and rejected documents for the report, chosen by the hash of their ids."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.kept: list[tuple[float, dict[str, Any]]] = []
        self.rejected: dict[str, list[tuple[float, dict[str, Any]]]] = {}

    def keep(self, row: dict[str, Any]) -> None:
        self._add(self.kept, row, KEPT_EXAMPLES, ("split", "cluster"))

    def reject(self, row: dict[str, Any]) -> None:
        self._add(self.rejected.setdefault(row["reason"], []), row, REJECTED_EXAMPLES, ("detail",))

    def _add(self, chosen: list[tuple[float, dict[str, Any]]], row: dict[str, Any], count: int,
             extra: tuple[str, ...]) -> None:
        point = fraction(self.seed, "example", row["id"])
        if len(chosen) == count and point >= chosen[-1][0]:
            return
        shown = {key: row[key] for key in ("id", "source", "domain", "language", *extra)}
        text, metadata = row["text"][:EXAMPLE_CHARACTERS], json.loads(row["metadata"] or "{}")
        chosen.append((point, {**shown, "metadata": metadata, "text": text}))
        chosen.sort(key=lambda item: (item[0], item[1]["id"]))
        del chosen[count:]

    def chosen(self) -> dict[str, Any]:
        """{kept: [...], rejected: {reason: [...]}}"""
        return {"kept": [e for _, e in self.kept],
                "rejected": {reason: [e for _, e in found] for reason, found in sorted(self.rejected.items())}}
