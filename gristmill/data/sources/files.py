"""The user's own files: text, Markdown, HTML, JSON lines, Parquet and source code."""

from __future__ import annotations

import glob
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, cast

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.data.documents import Document, Reject
from gristmill.data.sources.text import Unreadable, decode, whole_characters

TEXT = {".txt", ".text", ".md", ".markdown", ".rst"}
HTML = {".html", ".htm", ".xhtml"}
CODE = {".py": "python", ".c": "c", ".h": "c", ".cpp": "cpp", ".java": "java", ".js": "javascript", ".rs": "rust",
        ".go": "go", ".sh": "shell"}
JSONL = {".jsonl", ".ndjson"}
PARQUET = {".parquet"}
KNOWN = TEXT | HTML | set(CODE) | JSONL | PARQUET
PROVENANCE = ("id", "domain", "language", "metadata", "pair")
"""Columns of a JSON-lines or Parquet record that are taken over when they are there. `pair` is the same in records that
are translations of each other; they stay in one split."""


@config
class Files:
    """Files under a path or glob; one document a file, or one a record in .jsonl and .parquet."""

    kind: Literal["files"] = "files"
    path: str
    """A file, a folder (read whole, sorted), or a glob such as `texts/**/*.md`; `~` is the home folder."""
    name: str = ""
    """How the source is called in ids and reports; the kind, if empty."""
    column: str = "text"
    """The field of .jsonl and .parquet records that holds the text."""
    license: str = "unknown"
    """What the data card says about the right to use these files."""
    language: str = ""
    """ISO 639-1 code, if all the files are in one known language; otherwise it is detected."""
    domain: str = ""
    """A label for these documents; the folder they lie in, if empty."""
    piece_kb: int = 0
    """Cut longer texts into pieces of about this size at blank lines, 0 never: a corpus that is one long file can
    only be split into train and test in pieces."""

    def __post_init__(self) -> None:
        require(bool(self.path.strip()), "path", "give a file, a folder or a glob")
        require(bool(self.column), "column", "must name a field")
        require(self.piece_kb >= 0, "piece_kb", "must be 0 or more")

    def files(self) -> list[Path]:
        """Every file that will be read, sorted; raises UserError if there is none."""
        path = Path(self.path).expanduser()
        if path.is_dir():
            found = [p for p in path.rglob("*") if suffix(p) in KNOWN and p.is_file() and not _hidden(p, path)]
            problem, fix = "no readable file in this folder", f"put files there ({', '.join(sorted(KNOWN))}; also .gz)"
        elif path.is_file():
            found, problem, fix = [path], "", ""
        elif glob.has_magic(self.path):
            matches = glob.glob(str(path), recursive=True)
            found = [p for p in map(Path, matches) if p.is_file()]
            problem, fix = "no file matches this pattern", "check the pattern; `**/` means any depth of folders"
        else:
            found, problem = [], "this path does not exist"
            fix = "check `path` of the source; a relative one starts at the folder that you run in"
        if not found:
            raise UserError(problem, where=self.path, fix=fix)
        return sorted(found, key=lambda p: p.as_posix())

    def read(self, files: list[Path], source: str) -> Iterator[Document | Reject]:
        """Stream documents with their provenance; what cannot be read comes out as a Reject."""
        base = common_folder(files)
        for path in files:
            name = os.fsencode(path.relative_to(base).as_posix()).decode("utf-8", "backslashreplace")
            document = Document(
                f"{source}/{name}", "", source, domain=self.domain or (Path(name).parts[0] if "/" in name else source),
                language=self.language or "und", metadata={"path": name, "license": self.license},
            )
            yield from self._pieces(self._read_file(path, document))

    def _read_file(self, path: Path, document: Document) -> Iterator[Document | Reject]:
        kind = suffix(path)
        if kind in PARQUET:
            yield from self._parquet(path, document)
            return
        try:
            if kind in JSONL:
                yield from self._jsonl(path, document)
            else:
                with _open(path) as file:
                    data = file.read()
                yield _whole(data, document, kind)
        except (OSError, EOFError, zlib.error) as error:
            yield Reject(document, "unreadable_file", str(error))

    def _jsonl(self, path: Path, file_document: Document) -> Iterator[Document | Reject]:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):  # bytes split on \n alone, so U+2028 stays inside a record
                if not line.strip():
                    continue
                document = _child(file_document, f"#{number}", line=number)
                try:
                    record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except (ValueError, RecursionError) as error:
                    document.text = line[:2000].decode("utf-8", "backslashreplace")
                    yield Reject(document, "broken_record", f"line {number}: {error}")
                    continue
                yield self._record(record, document, f"line {number}")

    def _parquet(self, path: Path, file_document: Document) -> Iterator[Document | Reject]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        number = 0
        try:
            with pq.ParquetFile(path) as file:
                names = file.schema_arrow.names
                if self.column not in names:
                    raise UserError(f"there is no column {self.column!r}", where=str(path),
                                    fix=f"set `column:` to one of {', '.join(names)}")
                wanted = [name for name in names if name == self.column or name in PROVENANCE]
                for batch in file.iter_batches(batch_size=512, columns=wanted):
                    for record in batch.to_pylist():
                        number += 1
                        yield self._record(record, _child(file_document, f"#{number}", row=number), f"row {number}")
        except (pa.ArrowException, OSError) as error:
            detail = f"after {number} rows: {str(error).splitlines()[0]}"
            yield Reject(file_document, "unreadable_parquet", detail)

    def _record(self, record: Any, document: Document, where: str) -> Document | Reject:
        """One record of a .jsonl or .parquet file."""
        if not isinstance(record, dict):
            return Reject(document, "broken_record", f"{where}: a {type(record).__name__}, not an object")
        text = record.get(self.column)
        if not isinstance(text, str):
            held = "missing" if self.column not in record else f"a {type(text).__name__}, not text"
            return Reject(document, "no_text", f"{where}: field {self.column!r} is {held}")
        document.text = whole_characters(text)
        for name in ("domain", "language"):
            if isinstance(record.get(name), str) and record[name] and not getattr(self, name):
                setattr(document, name, whole_characters(record[name]).lower())
        if "id" in record:
            document.metadata["record_id"] = whole_characters(str(record["id"]))
        if record.get("pair") not in (None, ""):
            document.metadata["pair"] = document.metadata["group"] = whole_characters(str(record["pair"]))
        return document

    def _pieces(self, documents: Iterator[Document | Reject]) -> Iterator[Document | Reject]:
        for item in documents:
            if isinstance(item, Reject) or not self.piece_kb or len(item.text) <= self.piece_kb * 1024:
                yield item
                continue
            for number, text in enumerate(pieces(item.text, self.piece_kb * 1024), start=1):
                piece = _child(item, f"~{number:05d}", piece=number)
                piece.text = text
                yield piece


def suffix(path: Path) -> str:
    """The extension that says what a file is; `.gz` around it is looked through."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def common_folder(files: list[Path]) -> Path:
    """The deepest folder that holds all the files: ids are relative to it, so they do not depend on the machine."""
    return Path(os.path.commonpath([file.parent for file in files]))


def pieces(text: str, size: int) -> Iterator[str]:
    """Cut text into parts of at most about `size` characters, at blank lines where there are any, else at newlines."""
    start = 0
    while len(text) - start > size:
        cut = text.rfind("\n\n", start + size // 2, start + size)
        if cut < 0:
            cut = text.rfind("\n", start + size // 2, start + size)
        cut = cut + 1 if cut >= 0 else start + size
        yield text[start:cut]
        start = cut
    if start < len(text):
        yield text[start:]


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _open(path: Path) -> IO[bytes]:
    if path.name.lower().endswith(".gz"):
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb")


def _child(document: Document, ending: str, **metadata: Any) -> Document:
    return Document(document.id + ending, "", document.source, document.domain, document.language,
                    {**document.metadata, **metadata})


def _whole(data: bytes, document: Document, kind: str) -> Document | Reject:
    """A file that is one document."""
    try:
        text, encoding = decode(data, html=kind in HTML)
    except Unreadable as problem:
        document.text = data[:2000].decode("utf-8", "backslashreplace")
        return Reject(document, "unreadable_bytes", str(problem))
    if encoding != "utf-8":
        document.metadata["encoding"] = encoding
    if kind in HTML:
        from resiliparse.extract.html2text import extract_plain_text

        try:
            text = extract_plain_text(text, main_content=True, alt_texts=False)
        except Exception as error:  # the parser's own error types are not stable between its versions
            document.text = text[:2000]
            return Reject(document, "unreadable_html", str(error))
    if kind in CODE:
        document.language = CODE[kind]
    document.text = text
    return document
