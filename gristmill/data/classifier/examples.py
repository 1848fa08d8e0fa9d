"""Labelled texts: from files with a label in each row, or files and corpora whose every text has the same label."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gristmill.core.config import CorpusRef, config, require
from gristmill.core.seeds import fraction
from gristmill.data.dedup.exact import content_hash
from gristmill.data.inputs import Input, fingerprint, list_inputs
from gristmill.data.text_rows import SUFFIXES, passages, text_rows


@config
class Examples:
    """Texts to learn from, and where their labels are."""

    path: str = ""
    """A .jsonl, .parquet, .csv or .tsv file (the latter two with a header line), .txt or .md files (each is one text),
    also .gz, .zst, .bz2 or .xz; or a folder or glob of them."""
    corpus: CorpusRef | None = None
    """A corpus, in place of `path`."""
    split: Literal["train", "valid", "test"] = "train"
    """Which split of the corpus."""
    column: str = "text"
    """The column that holds the text."""
    label: str = ""
    """The label of all of these texts, e.g. good or crawl."""
    label_column: str = ""
    """Or the column with each text's own label; where there may be several, a list, or one string with | between."""
    group_column: str = ""
    """A column that says what belongs together (a source document, an author): never learned from in part and measured
    on in part."""
    passage: int = 0
    """Cut texts into passages of about so many characters, at ends of lines or words; those of a text stay together.
    0 leaves texts whole."""
    limit: int | None = None
    """At most so many texts (or passages), chosen by hash. null takes all."""

    def __post_init__(self) -> None:
        require(bool(self.path) != bool(self.corpus), "path", "give either `path` or `corpus`")
        require(bool(self.label) != bool(self.label_column), "label", "give either `label` or `label_column`")
        require(not (self.corpus and self.label_column), "label_column", "documents of a corpus have no such column")
        require(self.passage == 0 or self.passage >= 100, "passage", "must be 0, or at least 100 characters")
        require(self.limit is None or self.limit > 0, "limit", "must be above 0, or null")

    def fingerprint(self) -> Any:
        """The contents behind `path`, for a stage's identity."""
        return {item.name: fingerprint(item) for item in self.inputs()} if self.path else None

    def inputs(self) -> list[Input]:
        """The files; a UserError if there are none."""
        return list_inputs(self.path, SUFFIXES)


@dataclass(frozen=True)
class Example:
    """One text with its labels, and the name of what it must stay with."""

    text: str
    labels: tuple[str, ...]
    group: str


def read_examples(source: Examples, folders: Mapping[str, Any], seed: int, counts: Counter[str]) -> Iterator[Example]:
    """The labelled texts of one source, in order (with `limit` in order of their hashes).

    folders: reference -> artifact, for `corpus`. counts: `unreadable` and `unlabelled` rows are added up here.
    """
    every = _passages(source, _labelled(source, folders, counts))
    if source.limit is None:
        yield from every
        return
    keyed = ((fraction(seed, "limit", one.group, one.text), number, one) for number, one in enumerate(every))
    yield from (one for _, _, one in heapq.nsmallest(source.limit, keyed))


def _labelled(source: Examples, folders: Mapping[str, Any], counts: Counter[str]) -> Iterator[Example]:
    for row in text_rows(source.path, source.column, counts, corpus=folders.get(source.corpus or ""),
                         split=source.split):
        text = row.get(source.column)
        if not isinstance(text, str) or not text.strip():
            counts["unreadable"] += 1
            continue
        labels = (source.label,) if source.label else _labels(row.get(source.label_column))
        if labels is None:
            counts["unlabelled"] += 1
            continue
        group = row.get(source.group_column) if source.group_column else None
        yield Example(text, labels, f"{source.group_column}={group}" if group not in (None, "") else
                      content_hash(text).hex())


def _labels(value: Any) -> tuple[str, ...] | None:
    """The labels that a cell says; None if it says nothing."""
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return ("true" if value else "false",)
    if isinstance(value, (list, tuple)):
        return tuple(sorted({str(one) for one in value if one not in (None, "")}))
    return tuple(sorted({part.strip() for part in str(value).split("|") if part.strip()}))


def _passages(source: Examples, every: Iterator[Example]) -> Iterator[Example]:
    for one in every:
        if not source.passage:
            yield one
        else:
            yield from (Example(piece, one.labels, one.group) for piece in passages(one.text, source.passage))
