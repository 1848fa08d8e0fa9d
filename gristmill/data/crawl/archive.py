"""WARC 1.1 files (ISO 28500:2017) that are added to record by record, each a gzip member of its own.

A file that is being added to is called `pages-00007.warc.gz.part`; it gets its name when it is full or the crawl ends.
`Position`s are given out by `append`; whoever keeps them durably (the state of the crawl) says after a crash where the
file ended for him, and what was written after that is cut off.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gristmill.core.errors import UserError
from gristmill.core.files import disk_errors, flush

PROFILES = {"not_modified": "http://netpreserve.org/warc/1.1/revisit/server-not-modified",
            "same_payload": "http://netpreserve.org/warc/1.1/revisit/identical-payload-digest"}


@dataclass(frozen=True, slots=True)
class Position:
    """Where a record lies: number of the file, byte at which its gzip member begins, bytes of the member."""

    part: int
    offset: int
    length: int


def file_name(part: int) -> str:
    """What the file of this number is called when it is complete."""
    return f"pages-{part:05d}.warc.gz"


def warc_date(seconds: float) -> str:
    """`2026-11-21T17:35:02Z` for seconds of the epoch."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def payload_digest(payload: bytes) -> str:
    """`sha1:` and base32, the form that every tool knows; for finding equal bytes, not for security."""
    return "sha1:" + base64.b32encode(hashlib.sha1(payload, usedforsecurity=False).digest()).decode()


def record_id(*parts: str) -> str:
    """An id that is a function of what the record is about, so that nothing is left to chance."""
    digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", "replace")).digest()
    return f"<urn:uuid:{uuid.UUID(bytes=digest[:16], version=5)}>"


def record(kind: str, fields: Sequence[tuple[str, str]], block: bytes) -> bytes:
    """One record as a gzip member. fields: all but type, length and the digest of the block."""
    digest = base64.b32encode(hashlib.sha1(block, usedforsecurity=False).digest()).decode()
    lines = [f"WARC-Type: {kind}", *(f"{name}: {_one_line(value)}" for name, value in fields if value),
             f"WARC-Block-Digest: sha1:{digest}", f"Content-Length: {len(block)}"]
    head = "WARC/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n"
    return gzip.compress(head.encode() + block + b"\r\n\r\n", 6, mtime=0)


def _one_line(value: str) -> str:
    return value.replace("\r", " ").replace("\n", " ")


class Archive:
    """The files of one crawl. ends: number of a file -> where it ended when that was last made durable, and whether it
    was complete; files are brought to that state first.
    """

    def __init__(self, folder: Path, about: Sequence[tuple[str, str]], ends: dict[int, tuple[int, bool]],
                 most: int) -> None:
        self.folder, self.about, self.most = folder, about, most
        self.part, self.end = max(ends, default=0), 0
        self._file: int | None = None
        self._full: list[int] = []
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            known = {file_name(part) for part in ends}
            for path in sorted(folder.glob("pages-*.warc.gz*")):
                if path.name.removesuffix(".part") in known:
                    continue
                if path.suffix != ".part":
                    raise UserError("this file is in the way of a new crawl", where=str(path), fix="name a new folder")
                path.unlink()  # begun, and nothing of it was kept
            for part, (end, complete) in ends.items():
                self._recover(part, end, complete)

    def _recover(self, part: int, end: int, complete: bool) -> None:
        final = self.folder / file_name(part)
        open_ = final.with_name(final.name + ".part")
        path = open_ if open_.exists() else final
        size = path.stat().st_size if path.exists() else -1
        if size < end:
            raise UserError(f"this file of the crawl has {max(size, 0):,} of its {end:,} bytes", where=str(final),
                            fix="put it back as it was, or crawl into a new folder")
        os.truncate(path, end)
        if complete and path is open_:
            open_.rename(final)
        elif part == self.part:
            self.part, self.end = (part, end) if path is open_ else (part + 1, 0)

    def append(self, records: Sequence[bytes], date: str) -> list[Position]:
        """Add members; the first of a file is what describes the crawl. They are safe after `flush`."""
        with disk_errors(self.folder):
            if self.end and self.end >= self.most:
                self._next()
            if self._file is None:
                path = self.folder / (file_name(self.part) + ".part")
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
                flush(self.folder)
            members = list(records)
            if not self.end:
                members.insert(0, self._info(date))
            found, at = [], self.end
            for member in members:
                found.append(Position(self.part, at, len(member)))
                at += len(member)
            data = b"".join(members)
            os.ftruncate(self._file, self.end)  # what an append that failed half-way may have left
            written = 0
            while written < len(data):
                written += os.pwrite(self._file, data[written: written + (1 << 24)], self.end + written)
            self.end = at
        return found[-len(records):]

    def flush(self) -> None:
        """Wait until everything is on the disk."""
        if self._file is not None:
            with disk_errors(self.folder):
                os.fdatasync(self._file)

    def _next(self) -> None:
        self.flush()
        self.leave()
        self._full.append(self.part)
        self.part, self.end = self.part + 1, 0

    def publish(self) -> None:
        """Give the files that are full their names; only when it is durable where they end."""
        with disk_errors(self.folder):
            for part in self._full:
                final = self.folder / file_name(part)
                final.with_name(final.name + ".part").rename(final)
            if self._full:
                flush(self.folder)
        self._full = []

    def close(self) -> None:
        """The open file is as full as it will be."""
        if self.end:
            self._next()
        self.publish()

    def remove(self) -> None:
        """Take away what was written, for a crawl that came to nothing."""
        self.leave()
        for part in range(self.part + 1):
            for ending in ("", ".part"):
                (self.folder / (file_name(part) + ending)).unlink(missing_ok=True)

    def leave(self) -> None:
        """Let go of the open file as it is."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _info(self, date: str) -> bytes:
        name = file_name(self.part)
        block = "".join(f"{key}: {_one_line(value)}\r\n" for key, value in self.about)
        fields = [("WARC-Record-ID", record_id("warcinfo", name, date)), ("WARC-Date", date), ("WARC-Filename", name),
                  ("Content-Type", "application/warc-fields")]
        return record("warcinfo", fields, block.encode())


def read_member(path: Path, offset: int, length: int, longest: int) -> tuple[bytes, bytes]:
    """(the member as it is stored, the block of its record). Raises OSError, ValueError or zlib.error for damage, and
    ValueError for a record of more than `longest` bytes."""
    with path.open("rb") as file:
        file.seek(offset)
        member = file.read(length)
    decoder = zlib.decompressobj(31)
    data = decoder.decompress(member, longest + (1 << 20))
    if not decoder.eof or decoder.unused_data:
        raise ValueError("no whole record lies there")
    head, _, block = data.partition(b"\r\n\r\n")
    if not head.startswith(b"WARC/1.") or len(block) < 4:
        raise ValueError("no record lies there")
    return member, block[:-4]
