"""The rows of a Posts.xml of the StackExchange dump, found from any byte on, and answers kept on disk by question.

A row is one element whose content is in its attributes, where `<` cannot stand: so a row ends before the next `<`, and
a broken one costs itself only.
"""

from __future__ import annotations

import re
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gristmill.core.errors import MachineError
from gristmill.data.formats.xml_characters import without_forbidden

QUESTION, ANSWER = "1", "2"
_CHUNK = 1 << 18
_ROW = b"<row"
_NAME = re.compile(r"\s*(?:([A-Za-z_][\w.:-]*+)\s*=\s*(?:\"([^\"]*+)\"|'([^']*+)')|(/?>)|$)")
_SHAPE = re.compile(rb'<row(?:\s+[\w:.-]++="[^"<]*+")*+\s*/?>')
_NUMBER = re.compile(rb'\s(Id|PostTypeId|ParentId|Score)="(-?\d+)"')
_REFERENCE = re.compile(r"&#(?:[xX]([0-9a-fA-F]{1,8})|([0-9]{1,10}));")
_CACHE_KB = 32 << 10
"""Memory of the scratch database."""
_BATCH, _BATCH_BYTES = 512, 1 << 19

Row = dict[str, str]


class BrokenRow(Exception):
    """This is no row; the message says why."""


def attributes(raw: bytes) -> Row:
    """The attributes of `<row .../>`. Raises BrokenRow."""
    text = without_forbidden(raw.decode("utf-8", "replace"))[len(_ROW):]
    row: Row = {}
    at = 0
    while match := _NAME.match(text, at):
        if match[1] is None:
            if not match[4]:
                raise BrokenRow("it ends before `/>`")
            return row
        value = match[2] if match[2] is not None else match[3]
        row[match[1]] = _unescaped(value) if "&" in value else value
        at = match.end()
    raise BrokenRow(f"no attribute begins at its byte {at}: {text[at: at + 40]!r}")


def numbers(raw: bytes) -> Row:
    """The type, number, question and score of a row, without unpacking its text. Raises BrokenRow."""
    if not _SHAPE.fullmatch(raw):
        return attributes(raw)
    return {name.decode(): value.decode() for name, value in _NUMBER.findall(raw)}


def _unescaped(value: str) -> str:
    """XML's own entities; five calls of `replace` are ten times faster than one of `html.unescape`."""
    if "&#" in value:
        value = _REFERENCE.sub(_character, value.replace("&#xA;", "\n").replace("&#xD;", "\r"))
    value = value.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&apos;", "'")
    return value.replace("&amp;", "&")


def _character(match: re.Match[str]) -> str:
    code = int(match[1], 16) if match[1] else int(match[2])
    return "&amp;" if code == 38 else chr(code)  # `without_forbidden` left only those that can be


def rows(stream: IO[bytes], start: int, longest: int) -> Iterator[tuple[int, bytes | None]]:
    """(offset, element) of each row that begins at or after `start`, where the stream stands; None for one that is
    longer than `longest`, of which no more is held."""
    data, base, over = b"", start, False
    long_at = -1
    """Where a row began that is too long, while its rest is passed by."""
    while True:
        at = 0
        if long_at >= 0:
            at = data.find(b"<")
            if at < 0:
                at = len(data)
            if at < len(data) or over:
                yield long_at, None
                long_at = -1
        while long_at < 0 and (begin := data.find(_ROW, at)) >= 0:
            at, end = begin, data.find(b"<", begin + 1)
            if end < 0:
                if not over and len(data) - begin <= longest:
                    break
                end = len(data)
                if not over:
                    long_at, at = base + begin, end
                    break
            yield base + begin, data[begin:end].rstrip() if end - begin <= longest else None
            at = end
        else:
            at = max(at, len(data) - len(_ROW) + 1)
        if over:
            return
        base, data = base + at, data[at:]
        block = stream.read(_CHUNK)
        over = not block
        data += block


class Answers:
    """Answers on disk, found by the number of their question. Memory: a cache of 32 MiB; disk: as much as they have."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="gristmill-answers-", ignore_cleanup_errors=True)
        self.database = sqlite3.connect(Path(self.folder.name) / "answers.db", isolation_level=None)
        self.held = 0
        self.waiting: list[tuple[int, int, int, bytes]] = []
        self.asked: list[tuple[int, int]] = []
        for line in (f"PRAGMA cache_size = -{_CACHE_KB}", "PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF",
                     "PRAGMA temp_store = FILE", f"PRAGMA temp_store_directory = '{self.folder.name}'",
                     "CREATE TABLE answers (question INTEGER, number INTEGER, score INTEGER, row BLOB)",
                     "CREATE TABLE questions (number INTEGER PRIMARY KEY, offset INTEGER)", "BEGIN"):
            self._do(line)

    def add(self, question: int, number: int, score: int, row: bytes) -> None:
        """Keep an answer."""
        self.waiting.append((question, number, score, row))
        self.held += len(row)
        if len(self.waiting) >= _BATCH or self.held >= _BATCH_BYTES:
            self._write()

    def ask(self, number: int, offset: int) -> None:
        """Note a question; of two with the same number the first counts."""
        self.asked.append((number, offset))
        if len(self.asked) >= _BATCH:
            self._write()

    def sort(self) -> None:
        """All are there: make them findable."""
        self._write()
        self._do("COMMIT")
        self._do("CREATE INDEX by_question ON answers (question, score DESC, number)")

    def best(self, question: int, accepted: int, most: int) -> list[bytes]:
        """The answers to a question: the accepted one, then those of the highest score."""
        found = self.database.execute(
            "SELECT row FROM answers WHERE question = ? ORDER BY number = ? DESC, score DESC, number, rowid LIMIT ?",
            (question, accepted, most))
        return [row for (row,) in found]

    def first_place(self, question: int) -> int | None:
        """Where the question with this number begins in the file; None if there is none."""
        found = self.database.execute("SELECT offset FROM questions WHERE number = ?", (question,)).fetchone()
        return None if found is None else int(found[0])

    def close(self) -> None:
        """Remove it from the disk."""
        self.database.close()
        self.folder.cleanup()

    def _write(self) -> None:
        try:
            self.database.executemany("INSERT INTO answers VALUES (?, ?, ?, ?)", self.waiting)
            self.database.executemany("INSERT OR IGNORE INTO questions VALUES (?, ?)", self.asked)
        except sqlite3.OperationalError as error:
            raise self._full(error) from error
        self.waiting.clear()
        self.held = 0
        self.asked.clear()

    def _do(self, line: str) -> None:
        try:
            self.database.execute(line)
        except sqlite3.OperationalError as error:
            raise self._full(error) from error

    def _full(self, error: Exception) -> MachineError:
        fix = "the answers of the dump have to fit there; set TMPDIR to a folder with more space"
        return MachineError(f"answers cannot be kept on disk ({error})", where=self.folder.name, fix=fix)
