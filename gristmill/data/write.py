"""The last phase: documents by split, rejects, funnel, data card and examples, written into the artifact.

Every unit writes its own shards (`train-00003.parquet` holds what unit 3 gave to train), in any order.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gristmill.core.files import write_json
from gristmill.core.seeds import fraction
from gristmill.core.stage import StageContext
from gristmill.data.card import data_card
from gristmill.data.decide import Rule, alarms, explain
from gristmill.data.dedup import repeats
from gristmill.data.documents import REJECTS_SCHEMA, SCHEMA, SPLITS, read_table, write_shard
from gristmill.data.executors import run_tasks
from gristmill.data.funnel import Tally, count, count_kept, funnel, leakage, merge
from gristmill.data.histograms import signal_histograms
from gristmill.data.read import CONTAMINATED, LEAKAGE_SAMPLED, MEASURED, PRIVATE, Rows
from gristmill.data.selection import PHASES, Selection

if TYPE_CHECKING:
    from gristmill.data.stage import Data

JOB = f"{__name__}:write_unit"
KEPT_EXAMPLES, REJECTED_EXAMPLES, EXAMPLE_CHARACTERS = 8, 3, 700
MOST_NGRAMS = 8_000_000
"""Hashes of n-grams that are held at a time to measure leakage: of a larger corpus, fewer of each document."""
DECIDED = pa.schema([
    pa.field("phase", pa.int8()), pa.field("rule", pa.int16()), pa.field("partner", pa.string()),
    pa.field("similarity", pa.float32()), pa.field("cluster", pa.string()), pa.field("split", pa.string()),
])
"""What was decided about the documents of a unit. partner, cluster: ids; null is the document's own."""


def write_corpus(stage: Data, context: StageContext, selection: Selection, unreadable: Sequence[Path],
                 read: Mapping[str, Any]) -> dict[str, Any]:
    """Write the payload; gives the metrics for the record.

    unreadable: the rejects of each unit. read: source -> counts of the first pass.
    """
    for name in ("documents", "rejects"):  # what an interrupted run may have left
        shutil.rmtree(context.work / name, ignore_errors=True)
        (context.work / name).mkdir(parents=True)
    folder = context.scratch / "decided"
    rules = stage.rules()
    tasks = []
    for number, (path, decided) in enumerate(zip(selection.files, _decided(selection), strict=True)):
        write_shard(folder / f"{number:05d}.parquet", decided, DECIDED)
        tasks.append({
            "measured": str(path), "unreadable": str(unreadable[number]), "target": str(context.work), "number": number,
            "decided": str(folder / f"{number:05d}.parquet"), "seed": context.seed,
            "edited": str(selection.edited[number].path) if selection.edited else None,
            "rules": [asdict(rule) for rule in rules], "rule_names": selection.rule_names, "recorded": stage.record,
        })
    found: dict[int, dict[str, Any]] = {}
    with context.progress.bar("write", selection.count, "documents") as bar:
        def done(task: dict[str, Any], result: dict[str, Any]) -> None:
            found[task["number"]] = result
            bar.advance(result["documents"])

        run_tasks(JOB, tasks, context.runtime, done)
    tally: Tally = {}
    examples = _Examples(context.seed)
    for number in sorted(found):
        merge(tally, found[number]["tally"])
        examples.merge(found[number]["examples"])
    described = funnel(tally, read, _clusters(selection), _leakage(selection))
    duplicates = selection.duplicates()
    described["alarms"] = [{"source": alarm["source"], "what": alarm["what"], "fix": alarm["fix"]}
                           for alarm in duplicates.pop("alarms") if alarm["value"] > stage.alarm]
    described["alarms"] += [
        {"source": alarm.source, "what": str(alarm), "fix": "look at its rejects, or loosen the rules for it"}
        for alarm in alarms({name: counts["documents"] for name, counts in read.items()}, _lost(tally), stage.alarm)]
    if selection.edited:
        duplicates["repeats"] = {"sources": tally.get("cut", {}), "examples": repeats.examples(selection.edited)}
    write_json(context.work / "duplicates.json", duplicates)
    write_json(context.work / "funnel.json", described)
    write_json(context.work / "examples.json", examples.chosen())
    write_json(context.work / "signals.json", signal_histograms(selection, selection.signals, rules))
    write_json(context.work / "card.json", data_card(stage, tally, described))
    return {
        "documents": len(selection.kept()), "bytes": int(selection.bytes[selection.kept()].sum()),
        "splits": described["splits"], "reasons": described["reasons"], "leakage": described["leakage"],
        "rejected": sum(count["documents"] for count in described["reasons"].values()),
    }


def _decided(selection: Selection) -> Any:
    """The decisions as one table a unit."""
    elsewhere = selection.cluster != np.arange(selection.count)
    dropped = selection.partner >= 0
    ids = selection.ids([*selection.cluster[elsewhere].tolist(), *selection.partner[dropped].tolist()])
    for start, stop in zip(selection.starts[:-1].tolist(), selection.starts[1:].tolist(), strict=True):
        here = slice(start, stop)
        splits = [SPLITS[split] if split >= 0 else "" for split in selection.split_of[here].tolist()]
        yield pa.table({
            "phase": selection.phase[here], "rule": selection.rule[here],
            "partner": pa.array([ids.get(n) for n in selection.partner[here].tolist()], pa.string()),
            "similarity": selection.similarity[here],
            "cluster": pa.array([ids[n] if n != start + i else None
                                 for i, n in enumerate(selection.cluster[here].tolist())], pa.string()),
            "split": splits,
        }, schema=DECIDED)


def write_unit(*, measured: str, unreadable: str, decided: str, target: str, number: int, seed: int,
               rules: Sequence[Mapping[str, Any]], rule_names: Sequence[str], edited: str | None,
               recorded: Sequence[str]) -> dict[str, Any]:
    """Write the shards of one unit; gives its number of documents, its tally and its examples.

    rules: those in force, as plain values. rule_names: what the numbers of rules in `decided` mean.
    edited: the file of documents that lost repeated text (`repeats.EDITED`). recorded: signals whose values go into
    the metadata.
    """
    documents, decisions = pq.ParquetFile(measured), read_table(decided)
    signals = [name for name in documents.schema_arrow.names if name not in MEASURED.names]
    in_force = {rule["name"]: Rule(**{**rule, "languages": tuple(rule["languages"])}) for rule in rules}
    tally, examples = Tally(), _Examples(seed)
    edits = _Edits(edited)
    with _Outputs(Path(target), number) as outputs:
        for row in read_table(unreadable).to_pylist():
            phase = {CONTAMINATED: "decontaminate", PRIVATE: "pii"}.get(row["reason"], "collect")
            count(tally, ("dropped", phase, row["source"], row["reason"]), len(row["text"].encode()))
            examples.reject(row)
            outputs.reject(row)
        start = 0
        for batch in documents.iter_batches(batch_size=1024, columns=[*READ, *signals]):
            choices = decisions.slice(start, len(batch))
            start += len(batch)
            stays = pc.equal(choices["phase"], 0)
            table = pa.Table.from_batches([batch.select(READ)])
            table, characters = edits.applied(table, start - len(batch), tally)
            if recorded:
                table = _with_values(table, {name: batch[name].to_pylist() for name in recorded})
            table = table.append_column("cluster", pc.coalesce(choices["cluster"], table["id"]))
            table = table.append_column("split", choices["split"])
            for split in SPLITS:
                part = table.filter(pc.and_(stays, pc.equal(choices["split"], split)))
                outputs.write(split, part.select(SCHEMA.names))
            for number, row in enumerate(table.drop_columns(["text"]).to_pylist()):
                if choices["phase"][number].as_py() == 0:
                    length = characters.get(number, batch["length_v1.characters"][number].as_py())
                    count_kept(tally, row, row["bytes"], length)
                    examples.keep(row, table["text"][number])
                    continue
                row["text"] = batch["text"][number].as_py()
                phase, row["reason"], row["detail"] = _why(
                    choices.slice(number, 1).to_pylist()[0], batch, number, in_force, rule_names)
                count(tally, ("dropped", phase, row["source"], row["reason"]), row["bytes"])
                examples.reject(row)
                outputs.reject(row)
    return {"documents": start, "tally": tally, "examples": examples.points()}


def _with_values(documents: pa.Table, values: Mapping[str, Sequence[float]]) -> pa.Table:
    """The documents with these values in their metadata; what was not measured (NaN) is left out."""
    made = []
    for number, text in enumerate(documents["metadata"].to_pylist()):
        known = {name: float(f"{column[number]:.6g}") for name, column in values.items()
                 if column[number] == column[number]}
        made.append(json.dumps({**json.loads(text or "{}"), **known}, sort_keys=True, ensure_ascii=False))
    at = documents.schema.get_field_index("metadata")
    return documents.set_column(at, documents.schema.field(at), pa.array(made, documents["metadata"].type))


class _Edits:
    """The edited documents of a unit, put in the place of the others as they come by."""

    def __init__(self, path: str | None) -> None:
        self.table = read_table(path) if path else repeats.EDITED.empty_table()
        self.rows = self.table["row"].to_numpy()

    def applied(self, documents: pa.Table, start: int, tally: Tally) -> tuple[pa.Table, dict[int, int]]:
        """Documents whose first has the number `start`, with the edited ones' texts, bytes and metadata; and the
        characters of those. What nothing is left of stays as it was: it goes among the rejects."""
        first, last = np.searchsorted(self.rows, [start, start + len(documents)])
        characters: dict[int, int] = {}
        if first == last:
            return documents, characters
        columns = {name: documents[name].to_pylist() for name in ("text", "bytes", "metadata")}
        sources = documents["source"].to_pylist()
        for edit in self.table.slice(first, last - first).to_pylist():
            number = edit["row"] - start
            if not edit["bytes"]:
                continue
            place = tally.setdefault("cut", {}).setdefault(sources[number], {})
            merge(place, {"documents": 1, "bytes": columns["bytes"][number] - edit["bytes"], "lines": edit["lines"],
                          "words": edit["words"]})
            about = json.loads(columns["metadata"][number] or "{}")
            about["cut"] = {name: edit[name] for name in ("lines", "words") if edit[name]}
            columns["metadata"][number] = json.dumps(about, sort_keys=True, ensure_ascii=False)
            columns["text"][number], columns["bytes"][number] = edit["text"], edit["bytes"]
            characters[number] = len(edit["text"])
        for name, values in columns.items():
            at = documents.schema.get_field_index(name)
            documents = documents.set_column(at, documents.schema.field(at), pa.array(values, documents[name].type))
        return documents, characters


READ = ["id", "text", "source", "domain", "language", "metadata", "bytes"]


def _why(choice: dict[str, Any], batch: pa.RecordBatch, number: int, rules: Mapping[str, Rule],
         names: Sequence[str]) -> tuple[str, str, str]:
    """(phase, reason, detail) of a document that goes."""
    phase = PHASES[choice["phase"]]
    if phase == "filter":
        rule = rules[names[choice["rule"]]]
        return phase, rule.name, explain(rule, batch[rule.signal][number].as_py())
    if phase == "url":
        return phase, "same_url", f"same address as {choice['partner']}"
    if phase == "exact":
        return phase, "exact_duplicate", f"same as {choice['partner']}"
    if phase == "near":
        return phase, "near_duplicate", f"Jaccard {choice['similarity']:.4f} with {choice['partner']}"
    if phase == "repeats":
        return phase, "only_repeats", "every line of it stands in many documents, or its words stand in a better one"
    return phase, "beyond_limit", "the sample is as large as limit_mb allows"


def _lost(tally: Tally) -> dict[str, dict[str, int]]:
    """source -> rule -> documents that it took."""
    return {source: {reason: counts["documents"] for reason, counts in reasons.items()}
            for source, reasons in tally.get("dropped", {}).get("filter", {}).items()}


def _clusters(selection: Selection) -> dict[str, Any]:
    sizes = np.bincount(selection.cluster, minlength=1)
    near = selection.near
    across = selection.across(near.pairs) if near else np.zeros(0, bool)
    unlike = near.refused_similarities[selection.across(near.refused)] if near else np.zeros(0)
    return {
        "units": {"number": len(selection.unit_bytes), "largest_bytes": int(selection.unit_bytes.max(initial=0))},
        "clusters": {
            "of_several": int((sizes > 1).sum()), "largest": int(sizes.max()),
            "candidates": len(near.pairs) + len(near.refused) if near else 0,
            "verified": len(near.pairs) if near else 0,
        },
        "near_duplicates_across_splits": int(across.sum()),
        "highest_similarity_across_splits": round(float(unlike.max(initial=0.0)), 6),
    }


def _leakage(selection: Selection) -> dict[str, Any]:
    """Shared n-grams of the splits, of as many n-grams as fit into memory."""
    sizes = (pc.sum(pc.binary_length(table["ngrams"])).as_py() for _, table in selection.tables(["ngrams"]))
    thinner = 1 << (sum(size or 0 for size in sizes) // 8 // MOST_NGRAMS).bit_length()
    return {"sampled": LEAKAGE_SAMPLED * thinner, **leakage(
        lambda: ((*_flat(table["ngrams"]), selection.split_of[start:start + len(table)])
                 for start, table in selection.tables(["ngrams"])), LEAKAGE_SAMPLED * thinner)}


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The uint64 numbers in a column of binary values, one value after the other, and how many each has."""
    sizes = pc.binary_length(column).to_numpy() // 8
    return np.frombuffer(b"".join(column.to_pylist()), np.uint64), sizes


class _Outputs(contextlib.AbstractContextManager["_Outputs"]):
    """The shards of one unit: one a split that it has documents for, and one of its rejects."""

    def __init__(self, target: Path, number: int) -> None:
        self.target, self.number = target, number
        self.files: dict[str, Rows] = {}

    def _file(self, name: str) -> Rows:
        if name not in self.files:
            folder, schema = ("rejects", REJECTS_SCHEMA) if name == "rejects" else ("documents", SCHEMA)
            self.files[name] = Rows(self.target / folder / f"{name}-{self.number:05d}.parquet", schema).__enter__()
        return self.files[name]

    def write(self, split: str, table: pa.Table) -> None:
        if len(table):
            self._file(split).write_table(table)

    def reject(self, row: dict[str, Any]) -> None:
        self._file("rejects").write([row])

    def __exit__(self, *about: Any) -> None:
        for file in self.files.values():
            file.__exit__(*about)


class _Examples:
    """A few kept and rejected documents for the report, chosen by the hash of their ids."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.kept: list[list[Any]] = []
        self.rejected: dict[str, list[list[Any]]] = {}

    def keep(self, row: dict[str, Any], text: pa.StringScalar) -> None:
        self._add(self.kept, row, text, KEPT_EXAMPLES, ("split", "cluster"))

    def reject(self, row: dict[str, Any]) -> None:
        self._add(self.rejected.setdefault(row["reason"], []), row, row["text"], REJECTED_EXAMPLES, ("detail",))

    def merge(self, other: dict[str, Any]) -> None:
        """Take over what another unit chose."""
        self._best(self.kept, other["kept"], KEPT_EXAMPLES)
        for reason, found in other["rejected"].items():
            self._best(self.rejected.setdefault(reason, []), found, REJECTED_EXAMPLES)

    def _add(self, chosen: list[list[Any]], row: dict[str, Any], text: Any, most: int, extra: tuple[str, ...]) -> None:
        point = fraction(self.seed, "example", row["id"])
        if len(chosen) == most and point >= chosen[-1][0]:
            return
        shown = {key: row[key] for key in ("id", "source", "domain", "language", *extra)}
        shown["metadata"] = json.loads(row["metadata"] or "{}")
        shown["text"] = (text if isinstance(text, str) else text.as_py())[:EXAMPLE_CHARACTERS]
        self._best(chosen, [[point, shown]], most)

    def _best(self, chosen: list[list[Any]], more: Sequence[Any], most: int) -> None:
        chosen += more
        chosen.sort(key=lambda item: (item[0], item[1]["id"]))
        del chosen[most:]

    def points(self) -> dict[str, Any]:
        """What `merge` of another takes."""
        return {"kept": self.kept, "rejected": self.rejected}

    def chosen(self) -> dict[str, Any]:
        """{kept: [...], rejected: {reason: [...]}}"""
        return {"kept": [e for _, e in self.kept],
                "rejected": {reason: [e for _, e in found] for reason, found in sorted(self.rejected.items())}}
