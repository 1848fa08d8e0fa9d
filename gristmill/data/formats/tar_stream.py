"""Tar archives as a stream of entries (POSIX, GNU long names, pax), in memory of one header.

Not `tarfile`: its pax headers are read whole whatever their size, and searched in quadratic time (CVE-2024-6232).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal

from gristmill.data.formats.damaged import Damaged

LEAST_UNPACKED, MOST_RATIO = 1 << 30, 200
"""An archive is read up to 1 GiB, or 200 times its stored size if that is more: text shrinks to a fifth, tables to a
fiftieth, bombs to a thousandth."""
_LONGEST_NAME = 64 << 10
_BLOCK = 512
_PIECE = 1 << 20
_SUM = re.compile(rb"[0-7]{1,7}")
Kind = Literal["file", "folder", "link", "sparse", "other"]
_KINDS: dict[bytes, Kind] = {b"0": "file", b"\0": "file", b"7": "file", b"1": "link", b"2": "link", b"5": "folder",
                             b"S": "sparse"}
_EMPTY = b"123456"
"""Kinds of entries that no content follows, whatever their size says."""


@dataclass(frozen=True, slots=True)
class TarEntry:
    """offset: of its first header in the unpacked archive. name: its path as it stands there."""

    offset: int
    name: str
    size: int
    kind: Kind


class Tar:
    """The entries of a tar in order, read forward; the content of one is there until the next is asked for.

    stored: bytes of the archive as it is stored, for its limit. seekable: what is not wanted need not be read.
    ended: was the mark at its end met? Iterating and copying raise Damaged.
    """

    def __init__(self, stream: IO[bytes], stored: int, *, seekable: bool = False) -> None:
        self.stream, self.seekable, self.at = stream, seekable, 0
        self.most = max(LEAST_UNPACKED, MOST_RATIO * stored)
        self.left = self.padding = 0
        self.ended = False

    def __iter__(self) -> Iterator[TarEntry]:
        name, size, sparse, begin, count = "", -1, False, 0, 0
        while True:
            header = self._read(_BLOCK)
            if not header.strip(b"\0"):
                if not header and not count:
                    raise Damaged("empty_archive", "it holds no byte")
                self.ended = bool(header)
                return
            self.left, kind = _parsed(header, count)
            self.padding = -self.left % _BLOCK
            if kind in b"LKxg":
                data = self.data(_LONGEST_NAME)
                if data is not None and kind == b"L":
                    name = _decoded(data.rstrip(b"\0"))
                elif data is not None and kind == b"x":
                    fields = _pax(data)
                    name = _decoded(fields[b"path"]) if b"path" in fields else name
                    stated = fields.get(b"size", b"")
                    size = int(stated) if stated.isdigit() and len(stated) < 20 else -1
                    sparse = any(key.startswith(b"GNU.sparse") for key in fields)
                self._pass_by()
                continue
            if kind in _EMPTY:
                self.left = self.padding = 0
            elif size >= 0:
                self.left, self.padding = size, -size % _BLOCK
            count += 1
            yield TarEntry(begin, name or _short_name(header), self.left,
                           "sparse" if sparse else _KINDS.get(kind, "other"))
            self._pass_by()
            name, size, sparse, begin = "", -1, False, self.at

    def copy(self, target: IO[bytes]) -> None:
        """Write the content of the entry to a file."""
        while self.left:
            data = self._read(min(self.left, _PIECE))
            if not data:
                raise self._truncated()
            self.left -= len(data)
            target.write(data)

    def data(self, limit: int) -> bytes | None:
        """The content of the entry; None if it is larger than `limit`."""
        if self.left > limit:
            return None
        data = self._read(self.left)
        self.left -= len(data)
        if self.left:
            raise self._truncated()
        return data

    def _truncated(self) -> Damaged:
        return Damaged("truncated_archive", f"it ends at byte {self.at} inside a member, {self.left} bytes before that "
                       "one's end")

    def _read(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer at the end."""
        data = self.stream.read(size)
        self.at += len(data)
        if self.at > self.most and not self.seekable:
            raise Damaged("archive_bomb", f"it unpacks to more than {self.most >> 20} MiB: unpack it yourself if you "
                          "trust it")
        return data

    def _pass_by(self) -> None:
        """Go to the end of the entry."""
        if self.seekable and self.left + self.padding > 1:
            self.at = self.stream.seek(self.at + self.left + self.padding - 1)
            self.left, self.padding = 1, 0
        self.left += self.padding
        while self.left:
            data = self._read(min(self.left, _PIECE))
            if not data:
                raise self._truncated()
            self.left -= len(data)


def is_tar(data: bytes) -> bool:
    """Does this begin as a tar does? An old one has no mark, but a sum of its header."""
    header = data[:_BLOCK]
    stated = header[148:156].strip(b"\0 ")
    return len(header) == _BLOCK and bool(_SUM.fullmatch(stated)) and int(stated, 8) == _sum(header)


def _parsed(header: bytes, count: int) -> tuple[int, bytes]:
    """(size, kind) of an entry; Damaged if the header's sum is wrong."""
    if len(header) < _BLOCK:
        raise Damaged("truncated_archive", f"it ends inside the header after member {count}")
    try:
        said = int(header[148:156].strip(b"\0 ") or b"0", 8)
        if header[124] & 0x80:
            size = int.from_bytes(header[125:136], "big")
        else:
            size = int(header[124:136].strip(b"\0 ") or b"0", 8)
    except ValueError:
        said, size = -1, 0
    if said != _sum(header) or not 0 <= size < 1 << 62:
        raise Damaged("damaged_archive", f"no tar header after member {count}")
    return size, header[156:157]


def _sum(header: bytes) -> int:
    return sum(header) - sum(header[148:156]) + 8 * 32


def _short_name(header: bytes) -> str:
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    plain = header[:100].split(b"\0")[0]
    return _decoded(prefix + b"/" + plain if prefix else plain)


def _pax(data: bytes) -> dict[bytes, bytes]:
    """The records `length key=value` of a pax header."""
    fields, at = {}, 0
    while at < len(data):
        length, space, _ = data[at: at + 20].partition(b" ")
        if not space or not length.isdigit() or int(length) <= len(length) + 1:
            break
        key, _, value = data[at + len(length) + 1: at + int(length)].removesuffix(b"\n").partition(b"=")
        fields[key] = value
        at += int(length)
    return fields


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
