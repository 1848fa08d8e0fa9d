"""The methods on the rows of a JSONL or Parquet file, to another such file: for whoever has no recipe.

The rows become a corpus of training documents in a temporary folder, so that it is the same work as the stage's.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gristmill.core.progress import Progress, Silent
from gristmill.core.stage import Runtime
from gristmill.data.augment.gates import Gates
from gristmill.data.augment.making import Found, Making, Open, Setting
from gristmill.data.augment.method import MADE
from gristmill.data.dedup.exact import content_hash
from gristmill.data.documents import Document, row, write_shard
from gristmill.data.signals.language import language_v1
from gristmill.data.steps import Row, RowWriter, read_rows

SHARD = 4096
"""Rows that are worked on as one unit; so many and what is made of them are in memory while they are written."""


def augment(source: str, target: Path, methods: Sequence[Any], *, open_model: Open, answers: Path, column: str = "text",
            seed: int = 0, gates: Gates | None = None, only_made: bool = False, rejects: Path | None = None,
            runtime: Runtime | None = None, progress: Progress | None = None,
            advance: Callable[[int], None] = lambda rows: None) -> dict[str, Any]:
    """The rows of `source`, each followed by what was made of it; gives counts.

    A made row has its original's columns but for the text, the `id` (the original's with `#method-copy`; rows without
    one get the hash of their text) and the column `augmented`, which says how it was made (null in the other rows).
    Rows with such a value are not taken; a row's language is its column `language`, or else detected. answers: folder
    for the answers of models. only_made: leave out the rows themselves. rejects: a file for what was made and does not
    stay, with `reason` and `detail`.
    """
    counts, by_reason, by_method = Counter[str](), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory(dir=target.parent if target.parent.is_dir() else None) as folder:
        corpus = Path(folder)
        (gates or Gates()).fingerprint()
        for method in methods:
            if method.kind == "synonyms":
                method.source.fingerprint()  # what is missing is told before anything is read
        seen = Counter[str]()
        for number, rows in enumerate(_shards(source, column, counts)):
            write_shard(corpus / "documents" / f"train-{number:05d}.parquet",
                        [_document(i, one, column, seen) for i, one in enumerate(rows)])
        found = Making(methods, gates or Gates(), Setting(
            corpus, corpus / "scratch", answers, seed, open_model, runtime or Runtime(), progress or Silent())).run()
        seen.clear()
        with contextlib.ExitStack() as stack:
            kept = stack.enter_context(RowWriter(target))
            gone = stack.enter_context(RowWriter(rejects)) if rejects else None
            for rows, made in zip(_shards(source, column, Counter()), _made(found), strict=True):
                good: list[Row] = []
                bad: list[Row] = []
                for number, original in enumerate(rows):
                    original = {**original, "id": _name(original, column, seen), MADE: original.get(MADE)}
                    if not only_made:
                        good.append(original)
                    for one in made.get(number, []):
                        new = {**original, column: one["text"], "id": one["id"],
                               MADE: json.loads(one["metadata"])[MADE]}
                        if one["reason"]:
                            by_reason[one["reason"]] += 1
                            bad.append({**new, "reason": one["reason"], "detail": one["detail"]})
                        else:
                            by_method[one["method"]] += 1
                            good.append(new)
                kept.write(_flat(good, target))
                if gone is not None and rejects is not None:
                    gone.write(_flat(bad, rejects))
                advance(len(rows))
    requests = sum(asked.requests for asked in found.asked.values())
    return {**counts, "made": sum(by_method.values()), **{f"made by {name}": n for name, n in by_method.items()},
            **({"requests": requests} if found.asked else {}), "rejected": sum(by_reason.values()),
            "reasons": dict(by_reason.most_common())}


def _flat(rows: list[Row], target: Path) -> list[Row]:
    """In Parquet the column `augmented` is JSON text: its fields differ from method to method."""
    if target.suffix != ".parquet":
        return rows
    return [{**one, MADE: one[MADE] if isinstance(one[MADE], str) else json.dumps(one[MADE], sort_keys=True)
             if one[MADE] else ""} for one in rows]


def _shards(source: str, column: str, counts: Counter[str]) -> Iterator[list[Row]]:
    shard: list[Row] = []
    for rows in read_rows(source, column, counts):
        shard += rows
        while len(shard) >= SHARD:
            yield shard[:SHARD]
            shard = shard[SHARD:]
    if shard:
        yield shard


def _name(one: Row, column: str, seen: Counter[str]) -> str:
    """A row's id, or the hash of its text; from the second row with the same on, a number makes it another."""
    name = str(one["id"]) if one.get("id") not in (None, "") else content_hash(one[column]).hex()
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}.{seen[name]}"


def _document(number: int, one: Row, column: str, seen: Counter[str]) -> dict[str, str]:
    """A row as a document whose source is its number in the shard."""
    language = one.get("language")
    return row(Document(_name(one, column, seen), one[column], str(number),
                        language=str(language) if language else language_v1(one[column]),
                        metadata={MADE: {}} if one.get(MADE) else {}), split="train")


def _made(found: Found) -> Iterator[dict[int, list[dict[str, Any]]]]:
    """For each shard: number of a row -> what was made of it."""
    groups: dict[Path, dict[int, list[dict[str, Any]]]] = {}
    last: Path | None = None
    for shard, table in found.tables():
        if last is not None and shard != last:
            yield groups.pop(last)
        last = shard
        rows = groups.setdefault(shard, {})
        for one in table.drop_columns(["content", "ngrams"]).to_pylist():
            rows.setdefault(int(one["source"]), []).append(one)
    if last is not None:
        yield groups.pop(last)
