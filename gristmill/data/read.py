"""The parallel first pass: one unit of the sources becomes a file of documents in normal form with all their
measurements, and a file of what could not be read.

Memory: one batch of documents, whatever the size of the unit.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.core.files import disk_errors, write_json
from gristmill.core.seeds import fraction
from gristmill.data.decontaminate import Contamination, Decontaminate, EvaluationIndex, decontaminated
from gristmill.data.dedup.exact import content_hash
from gristmill.data.dedup.fingerprints import Fingerprints, fingerprints_of_words, joined
from gristmill.data.dedup.shingles import distinct, grams
from gristmill.data.dedup.texts import slices
from gristmill.data.dedup.urls import url_hash
from gristmill.data.dedup.words import Words, split_words
from gristmill.data.documents import PARQUET, REJECTS_SCHEMA, SCHEMA, Document, Reject, reject_row, row
from gristmill.data.evaluation_texts import evaluation_texts
from gristmill.data.inputs import list_inputs
from gristmill.data.normalise import Normalise, is_code, normalise
from gristmill.data.pii import Pii, examine
from gristmill.data.signals import Batch, Compat, Signal, further_signal, measure_batch
from gristmill.data.signals.language import UNDETERMINED, language_v1
from gristmill.data.signals.learned import learned_values, open_learned
from gristmill.data.signals.licences import stated_license
from gristmill.data.signals.lines import remove_lines_batch
from gristmill.data.sources import source_from_plain
from gristmill.data.units import parts_from_plain

JOB = f"{__name__}:read_unit"
BATCH_DOCUMENTS, BATCH_BYTES = 1024, 4 << 20
"""Documents, and bytes of text, that are in memory at a time."""
CONTAMINATED, PRIVATE = "contaminated", "pii"
"""The reasons of documents that hold evaluation texts, and too much personal data."""
LEAKAGE_NGRAM = 13
"""Length of the word n-grams by which overlap between splits is measured."""
LEAKAGE_SAMPLED = 16
"""One in so many n-grams is kept, chosen by its hash, so the same ones are chosen everywhere."""
MEASURED = pa.schema([
    *(SCHEMA.field(name) for name in ("id", "text", "source", "domain", "language", "metadata")),
    pa.field("bytes", pa.int64(), nullable=False),
    pa.field("point", pa.float64(), nullable=False),
    pa.field("group", pa.string(), nullable=False),
    pa.field("content_hash", pa.binary(16), nullable=False),
    pa.field("url_hash", pa.binary(16)),
    pa.field("ngrams", pa.binary(), nullable=False),
])
"""A document with what was measured; a column for each signal follows. point: where it lies in [0, 1) for sampling;
group: what it must stay with."""


@dataclass(frozen=True)
class Sample:
    """Which documents are taken: `share` of them by the hash of their id (of the name of their pair, where they are
    translations of each other)."""

    share: float
    seed: int

    def point(self, document: Document) -> float:
        """A number in [0, 1); documents below `share` are taken."""
        return fraction(self.seed, "sample", str(document.metadata.get("pair") or document.id))


def read_unit(*, source: dict[str, Any], name: str, parts: Sequence[Sequence[Any]], target: str,
              options: dict[str, Any]) -> dict[str, Any]:
    """Read one unit into `<target>.documents.parquet`, `<target>.rejects.parquet`, with `near` `<target>.fingerprints`,
    and, when all are whole, `<target>.json`; gives the latter: counts, bytes of text, seconds by step.

    source, parts: the config and the ranges as plain values. options: {normalise: fields of Normalise, languages:
    "detect" or "none", near: the threshold of near-duplicates or None, share: float, seed: int, lines: line filters
    for prose, compat, bad_words: those of Filter, further, learned: signals that are measured besides (names; {kind,
    name, model: folder, label}), signals: names of the columns, pii: fields of Pii, stated_licenses: bool,
    evaluations: {files, rules} of what must not be trained on, or None}.
    """
    reader, chosen = source_from_plain(source), Sample(options["share"], options["seed"])
    rules, privacy = Normalise(**options["normalise"]), Pii(**options["pii"])
    counts, seconds = Counter[str](inputs=len({part[0] for part in parts})), Counter[str]()
    counts["documents"] = counts["bytes"] = counts["unreadable"] = 0
    clock = _Clock(seconds)
    prints: list[Fingerprints] = []
    index = evaluation_index(json.dumps(options["evaluations"])) if options["evaluations"] else None
    contaminations: dict[str, list[Any]] = {}
    schema = pa.schema([*MEASURED, *(pa.field(name, pa.float64()) for name in options["signals"])])
    with Rows(f"{target}.documents.parquet", schema) as documents, \
            Rows(f"{target}.rejects.parquet", REJECTS_SCHEMA) as rejects:
        batch: list[Document] = []
        points: list[float] = []
        held = 0

        def leave_out(document: Document, reason: str, detail: str) -> None:
            place = batch.index(document)
            del batch[place], points[place]
            counts[reason] += 1
            rejects.write([reject_row(Reject(document, reason, detail))])

        def flush() -> None:
            nonlocal held
            clean(batch, rules, options, clock)
            if privacy.action != "none":
                for document in list(batch):
                    examined = examine(document.text, privacy, code=is_code(document.language))
                    document.text = examined.text
                    if examined.counts:
                        document.metadata["pii"] = examined.counts
                    if examined.dropped:
                        leave_out(document, PRIVATE, examined.detail)
                clock.lap("pii")
            if index:
                found = [(document, taken) for document, taken in zip(
                    batch, index.examine([document.text for document in batch]), strict=True) if taken]
                for document, taken in found:
                    contaminations[document.id] = [asdict(one) for one in taken]
                    left = decontaminated(document.text, taken, index.options)
                    if left is None:
                        leave_out(document, CONTAMINATED, said(taken))
                    elif left != document.text:
                        document.text, document.metadata["decontaminated"] = left, said(taken)
                clock.lap("decontaminate")
            if batch:
                documents.write_table(measured(batch, points, options, prints, clock))
                clock.lap("write")
            batch.clear()
            points.clear()
            held = 0

        for item in (item for part in parts_from_plain(parts) for item in reader.read(part, name)):
            document = item.document if isinstance(item, Reject) else item
            point = chosen.point(document)
            if point >= chosen.share:
                counts["not_sampled"] += 1
            elif isinstance(item, Reject):
                counts["unreadable"] += 1
                counts[f"reason {item.reason}"] += 1
                rejects.write([reject_row(item)])
            else:
                size = len(document.text.encode("utf-8", "replace"))
                counts["documents"] += 1
                counts["bytes"] += size
                held += size
                batch.append(document)
                points.append(point)
                if len(batch) >= BATCH_DOCUMENTS or held >= BATCH_BYTES:
                    clock.lap("read")
                    flush()
        clock.lap("read")
        flush()
    if options["near"] is not None:
        joined(prints, options["near"]).save(Path(f"{target}.fingerprints"))
    result = {"counts": dict(sorted(counts.items())), "seconds": dict(seconds), "contaminations": contaminations}
    write_json(Path(f"{target}.json"), result)
    return result


def clean(documents: Sequence[Document], rules: Normalise, options: dict[str, Any], clock: _Clock) -> None:
    """Bring the texts into normal form, without the lines that are not wanted, and find their languages."""
    for document in documents:
        document.text = normalise(document.text, rules, code=is_code(document.language))
    clock.lap("normalise")
    if options["lines"]:
        take_lines([document for document in documents if not is_code(document.language)], options["lines"])
        clock.lap("lines")
    if options["languages"] == "detect":
        for document in documents:
            if document.language == UNDETERMINED:
                document.language = language_v1(document.text)
        clock.lap("language")
    if options["stated_licenses"]:
        for document in documents:
            if document.metadata.get("license", "unknown") == "unknown" and (stated := stated_license(document.text)):
                document.metadata["license"] = stated
        clock.lap("licences")


def measured(documents: Sequence[Document], points: Sequence[float], options: dict[str, Any],
             prints: list[Fingerprints], clock: _Clock) -> pa.Table:
    """Documents in normal form as a table of `MEASURED`; where `near` asks for them, their fingerprints go to
    `prints`."""
    texts = [document.text for document in documents]
    code = [is_code(document.language) for document in documents]
    signals = measure_batch(texts, code=code, compat=options["compat"], bad_words=options["bad_words"],
                            further=_further(json.dumps([options["further"], options["learned"]])))
    clock.lap("signals")
    same = [content_hash(text) for text in texts]
    clock.lap("hash")
    ngrams: list[np.ndarray] = []
    for part in slices(texts):
        words = split_words(texts[part])
        ngrams += sampled_ngrams(words)
        clock.lap("leakage")
        if options["near"] is not None:
            prints.append(fingerprints_of_words(words, options["near"]))
            clock.lap("fingerprints")
    rows = []
    for number, (document, text) in enumerate(zip(documents, texts, strict=True)):
        group, url = document.metadata.get("group", ""), document.metadata.get("url")
        rows.append({
            **row(document), "bytes": len(text.encode()), "point": points[number],
            "group": f"{document.source}/{group}" if group else "", "content_hash": same[number],
            "ngrams": ngrams[number].tobytes(),
            "url_hash": (url_hash(str(url)) or None) if url else None,
        })
    table = pa.Table.from_pylist(rows, schema=MEASURED)
    for name in options["signals"]:
        column = signals.get(name)
        table = table.append_column(name, pa.array(np.full(len(rows), np.nan) if column is None else column))
    return table


def take_lines(documents: Sequence[Document], filters: Sequence[str]) -> None:
    """Remove the lines that the filters take; they are counted in the documents' metadata."""
    batch = Batch([document.text for document in documents])
    for document, edited in zip(documents, remove_lines_batch(batch, filters), strict=True):
        taken = {name: count for name, count in edited.removed.items() if count}
        if taken:
            document.text, document.metadata["removed_lines"] = edited.text, taken


@functools.lru_cache(maxsize=1)
def evaluation_index(evaluations: str) -> EvaluationIndex:
    """The index of {files, rules} in JSON: once a process."""
    wanted = json.loads(evaluations)
    texts = (text for path in evaluation_files(wanted["files"]) for text in evaluation_texts(path))
    return EvaluationIndex.build(texts, Decontaminate(**wanted["rules"]))


def evaluation_files(patterns: Sequence[str]) -> list[Path]:
    """The files of evaluation texts under paths, folders and globs. A UserError if one of them is not there."""
    return [Path(item.path) for pattern in patterns for item in list_inputs(pattern, {".jsonl", ".json", ".txt"})]


def said(found: Sequence[Contamination]) -> str:
    """The first text that was found, in a line."""
    return f"{found[0].task}, text {found[0].item}: {found[0].words[:120]}"


def signal_columns(compat: Compat = "none", bad_words: Sequence[str] = (), further: Sequence[str] = (),
                   learned: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """The names of what is measured; NaN where one makes no sense for the document's class."""
    found = measure_batch(["", ""], code=[False, True], compat=compat, bad_words=bad_words,
                          further=[further_signal(name) for name in further])
    return [*found, *(value for plain in learned for value in learned_values(plain))]


@functools.lru_cache(maxsize=1)
def _further(wanted: str) -> list[Signal]:
    """The signals of [names, learned] in JSON: models are opened once a process."""
    further, learned = json.loads(wanted)
    return [*(further_signal(name) for name in further), *(open_learned(plain) for plain in learned)]


def sampled_ngrams(words: Words) -> list[np.ndarray]:
    """The sampled set of each document's long n-grams: sorted uint64."""
    values, edges = grams(words, LEAKAGE_NGRAM)
    chosen = np.flatnonzero(values % np.uint64(LEAKAGE_SAMPLED) == 0)
    cuts = np.searchsorted(chosen, edges)
    return [distinct(values[chosen[a:b]]) for a, b in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)]


class Rows(contextlib.AbstractContextManager["Rows"]):
    """A Parquet file that grows by batches and gets its name when it is whole."""

    def __init__(self, path: Path | str, schema: pa.Schema) -> None:
        self.path, self.schema = Path(path), schema
        # A worker whose parent was killed may still be at the same unit.
        self.part = Path(f"{path}.{os.getpid()}.part")
        self.pending: list[dict[str, Any]] = []

    def __enter__(self) -> Rows:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.writer = pq.ParquetWriter(self.part, self.schema, **PARQUET)
        return self

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows; few are gathered until they are many."""
        self.pending += rows
        if len(self.pending) >= BATCH_DOCUMENTS or len(rows) > 1:
            self._flush()

    def write_table(self, table: pa.Table) -> None:
        """Add a table of this schema as a row group."""
        with disk_errors(self.part):
            self.writer.write_table(table.cast(self.schema))

    def _flush(self) -> None:
        if self.pending:
            self.write_table(pa.Table.from_pylist(self.pending, schema=self.schema))
            self.pending = []

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self._flush()
        with disk_errors(self.part):
            self.writer.close()
            if kind is None:
                with self.part.open("rb+") as file:
                    os.fsync(file.fileno())
                self.part.replace(self.path)


class _Clock:
    """Adds the time since the last lap to a step."""

    def __init__(self, seconds: Counter[str]) -> None:
        self.seconds, self.last = seconds, time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] += now - self.last  # type: ignore[assignment]
        self.last = now
