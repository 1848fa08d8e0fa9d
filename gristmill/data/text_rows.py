"""Texts as rows, from tables, text files or a corpus: what classifiers and n-gram models are trained on."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from typing import Any

from gristmill.core.artifact import Artifact
from gristmill.core.errors import UserError
from gristmill.data.documents import iterate_documents
from gristmill.data.inputs import Input, list_inputs, open_input

SUFFIXES = (".csv", ".jsonl", ".md", ".ndjson", ".parquet", ".tsv", ".txt")
LONGEST = 64 << 20
"""Bytes of the longest text file that is one text."""


def text_rows(path: str, column: str, counts: Counter[str], *, corpus: Artifact | None = None,
              split: str = "train") -> Iterator[dict[str, Any]]:
    """The rows under `path` (files by `SUFFIXES`), or the documents of a corpus, each with its text in `column`.

    A document of a corpus has the columns id, text, source, domain, language and those of its metadata; a text file has
    `column` and name. counts: rows of tables without text, and text files that are too long, are added to `unreadable`.
    Raises UserError if there is nothing, or no text in the column.
    """
    if corpus is not None:
        for document in iterate_documents(corpus.path, split):
            about = document["metadata"]
            yield {**about, **{name: document[name] for name in ("id", "text", "source", "domain", "language")}}
        return
    found = False
    for item in list_inputs(path, SUFFIXES):
        for row in _rows(item, column, counts):
            found = True
            yield row
    if not found:
        raise UserError(f"not one row has text in the column {column!r}", where=path, fix="name another `column`")


def _rows(item: Input, column: str, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    from gristmill.data.steps import read_rows

    if item.suffix in (".txt", ".md"):
        with open_input(item) as stream:
            text = stream.read(LONGEST + 1)
        if len(text) > LONGEST:
            counts["unreadable"] += 1
        else:
            yield {column: text.decode("utf-8-sig", "replace").replace("\r\n", "\n"), "name": item.name}
    elif item.suffix in (".csv", ".tsv"):
        yield from _table(item)
    else:
        read = Counter[str]()
        for batch in read_rows(item.path, column, read):
            yield from batch
        counts["unreadable"] += read["unreadable"]


def _table(item: Input) -> Iterator[dict[str, Any]]:
    with open_input(item) as stream:
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
        csv.field_size_limit(LONGEST)  # of the whole process: Python's own limit of 128 KiB is less than a text
        quotes = item.suffix == ".csv"
        reader = csv.DictReader(lines, delimiter="," if quotes else "\t",
                                quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)
        try:
            yield from reader
        except csv.Error as error:
            raise UserError(f"this table is broken ({error})", where=item.path, fix="write it as .jsonl") from error


def passages(text: str, size: int) -> list[str]:
    """A text cut into stretches of about `size` characters, at a line's end, else at a word's; a short rest is left
    out unless it is all there is."""
    found, start = [], 0
    while len(text) - start > size:
        end = start + size
        for mark in ("\n", " "):
            place = text.rfind(mark, start + size // 2, end)
            if place > 0:
                end = place + 1
                break
        found.append(text[start:end])
        start = end
    if len(text) - start > size // 2 or not found:
        found.append(text[start:])
    return [piece for piece in found if piece.strip()]

