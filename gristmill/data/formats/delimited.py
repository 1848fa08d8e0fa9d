"""CSV and TSV as a stream of rows: quoted fields may hold newlines, one bad row does not spoil the next."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from typing import IO, Any, cast

from gristmill.data.formats.json_records import Broken, too_long
from gristmill.data.formats.text import sample_encoding
from gristmill.data.inputs import LONGEST_LINE, lines

_SAMPLE = 1 << 16
LONGEST_FIELD = LONGEST_LINE
"""Characters of one field; a quote that never closes would otherwise take in the rest of the file."""


def rows(stream: IO[bytes], *, delimiter: str, quotes: bool, header: bool) -> Iterator[tuple[int, Any]]:
    """(number of the row from 0, {column: value} or Broken). Without a header line the columns are called 1, 2, ...

    Raises Unreadable if it is no text at all.
    """
    sample = stream.read(_SAMPLE)
    encoding = sample_encoding(sample, whole=len(sample) < _SAMPLE)
    again = io.BufferedReader(cast(Any, _After(sample, stream)))
    if encoding.startswith(("utf-16", "utf-32")):  # their newlines are not the byte \n
        again, encoding = io.BufferedReader(cast(Any, _Utf8(again, encoding))), "utf-8"
    source = _Lines(again, encoding)
    csv.field_size_limit(LONGEST_FIELD)  # of the whole process: Python's own limit of 128 KiB is less than a text
    reader = csv.reader(source, delimiter=delimiter, strict=False, doublequote=True,
                        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)
    names: list[str] | None = None
    number = 0
    while True:
        try:
            fields = next(reader)
            problem = source.problem
        except StopIteration:
            return
        except csv.Error as error:
            fields, problem = [], Broken("broken_record", f"row {number}: {error}")
        source.problem = None
        if problem is not None:
            where = f"row {number}"
            yield number, Broken(problem.reason, problem.detail.replace("this line", where), problem.text)
        elif not fields:
            continue
        elif header and names is None:
            names = fields
            continue
        elif names is not None and len(fields) > len(names):
            detail = f"row {number} has {len(fields)} fields, the header names {len(names)}"
            yield number, Broken("broken_record", detail, delimiter.join(fields)[:2000])
        else:
            yield number, dict(zip(names or map(str, range(1, len(fields) + 1)), fields, strict=False))
        number += 1


class _Lines:
    """Lines as text for csv.reader; one that is too long or undecodable leaves a problem behind instead."""

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        self.lines, self.encoding = lines(stream), encoding
        self.problem: Broken | None = None

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        offset, line = next(self.lines)
        if line is None:
            self.problem = too_long("this line")
            return "\n"
        try:
            return line.decode("utf-8-sig" if offset == 0 and self.encoding == "utf-8" else self.encoding) + "\n"
        except UnicodeDecodeError as error:
            detail = f"this line is not {self.encoding}: {error.reason} at byte {offset + error.start}"
            self.problem = Broken("unreadable_bytes", detail, line[:2000].decode("utf-8", "backslashreplace"))
            return "\n"


class _After(io.RawIOBase):
    """Bytes that were read already, and then the rest."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self.head, self.rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.head[: len(buffer)] if self.head else self.rest.read(len(buffer))
        self.head = self.head[len(data):] if self.head else b""
        buffer[: len(data)] = data
        return len(data)


class _Utf8(io.RawIOBase):
    """A stream of another encoding as UTF-8; undecodable bytes become U+FFFD."""

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        self.stream = stream
        self.decoder = codecs.getincrementaldecoder(encoding)("replace")
        self.ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            data = self.stream.read(1 << 16)
            self.ready = self.decoder.decode(data, final=not data).encode("utf-8", "replace")
            if not data:
                break
        data, self.ready = self.ready[: len(buffer)], self.ready[len(buffer):]
        buffer[: len(data)] = data
        return len(data)



