"""The steps of the data stage one at a time, from a JSONL or Parquet file to another: for whoever wants only one.

Rows keep all their columns and their order; a step adds columns (`annotate`) or leaves rows out (`decide`, `dedup`),
and gives the counts of what it did. Memory: a batch of rows; `dedup` also what it says itself of each document.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.core.errors import UserError
from gristmill.core.seeds import fraction
from gristmill.data.decide import Filter, decide
from gristmill.data.dedup.exact import content_hash, equal_documents, hash_columns
from gristmill.data.dedup.fingerprints import Fingerprints, fingerprints, joined
from gristmill.data.dedup.near import near_duplicates
from gristmill.data.dedup.repeats import RepeatedLines, RepeatedStretches, edit_repeats
from gristmill.data.dedup.texts import ParquetTexts
from gristmill.data.documents import PARQUET, SPLITS, read_table
from gristmill.data.executors.job import resolve
from gristmill.data.inputs import DAMAGE, LONGEST_LINE, Input, lines, list_inputs, open_input
from gristmill.data.normalise import Normalise, is_code, normalise
from gristmill.data.signals import measure_batch, remove_lines
from gristmill.data.signals.language import language_v1
from gristmill.data.split import Split, choose

COPY = pa.schema([(name, pa.string()) for name in ("id", "text", "source", "language")])
"""What deduplication copies of its rows."""
BATCH = 1024
"""Rows in memory at a time."""
Row = dict[str, Any]


def read_rows(path: str, column: str, counts: Counter[str]) -> Iterator[list[Row]]:
    """The rows of a .jsonl (also .gz, .zst, .bz2, .xz) or .parquet file, or of all such files in a folder, in batches.

    Lines that are no JSON objects and rows without text in `column` are passed by and counted as `unreadable`.
    UserError if there is nothing to read or not one row has the column.
    """
    items, seen = list_inputs(path, {".jsonl", ".ndjson", ".parquet"}), 0
    for item in items:
        reader = _parquet_rows if item.suffix == ".parquet" else _jsonl_rows
        try:
            for batch in reader(item, counts):
                good = [row for row in batch if isinstance(row.get(column), str)]
                counts["unreadable"] += len(batch) - len(good)
                counts["read"] += len(good)
                seen += len(good)
                if good:
                    yield good
        except DAMAGE as error:
            raise UserError(f"this file is damaged ({error})", where=item.path,
                            fix="a data stage takes what can be read of it; single steps want whole files") from error
    if not seen:
        raise UserError(f"not one row has text in the column {column!r}", where=path, fix="name another with --column")


def _jsonl_rows(item: Input, counts: Counter[str]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    with open_input(item) as stream:
        for _, line in lines(stream, longest=LONGEST_LINE):
            if line is None:
                counts["unreadable"] += 1
                continue
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                counts["unreadable"] += 1
                continue
            batch.append(row)
            if len(batch) >= BATCH:
                yield batch
                batch = []
    yield batch


def _parquet_rows(item: Input, counts: Counter[str]) -> Iterator[list[Row]]:
    with open_input(item) as stream, pq.ParquetFile(stream) as file:
        for batch in file.iter_batches(batch_size=BATCH):
            yield batch.to_pylist()


class RowWriter(contextlib.AbstractContextManager["RowWriter"]):
    """Rows into a .jsonl or .parquet file, which gets its name when it is whole."""

    def __init__(self, path: Path) -> None:
        if path.suffix not in (".jsonl", ".ndjson", ".parquet"):
            raise UserError(f"{path.name} is neither .jsonl nor .parquet", where=str(path), fix="choose one of the two")
        self.path, self.part = path, path.with_name(f".{path.name}.part")
        self.schema: pa.Schema | None = None

    def __enter__(self) -> RowWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file: Any = self.part.open("wb")
        return self

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows. In Parquet the first ones decide the columns; UserError for later ones that do not fit."""
        if self.path.suffix != ".parquet":
            self.file.write(b"".join(json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"
                                     for row in rows))
            return
        if not rows:
            return
        try:
            if self.schema is None:
                table = pa.Table.from_pylist(list(rows))
                self.schema = table.schema
                self.parquet = pq.ParquetWriter(self.file, self.schema, **PARQUET)
            else:
                table = pa.Table.from_pylist(list(rows), schema=self.schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise UserError(f"these rows do not fit the columns of the first ones ({error})", where=str(self.path),
                            fix="write .jsonl, whose rows need not be alike") from error
        self.parquet.write_table(table)

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self.schema is not None:
            self.parquet.close()
        elif self.path.suffix == ".parquet" and kind is None:
            pq.write_table(pa.table({}), self.file)
        self.file.close()
        if kind is None:
            self.part.replace(self.path)
        else:
            self.part.unlink(missing_ok=True)


Progress = Callable[[int], None]


def _nothing(_: int) -> None:
    """Nobody watches."""


def extract(source: str, target: Path, *, column: str = "html", markdown: bool = False,
            advance: Progress = _nothing) -> dict[str, int]:
    """HTML in `column` becomes its main content in `text`; `title`, `language` and `date` where the page says them."""
    from gristmill.data.extract import extract as content

    counts = Counter[str]()
    with RowWriter(target) as writer:
        for rows in read_rows(source, column, counts):
            made = []
            for row in rows:
                found = content(row[column], markdown=markdown)
                about = {name: value for name in ("title", "language", "date") if (value := getattr(found, name, ""))}
                made.append({**{k: v for k, v in row.items() if k != column}, **about, "text": found.text})
                counts["empty"] += not found.text.strip()
            writer.write(made)
            advance(len(rows))
    return dict(counts)


def annotate(source: str, target: Path, *, column: str = "text", rules: Filter | None = None,
             advance: Progress = _nothing) -> dict[str, int]:
    """Texts in normal form, their language where no row says it, and a column for every signal."""
    rules, counts = rules or Filter(), Counter[str]()
    with RowWriter(target) as writer:
        for rows in read_rows(source, column, counts):
            _normalised(rows, column, rules)
            for name, values in _signals(rows, column, rules).items():
                for row, value in zip(rows, values.tolist(), strict=True):
                    row[name] = None if np.isnan(value) else value
            writer.write(rows)
            advance(len(rows))
    return dict(counts)


def decide_rows(source: str, target: Path, rejects: Path | None, *, rules: Filter, column: str = "text",
                advance: Progress = _nothing) -> dict[str, Any]:
    """Rows that break no rule; the others, with `reason` and `detail`, into `rejects`. Signals that are not there as
    columns are measured."""
    counts, reasons = Counter[str](), Counter[str]()
    with RowWriter(target) as kept, _optional(rejects) as gone:
        for rows in read_rows(source, column, counts):
            _normalised(rows, column, rules)
            code = [is_code(row["language"]) for row in rows]
            needed = {rule.signal for kind in set(code) for rule in rules.for_class(code=kind)}
            if all(name in row for name in needed for row in rows):
                columns = {name: np.array([_number(row[name]) for row in rows]) for name in needed}
            else:
                columns = _signals(rows, column, rules)
            found = decide(columns, rules, languages=[row["language"] for row in rows], code=code)
            reasons.update(str(found.reason(i)) for i in np.flatnonzero(~found.kept).tolist())
            kept.write([row for row, stays in zip(rows, found.kept.tolist(), strict=True) if stays])
            gone.write([{**rows[i], "reason": found.reason(i), "detail": found.explain(i)}
                        for i in np.flatnonzero(~found.kept).tolist()])
            advance(len(rows))
    counts["kept"] = counts["read"] - sum(reasons.values())
    return {**counts, "reasons": dict(reasons.most_common())}


def dedup(source: str, target: Path, rejects: Path | None, *, column: str = "text", exact: bool = True,
          near: float | None = 0.8, lines: RepeatedLines | None = None, substrings: RepeatedStretches | None = None,
          advance: Progress = _nothing) -> dict[str, Any]:
    """The longest of every set of duplicates, the first of equally long ones. The others go into `rejects` with the
    number of the row that stays for them and how similar they are; what is repeated is then cut out of those that stay
    (rows of one `source` belong together). About 400 bytes a document, and a copy of the texts on disk."""
    counts = Counter[str]()
    with tempfile.TemporaryDirectory(dir=target.parent if target.parent.is_dir() else None) as scratch:
        texts = Path(scratch, "texts.parquet")
        hashes, sizes, prints = [np.empty((0, 2), np.uint64)], [np.empty(0, np.int64)], list[Fingerprints]()
        with pq.ParquetWriter(texts, COPY, **PARQUET) as copy:
            for rows in read_rows(source, column, counts):
                batch = [row[column] for row in rows]
                copy.write_table(pa.table({
                    "id": [str(len(hashes)) for _ in rows], "text": batch,
                    **{name: [str(row.get(name) or "") for row in rows] for name in ("source", "language")},
                }, schema=COPY))
                hashes.append(hash_columns([content_hash(text) for text in batch]))
                sizes.append(np.array([len(text.encode("utf-8", "replace")) for text in batch]))
                if near is not None:
                    prints.append(fingerprints(batch, near))
                advance(len(rows))
        size = np.concatenate(sizes)
        order = np.argsort(-size, kind="stable")
        partner, similarity = np.full(len(size), -1, np.int64), np.zeros(len(size), np.float32)
        if exact:
            partner = equal_documents(hashes, order)
            similarity[partner >= 0] = 1.0
            counts["exact"] = int((partner >= 0).sum())
        if near is not None:
            left = order[partner[order] < 0]
            found = near_duplicates([joined(prints, near)], ParquetTexts([texts]), left, near, folder=Path(scratch))
            partner[found.gone], similarity[found.gone] = found.kept_for[found.gone], found.similarity[found.gone]
            counts["near"] = len(found.gone)
        edits: dict[int, str] = {}
        if lines or substrings:
            [edited] = edit_repeats(
                [texts], partner < 0, order[partner[order] < 0], Path(scratch, "repeats"),
                lambda job, tasks: [resolve(job)(**task) for task in tasks], lines=lines, substrings=substrings)
            edits = {row["row"]: row["text"] for row in read_table(edited.path).to_pylist()}
            counts["edited"] = sum(text != "" for text in edits.values())
            counts["only_repeats"] = len(edits) - counts["edited"]
        number = 0
        with RowWriter(target) as kept, _optional(rejects) as gone:
            for rows in read_rows(source, column, Counter()):
                here = range(number, number + len(rows))
                kept.write([row if i not in edits else {**row, column: edits[i]}
                            for i, row in zip(here, rows, strict=True) if partner[i] < 0 and edits.get(i) != ""])
                gone.write([{**row, "same_as_row": int(partner[i]), "similarity": round(float(similarity[i]), 4)}
                            for i, row in zip(here, rows, strict=True) if partner[i] >= 0 or edits.get(i) == ""])
                number += len(rows)
    counts["kept"] = int((partner < 0).sum()) - counts["only_repeats"]
    return {name: count for name, count in counts.items() if count or name != "only_repeats"}


def split(source: str, folder: Path, *, column: str = "text", key: str = "", shares: Split | None = None,
          seed: int = 0, suffix: str = ".jsonl", advance: Progress = _nothing) -> dict[str, int]:
    """train, valid and test files in `folder`. A row's split depends on the seed and the value of its column `key`
    alone (its text where there is none): rows with the same value stay together."""
    shares, counts = shares or Split(), Counter[str]()
    with contextlib.ExitStack() as stack:
        writers = {name: stack.enter_context(RowWriter(folder / f"{name}{suffix}"))
                   for name in SPLITS if name == "train" or name in shares.shares()}
        for rows in read_rows(source, column, counts):
            parts: dict[str, list[Row]] = {name: [] for name in writers}
            for row in rows:
                unit = str(row[key]) if row.get(key) not in (None, "") else content_hash(row[column]).hex()
                parts[choose(unit, seed, shares.shares())].append(row)
            for name, part in parts.items():
                counts[name] += len(part)
                writers[name].write(part)
            advance(len(rows))
    return dict(counts)


def stats(source: str, *, column: str = "text", advance: Progress = _nothing) -> dict[str, Any]:
    """Documents, bytes, languages, and the quantiles of every signal over a sample of at most 20,000 documents."""
    counts, languages = Counter[str](), Counter[str]()
    sample: list[tuple[float, Row]] = []
    for rows in read_rows(source, column, counts):
        _normalised(rows, column, Filter(preset="none"))
        for row in rows:
            counts["bytes"] += len(row[column].encode("utf-8", "replace"))
            languages[row["language"]] += 1
            sample.append((fraction("stats", row[column][:200], len(row[column])), row))
        sample = sorted(sample, key=lambda item: item[0])[:20_000]
        advance(len(rows))
    columns = _signals([row for _, row in sample], column, Filter(preset="none"))
    quantiles = {}
    for name, values in columns.items():
        known = values[np.isfinite(values)]
        if len(known):
            cuts = np.quantile(known, (0.0, 0.05, 0.5, 0.95, 1.0)).tolist()
            quantiles[name] = dict(zip(("least", "p5", "median", "p95", "most"), cuts, strict=True))
    return {"documents": counts["read"], "unreadable": counts["unreadable"], "bytes": counts["bytes"],
            "languages": dict(languages.most_common()), "sampled": len(sample), "signals": quantiles}


def _optional(path: Path | None) -> Any:
    return RowWriter(path) if path else _Nowhere()


class _Nowhere(contextlib.nullcontext["_Nowhere"]):
    def __enter__(self) -> _Nowhere:
        return self

    def write(self, rows: Sequence[Row]) -> None:
        """Leave the rows out."""


def _normalised(rows: Sequence[Row], column: str, rules: Filter) -> None:
    """Texts in normal form and without the lines that the rules take; a language for every row."""
    for row in rows:
        code = is_code(str(row.get("language") or ""))
        row[column] = normalise(row[column], Normalise(), code=code)
        if filters := rules.line_filters(code=code):
            row[column] = remove_lines(row[column], filters).text
        if not row.get("language"):
            row["language"] = language_v1(row[column])


def _signals(rows: Sequence[Row], column: str, rules: Filter) -> dict[str, np.ndarray]:
    return measure_batch([row[column] for row in rows], code=[is_code(row["language"]) for row in rows],
                         compat=rules.compat, bad_words=rules.bad_words)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
