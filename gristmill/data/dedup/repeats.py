"""Text that is said again and again: lines of a source and long stretches of words are cut out of the documents.

Three passes over the documents that stay, each by the executor, with files between them: the keys of lines, the keys
of windows of words in what is left, and the edited texts. Programs are left alone: that `import numpy as np` is
repeated is no fault. Memory: one batch of texts in a worker; here what grouping takes, and the repeated windows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.core.config import config, require
from gristmill.data.dedup.lines import LEAST_WORDS, frequent_keys, line_keys, remove_lines
from gristmill.data.dedup.substrings import LEAST, Windows, cut_words, repeated_spans, window_keys
from gristmill.data.documents import read_table, write_shard
from gristmill.data.normalise import is_code

EXAMPLES, EXAMPLE_CHARACTERS = 5, 300
"""How many of the lines that went most often, and of the stretches, are shown of a source, and how much of each."""
EDITED = pa.schema([
    pa.field("row", pa.int64()), pa.field("text", pa.string()), pa.field("bytes", pa.int64()),
    pa.field("lines", pa.int64()), pa.field("words", pa.int64()),
])
"""A document that was edited: its row in its file, what is left of it, the lines and the words that went."""
Run = Callable[[str, list[dict[str, Any]]], list[Any]]
"""Runs a job ("module:function") on tasks and gives the results in their order."""


@config
class RepeatedLines:
    """Lines or paragraphs that many documents of one source share: menus, notices, signatures."""

    more_than: int = 10
    """A line goes from every document if more than so many documents of its source have it."""
    unit: Literal["line", "paragraph"] = "line"
    """What is counted and removed."""
    words: int = LEAST_WORDS
    """Shorter ones are left alone."""

    def __post_init__(self) -> None:
        require(self.more_than >= 1, "more_than", "must be at least 1")
        require(self.words >= 1, "words", "must be at least 1")


@config
class RepeatedStretches:
    """Stretches of words that occur again, in any document; the first occurrence stays (Lee et al. 2022)."""

    words: int = LEAST
    """Words of the shortest stretch that goes."""
    within: bool = True
    """Do repetitions inside one document go as well?"""

    def __post_init__(self) -> None:
        require(self.words >= 10, "words", "must be at least 10: shorter stretches are common speech")


@dataclass(frozen=True)
class Edited:
    """The edited documents of a file (`EDITED`), and some of what went.

    lines: source -> line -> how many documents lost it. stretches: source -> {where it went, what went}.
    """

    path: Path
    lines: dict[str, dict[str, int]]
    stretches: dict[str, list[dict[str, str]]]

    def counts(self) -> pa.Table:
        """The columns row, bytes, lines, words."""
        return read_table(self.path, ["row", "bytes", "lines", "words"])


def edit_repeats(
    files: Sequence[Path], stays: np.ndarray, order: np.ndarray, folder: Path, run: Run, *,
    lines: RepeatedLines | None, substrings: RepeatedStretches | None,
) -> list[Edited]:
    """Cut what is repeated out of the documents that stay; gives what was edited in each file.

    files: documents in Parquet with the columns id, text, source, language. stays: (documents,) bool over all files.
    order: numbers of the documents that stay, the best first. folder: for the files between the passes. run: how jobs
    are run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = np.concatenate(([0], np.cumsum([pq.read_metadata(path).num_rows for path in files]))).astype(np.int64)
    tasks: list[dict[str, Any]] = []
    for number, path in enumerate(files):
        target = folder / f"{number:05d}"
        np.save(f"{target}.stays.npy", stays[starts[number]:starts[number + 1]])
        tasks.append({"documents": str(path), "target": str(target)})
    frequent = ""
    if lines:
        run(f"{__name__}:lines_job", [{**task, "options": asdict(lines)} for task in tasks])
        keys = [np.load(f"{task['target']}.lines.npy", mmap_mode="r") for task in tasks]
        frequent = str(folder / "frequent.npy")
        np.save(frequent, frequent_keys(keys, lines.more_than))
    about = {"frequent": frequent, "lines": asdict(lines) if lines else None}
    if substrings:
        run(f"{__name__}:windows_job", [{**task, **about, "k": substrings.words} for task in tasks])
        parts = [Windows(*(np.load(f"{task['target']}.{name}.npy", mmap_mode="r") for name in ("windows", "offsets")))
                 for task in tasks]
        spans = repeated_spans(parts, order, substrings.words, within=substrings.within)
        cuts = np.searchsorted(spans[:, 0], starts)
        for number, task in enumerate(tasks):
            here = spans[cuts[number]:cuts[number + 1]]
            np.save(f"{task['target']}.spans.npy", here - [starts[number], 0, 0])
    found = run(f"{__name__}:edit_job", [{**task, **about, "spans": substrings is not None} for task in tasks])
    return [Edited(Path(f"{task['target']}.edited.parquet"), **examples)
            for task, examples in zip(tasks, found, strict=True)]


def examples(edited: Sequence[Edited]) -> dict[str, Any]:
    """source -> {lines: [[line, documents]], stretches: [{id, text}]}: the lines that went most often, the longest
    stretches."""
    lines: dict[str, Counter[str]] = {}
    stretches: dict[str, list[dict[str, str]]] = {}
    for one in edited:
        for source, counts in one.lines.items():
            lines.setdefault(source, Counter()).update(counts)
        for source, listed in one.stretches.items():
            stretches[source] = _longest(stretches.get(source, []) + listed)
    return {source: {"lines": sorted(lines.get(source, {}).items(), key=lambda item: (-item[1], item[0]))[:EXAMPLES],
                     "stretches": stretches.get(source, [])}
            for source in sorted({*lines, *stretches})}


def _longest(stretches: list[dict[str, str]]) -> list[dict[str, str]]:
    different = {one["text"]: one for one in reversed(stretches)}.values()
    return sorted(different, key=lambda one: (-len(one["text"]), one["id"]))[:EXAMPLES]


def lines_job(*, documents: str, target: str, options: dict[str, Any]) -> None:
    """`<target>.lines.npy`: the keys of the lines of the documents that stay."""
    np.save(f"{target}.lines.npy", np.concatenate([np.empty(0, np.uint64), *(
        line_keys(rows["text"], rows["source"], unit=options["unit"], least=options["words"])
        for _, rows in _prose(documents, target))]))


def windows_job(*, documents: str, target: str, frequent: str, lines: dict[str, Any] | None, k: int) -> None:
    """`<target>.windows.npy`, `<target>.offsets.npy`: the windows of all documents; none of those that go."""
    counts = np.zeros(pq.read_metadata(documents).num_rows, np.int64)
    keys, take = [np.empty(0, np.uint64)], _line_cutter(frequent, lines)
    for numbers, rows in _prose(documents, target):
        found = window_keys([take(text, source)[0] for text, source in zip(rows["text"], rows["source"], strict=True)],
                            k)
        keys.append(found.keys)
        counts[numbers] = np.diff(found.offsets)
    np.save(f"{target}.windows.npy", np.concatenate(keys))
    np.save(f"{target}.offsets.npy", np.concatenate(([0], np.cumsum(counts))))


def edit_job(*, documents: str, target: str, frequent: str, lines: dict[str, Any] | None,
             spans: bool) -> dict[str, Any]:
    """`<target>.edited.parquet`: what is left of the documents that held something repeated; gives examples."""
    take = _line_cutter(frequent, lines)
    stretches = np.load(f"{target}.spans.npy") if spans else np.empty((0, 3), np.int64)
    first, last = (np.searchsorted(stretches[:, 0], np.arange(pq.read_metadata(documents).num_rows), side)
                   for side in ("left", "right"))
    tables = [EDITED.empty_table()]
    often: dict[str, Counter[str]] = {}
    longest: dict[str, list[dict[str, str]]] = {}
    for numbers, rows in _prose(documents, target):
        found: dict[str, list[Any]] = {name: [] for name in EDITED.names}
        for row, id, text, source in zip(numbers.tolist(), rows["id"], rows["text"], rows["source"], strict=True):
            left, gone = take(text, source)
            mine = stretches[first[row]:last[row], 1:]
            left, cut = cut_words(left, mine)
            if gone or cut:
                values = (row, left, len(left.encode()), len(gone), int((mine[:, 1] - mine[:, 0]).sum()))
                for name, value in zip(EDITED.names, values, strict=True):
                    found[name].append(value)
            if gone:
                often.setdefault(source, Counter()).update({line[:EXAMPLE_CHARACTERS] for line in gone})
            if cut:
                longest[source] = _longest(longest.get(source, []) + [
                    {"id": id, "text": stretch[:EXAMPLE_CHARACTERS]} for stretch in cut])
        tables.append(pa.table(found, schema=EDITED))
    write_shard(Path(f"{target}.edited.parquet"), pa.concat_tables(tables), EDITED)
    return {"lines": {source: dict(counts) for source, counts in often.items()}, "stretches": longest}


def _prose(documents: str, target: str) -> Iterator[tuple[np.ndarray, dict[str, list[Any]]]]:
    """(rows, columns) of the documents that stay and are no programs, a batch at a time."""
    stays, start = np.load(f"{target}.stays.npy"), 0
    with pq.ParquetFile(documents) as file:
        for batch in file.iter_batches(batch_size=256, columns=["id", "text", "source", "language"]):
            prose = np.array([not is_code(language) for language in batch["language"].to_pylist()], bool)
            chosen = np.flatnonzero(stays[start:start + len(batch)] & prose)
            if len(chosen):
                yield chosen + start, batch.take(pa.array(chosen)).to_pydict()
            start += len(batch)


def _line_cutter(frequent: str, lines: dict[str, Any] | None) -> Callable[[str, str], tuple[str, list[str]]]:
    if lines is None:
        return lambda text, source: (text, [])
    keys = np.load(frequent)
    return lambda text, source: remove_lines(text, source, keys, unit=lines["unit"], least=lines["words"])
