"""The user's own files: text, Markdown, HTML, source code, and tables of records; compressed and in archives too."""

from __future__ import annotations

import html
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import PurePosixPath
from typing import IO, Any, Literal, cast

import pyarrow as pa

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.data.documents import Document, Reject
from gristmill.data.formats.archives import ARCHIVES, archive_ranges, is_archive, members
from gristmill.data.formats.damaged import Damaged
from gristmill.data.formats.delimited import rows
from gristmill.data.formats.json_records import Broken, json_elements, json_lines
from gristmill.data.formats.markup import plain_markdown, plain_rst
from gristmill.data.formats.records import Mapped, check_columns
from gristmill.data.formats.tables import arrow_rows, parquet_rows
from gristmill.data.formats.text import Unreadable, decode, decode_stream
from gristmill.data.inputs import (
    DAMAGE,
    LONGEST_LINE,
    Input,
    Range,
    cut,
    cut_lines,
    list_inputs,
    open_input,
    problem_of,
)

MARKDOWN, RST = {".md", ".markdown"}, {".rst"}
TEXT = {".txt", ".text", *MARKDOWN, *RST}
HTML = {".html", ".htm", ".xhtml"}
CODE = {".py": "python", ".c": "c", ".h": "c", ".cpp": "cpp", ".java": "java", ".js": "javascript", ".rs": "rust",
        ".go": "go", ".sh": "shell"}
JSONL, JSON = {".jsonl", ".ndjson"}, {".json"}
CSV, TSV = {".csv"}, {".tsv", ".tab"}
PARQUET, ARROW = {".parquet"}, {".arrow", ".arrows", ".feather", ".ipc"}
RECORDS = JSONL | JSON | CSV | TSV | PARQUET | ARROW
KNOWN = TEXT | HTML | set(CODE) | RECORDS | ARCHIVES
LONGEST_TEXT = LONGEST_LINE
"""Bytes of a file that is one document; a longer one is cut into pieces (`piece_kb`) or left out."""
LARGEST_COPY = 4 << 30
"""Bytes of a table that is copied out of its compression, because it cannot be read from its beginning to its end."""


@config
class Files:
    """Files under a path, URL or glob; one document a file, or one a record in tables and JSON."""

    kind: Literal["files"] = "files"
    path: str
    """A file, a folder (read whole, sorted), or a glob such as `texts/**/*.md`, local (`~` is the home folder) or
    behind a URL (s3://, gs://, hf://, https://). Archives (.zip, .tar, .tar.gz ...) are read as folders are."""
    only: list[str] = field(default_factory=list)
    """Of a folder, glob or archive only the files whose name (or path in the archive) fits one of these patterns, e.g.
    ["*.html"]; all, if empty."""
    name: str = ""
    """How the source is called in ids and reports; the kind, if empty."""
    column: str = "text"
    """The field of a record that holds the text; short for `columns: {text: ...}`."""
    columns: dict[str, str] = field(default_factory=dict)
    """Where in a record the text and its provenance are: `{text: body, title: head, url: meta.link}`. A place is a
    field, a path into nested ones (`meta.lang`, `answers.0.text`) or a template of several (`{title}\\n\\n{body}`);
    keys other than text, id, language, domain, url, title, author, license, time, score, pair and group become
    metadata."""
    header: bool = True
    """CSV and TSV: the first row names the columns; without it they are called 1, 2, 3 ..."""
    delimiter: str = ""
    """CSV and TSV: the character between fields; a comma for .csv and a tab for .tsv, if empty."""
    quotes: bool | None = None
    """CSV and TSV: fields may be in double quotes and hold newlines; null means yes for .csv and no for .tsv."""
    markup: Literal["keep", "strip"] = "keep"
    """keep: Markdown and reStructuredText as written; strip: their plain text."""
    license: str = "unknown"
    """What the data card says about the right to use these files; a record's own licence stands over it."""
    find_license: bool = False
    """Pages: where `license` is unknown, take over the licence that the page states (a link to Creative Commons,
    rel="license", a sentence); it is mostly in the footer, which is no longer there when the text is read."""
    language: str = ""
    """ISO 639-1 code, if all the files are in one known language; otherwise it is detected."""
    domain: str = ""
    """A label for these documents; the folder they lie in, if empty."""
    piece_kb: int = 0
    """Cut longer texts into pieces of about this size at blank lines, 0 never: a corpus that is one long file can
    only be split into train and test in pieces."""

    def __post_init__(self) -> None:
        require(bool(self.path.strip()), "path", "give a file, a folder, a glob or a URL")
        require(bool(self.column), "column", "must name a field")
        both = self.column != "text" and "text" in self.columns
        require(not both, "column", "give `column` or `columns.text`, not both")
        require(self.piece_kb >= 0, "piece_kb", "must be 0 or more")
        require(len(self.delimiter) <= 1, "delimiter", "must be one character")
        check_columns(self.columns)

    def inputs(self) -> list[Input]:
        """Every file that will be read, sorted; raises UserError if there is none."""
        found = list_inputs(self.path, KNOWN)
        chosen = [item for item in found if is_archive(item) or self._wanted(item.name)]
        if not chosen:
            raise UserError(f"none of the {len(found)} files here fits `only`", where=self.path,
                            fix=f"the first is called {found[0].name}")
        return chosen

    def _wanted(self, name: str) -> bool:
        return not self.only or any(fnmatchcase(name, pattern) or fnmatchcase(PurePosixPath(name).name, pattern)
                                    for pattern in self.only)

    def ranges(self, item: Input, size: int) -> list[Range]:
        """Byte ranges of JSON lines (of the unpacked bytes, if they are compressed), Parquet, Arrow, zip and plain tar;
        everything else is read whole."""
        if item.suffix in JSONL:
            return cut_lines(item, size)
        if is_archive(item):
            return archive_ranges(item, size)
        return cut(item, size) if item.suffix in PARQUET | ARROW else [Range(item)]

    def read(self, part: Range, source: str) -> Iterator[Document | Reject]:
        """Stream the documents that begin in the range, with their provenance; the unreadable come out as Rejects."""
        item = part.input
        if not is_archive(item):
            yield from self._file(_Open(item, lambda: open_input(item), part.start, part.stop), source)
            return
        for member in members(item, part.start, part.stop, lambda name: _readable(name) and self._wanted(name)):
            if isinstance(member.content, Damaged):
                yield Reject(self._document(member.input, source), *member.content.said)
            else:
                yield from self._file(_Open(member.input, member.open, 0, None), source)

    def _document(self, item: Input, source: str) -> Document:
        name = item.name
        domain = self.domain or (name.partition("/")[0] if "/" in name else source)
        return Document(f"{source}/{name}", "", source, domain, self.language or "und",
                        {"path": name, "license": self.license})

    def _file(self, file: _Open, source: str) -> Iterator[Document | Reject]:
        document = self._document(file.item, source)
        try:
            if is_archive(file.item):
                yield Reject(document, "nested_archive", "an archive in an archive: unpack one of them")
            elif file.item.suffix in RECORDS:
                yield from _in_pieces(self._records(file, document), self.piece_kb)
            elif self._streams(file.item):
                yield from self._long_text(file, document)
            else:
                yield from _in_pieces(iter([self._whole(file, document)]), self.piece_kb)
        except DAMAGE as error:
            if file.start and isinstance(error, pa.ArrowInvalid):
                return  # damage to the file as a whole: its first part has said so
            reason, detail = problem_of(error)
            if file.start:
                document.id, detail = f"{document.id}@{file.start}!", f"in the part from byte {file.start:,}: {detail}"
            yield Reject(document, reason, detail)
        except Unreadable as problem:
            yield Reject(document, "unreadable_bytes", str(problem))

    def _whole(self, file: _Open, document: Document) -> Document | Reject:
        """A file that is one document."""
        kind = file.item.suffix
        with file.again() as stream:
            data = stream.read(LONGEST_TEXT + 1)
        if len(data) > LONGEST_TEXT:
            document.text = data[:2000].decode("utf-8", "backslashreplace")
            fix = "it is no page" if kind in HTML else "set `piece_kb` to read it in pieces"
            return Reject(document, "too_long", f"more than {LONGEST_TEXT >> 20} MiB in one document: {fix}")
        try:
            text, encoding = decode(data, html=kind in HTML)
        except Unreadable as problem:
            document.text = data[:2000].decode("utf-8", "backslashreplace")
            return Reject(document, "unreadable_bytes", str(problem))
        self._describe(document, kind, encoding)
        if kind in HTML:
            return _page(text, document, find_license=self.find_license)
        if self.markup == "strip" and kind in MARKDOWN | RST:
            text = plain_markdown(text) if kind in MARKDOWN else plain_rst(text)
        document.text = text
        return document

    def _long_text(self, file: _Open, document: Document) -> Iterator[Document | Reject]:
        """A long text in pieces, never held whole."""
        blocks, encoding = decode_stream(file.again)
        self._describe(document, file.item.suffix, encoding)
        parts = pieces(blocks, self.piece_kb * 1024)
        first, second = next(parts, ""), next(parts, None)
        if second is None:  # short enough to be one document
            document.text = first
            yield document
            return
        for number, text in enumerate(chain((first, second), parts), start=1):
            yield _piece(document, number, text)

    def _streams(self, item: Input) -> bool:
        """Is this a text that may be too long to be held, and that can be read in pieces?"""
        stripped = self.markup == "strip" and item.suffix in MARKDOWN | RST
        long = item.compressed or item.size > LONGEST_TEXT // 16
        return bool(self.piece_kb) and item.suffix not in HTML and not stripped and long

    def _describe(self, document: Document, kind: str, encoding: str) -> None:
        if encoding != "utf-8":
            document.metadata["encoding"] = encoding
        document.language = CODE.get(kind, document.language)

    def _records(self, file: _Open, document: Document) -> Iterator[Document | Reject]:
        mapped = Mapped({"text": self.column, **self.columns})
        kind = file.item.suffix
        position = "offset" if kind in JSONL | JSON else "row"
        for place, record in self._positions(file, mapped):
            child = Document(f"{document.id}@{place}", "", document.source, document.domain, document.language,
                             {**document.metadata, position: place})
            if isinstance(record, Broken):
                child.text = record.text
                yield Reject(child, record.reason, record.detail)
                continue
            filled = mapped.fill(child, record, f"{'byte' if position == 'offset' else 'row'} {place}")
            for name in ("language", "domain"):
                if getattr(self, name):
                    setattr(child, name, getattr(self, name))
            yield filled

    def _positions(self, file: _Open, mapped: Mapped) -> Iterator[tuple[int, Any]]:
        """(byte offset or row, record or Broken) of the records that begin in the range."""
        kind = file.item.suffix

        def choose(names: list[str]) -> list[str]:
            if missing := mapped.missing(names):
                raise UserError(f"there is no column {missing[0]!r}", where=file.item.name,
                                fix=f"set `column:` or `columns.text` to one of {', '.join(names)}")
            return mapped.top_fields(names)

        if kind in PARQUET | ARROW:
            with file.seekable() as (stream, size):
                read = parquet_rows if kind in PARQUET else arrow_rows
                yield from read(stream, size, file.start, file.stop, choose)
            return
        with file.again() as stream:
            if kind in JSONL:
                yield from json_lines(stream, file.start, file.stop)
            elif kind in JSON:
                yield from json_elements(stream)
            else:
                tabs = kind in TSV
                yield from rows(stream, delimiter=self.delimiter or ("\t" if tabs else ","), header=self.header,
                                quotes=not tabs if self.quotes is None else self.quotes)


@dataclass(frozen=True, slots=True)
class _Open:
    """A part of a file, wherever it lies; `again` opens it from its beginning, decompressed."""

    item: Input
    again: Callable[[], IO[bytes]]
    start: int
    stop: int | None

    def seekable(self) -> _Seekable:
        return _Seekable(self)


class _Seekable:
    """Context: (the file as a stream that can be sought in, its size); a compressed one is copied out first."""

    def __init__(self, file: _Open) -> None:
        self.file = file

    def __enter__(self) -> tuple[IO[bytes], int]:
        self.stream = self.file.again()
        if not self.file.item.compressed:
            return self.stream, self.file.item.size
        with self.stream as packed:
            self.stream = cast(IO[bytes], tempfile.TemporaryFile())
            try:
                _copy(packed, self.stream)
            except BaseException:
                self.stream.close()
                raise
        size = self.stream.tell()
        self.stream.seek(0)
        return self.stream, size

    def __exit__(self, *_: object) -> None:
        self.stream.close()


def _copy(packed: IO[bytes], target: IO[bytes]) -> None:
    size = 0
    while data := packed.read(1 << 20):
        size += target.write(data)
        if size > LARGEST_COPY:
            raise OSError(f"it unpacks to more than {LARGEST_COPY >> 30} GiB: unpack it yourself if you trust it")


def pieces(text: str | Iterable[str], size: int) -> Iterator[str]:
    """Cut text (whole or in blocks) into parts of at most about `size` characters, at blank lines where there are any,
    else at newlines."""
    held, start = "", 0
    for block in [text] if isinstance(text, str) else text:
        held, start = held[start:] + block, 0
        while len(held) - start > size:
            edge = held.rfind("\n\n", start + size // 2, start + size)
            if edge < 0:
                edge = held.rfind("\n", start + size // 2, start + size)
            edge = edge + 1 if edge >= 0 else start + size
            yield held[start:edge]
            start = edge
    if start < len(held):
        yield held[start:]


def _in_pieces(documents: Iterator[Document | Reject], piece_kb: int) -> Iterator[Document | Reject]:
    for item in documents:
        if isinstance(item, Reject) or not piece_kb or len(item.text) <= piece_kb * 1024:
            yield item
            continue
        for number, text in enumerate(pieces(item.text, piece_kb * 1024), start=1):
            yield _piece(item, number, text)


def _piece(document: Document, number: int, text: str) -> Document:
    return Document(f"{document.id}~{number:05d}", text, document.source, document.domain, document.language,
                    {**document.metadata, "piece": number})


def _readable(name: str) -> bool:
    """Is this member of an archive one that a folder would be read for?"""
    hidden = any(part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in name.split("/"))
    return Input("", name, 0).suffix in KNOWN and not hidden


_TITLE = re.compile(r"<title[^>]*>([^<]{1,500})</title", re.IGNORECASE)


def _page(text: str, document: Document, *, find_license: bool) -> Document:
    """The main text of an HTML page."""
    from gristmill.data.extract import main_text
    from gristmill.data.signals.licences import stated_license

    if find_license and document.metadata["license"] == "unknown":
        document.metadata["license"] = stated_license(text) or "unknown"

    if title := _TITLE.search(text, 0, 1 << 16):
        document.metadata["title"] = " ".join(html.unescape(title[1]).split())
    document.text = main_text(text)
    return document
