"""The compressed members of a WARC file: read one by one, bounded, and found again after damage or from the middle.

A WARC is written as one gzip member (zstd frame) a record, so that one record can be read without the others. Where a
reader that starts in the middle begins must not depend on where it starts. A member found by its signature alone can
be a false one: an archived .warc.gz lies in its record as it is, because deflate stores what it cannot shrink. But
deflate stores in blocks of at most 65,535 bytes and zstd in blocks of at most 131,072, each with a header of its own.
So a chain of whole members, each beginning where the one before ends, that is longer than that (or that ends with the
file) is real: `proven`. A sequential reader from the first byte passes through every proven boundary, and a reader
from the middle starts at one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import IO, Protocol

import pyarrow as pa

from gristmill.data.compression import DEFLATE_ERRORS, deflate
from gristmill.data.formats.damaged import Damaged

PIECE = 1 << 15
PROOF = 1 << 17
"""Bytes that a chain of members has to cover before it is believed; see above."""
BOMB_BYTES, BOMB_RATIO = 64 << 20, 200
"""A member that unpacks to more than so many bytes, and to more than so many times its size, is left: a page shrinks
5 to 10 times, deflate shrinks zeros 1,030 times, zstd more."""
MAGIC = b"WARC/"
_FIRST = 16 << 20
"""Bytes of a first record (one that describes the crawl), beyond which the file is taken to be one compressed piece."""
_GZIP = re.compile(rb"\x1f\x8b\x08[\x00-\x1f]", re.DOTALL)
_ZSTD = re.compile(rb"\x28\xb5\x2f\xfd")
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")


class Window:
    """Random access to a stream through one buffer."""

    def __init__(self, stream: IO[bytes], buffer: int = 1 << 18) -> None:
        self.stream, self.buffer, self.base, self.held = stream, buffer, 0, b""
        self.size = stream.seek(0, 2)

    def at(self, offset: int, size: int = PIECE) -> bytes:
        """Up to `size` bytes from `offset` on, at least one; none at the end of the file."""
        if not self.base <= offset < self.base + len(self.held):
            self.stream.seek(offset)
            self.base, self.held = offset, self.stream.read(self.buffer)
        start = offset - self.base
        return self.held[start: start + size]

    def exactly(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on; fewer at the end of the file."""
        data = self.at(offset, size)
        while len(data) < size and (more := self.at(offset + len(data), size - len(data))):
            data += more
        return data


class Member(Protocol):
    """A part of the file that unpacks by itself."""

    start: int
    end: int
    """The offset after it, known when it has been read to its end."""

    def read(self, size: int) -> bytes:
        """Up to `size` unpacked bytes; none at its end. Raises Damaged."""

    def skip(self, size: int) -> int:
        """Pass by up to `size` bytes without unpacking them; how many were passed by (0: it must be read)."""


class PlainMember:
    """The whole of a file that is not compressed."""

    def __init__(self, window: Window, start: int) -> None:
        self.window, self.start, self.position, self.end = window, start, start, window.size

    def read(self, size: int) -> bytes:
        data = self.window.at(self.position, size)
        self.position += len(data)
        return data

    def skip(self, size: int) -> int:
        size = max(0, min(size, self.window.size - self.position))
        self.position += size
        return size


class GzipMember:
    """One gzip member (RFC 1952); its checksum is verified at its end."""

    def __init__(self, window: Window, start: int) -> None:
        self.window, self.start, self.position, self.end = window, start, start, 0
        self.unpacked, self.left = 0, b""
        self.decoder = deflate.decompressobj(31)

    def skip(self, size: int) -> int:
        return 0

    def read(self, size: int) -> bytes:
        decoder = self.decoder
        while not decoder.eof:
            piece = self.left
            if not piece:
                piece = self.window.at(self.position)
                self.position += len(piece)
            try:
                data = decoder.decompress(piece, size)
            except DEFLATE_ERRORS as error:
                raise Damaged("damaged_record", f"near byte {self.position - len(piece)}: {error}") from error
            self.left = decoder.unconsumed_tail
            if decoder.eof:
                self.end = self.position - len(decoder.unused_data)
            self.unpacked += len(data)
            _check_bomb(self.unpacked, self.position - self.start)
            if data:
                return data
            if not piece:
                raise Damaged("truncated_record", f"the file ends inside it, at byte {self.position}")
        return b""


class ZstdMember:
    """One zstd frame (RFC 8878). Where it ends is read from the headers of its blocks, without unpacking them."""

    def __init__(self, window: Window, start: int) -> None:
        self.window, self.start, self.end, self.unpacked = window, start, 0, 0
        self.frame = _Frame(window, start)
        self.stream = pa.CompressedInputStream(pa.PythonFile(self.frame, mode="r"), "zstd")
        self.over = False

    def skip(self, size: int) -> int:
        return 0

    def read(self, size: int) -> bytes:
        if self.over:
            return b""
        try:
            data: bytes = self.stream.read(size)
            if not data:
                while self.frame.read(PIECE):  # the checksum, which needs no unpacking
                    pass
        except (pa.ArrowException, OSError) as error:
            if self.frame.problem:
                raise Damaged("truncated_record", self.frame.problem) from error
            if self.frame.dictionary:
                raise Damaged("zstd_dictionary", "it is packed with a dictionary; unpack the file with `zstd -d` first "
                              "and pack it again without one") from error
            raise Damaged("damaged_record", f"near byte {self.frame.position}: {error}") from error
        if self.frame.problem:
            raise Damaged("truncated_record", self.frame.problem)
        self.unpacked += len(data)
        if not data:
            self.over, self.end = True, self.frame.position
        _check_bomb(self.unpacked, self.frame.position - self.start)
        return data


class _Frame:
    """The bytes of one zstd frame as a file that ends with it."""

    closed = False

    def __init__(self, window: Window, start: int) -> None:
        self.window, self.position, self.problem = window, start, ""
        head = window.exactly(start, 18)
        descriptor = head[4] if len(head) > 4 else 0
        single = descriptor >> 5 & 1
        self.dictionary = descriptor & 3
        self.checksum = 4 * (descriptor >> 2 & 1)
        content = (single, 2, 4, 8)[descriptor >> 6]
        self.pending = 5 + (0 if single else 1) + (0, 1, 2, 4)[self.dictionary] + content
        self.last = False

    def read(self, size: int = PIECE) -> bytes:
        while not self.pending:
            if self.last:
                return b""
            # Given out together with its block: three bytes alone would be one call more.
            header = int.from_bytes(self.window.exactly(self.position, 3).ljust(3, b"\0"), "little")
            self.last, kind, length = bool(header & 1), header >> 1 & 3, header >> 3
            self.pending = 3 + (1 if kind == 1 else length) + (self.checksum if self.last else 0)
        data = self.window.at(self.position, min(size, self.pending))
        if not data:
            self.problem = f"the file ends inside it, at byte {self.position}"
        self.position += len(data)
        self.pending -= len(data)
        return data

    def close(self) -> None:
        pass

    def readable(self) -> bool:
        return True


def _check_bomb(unpacked: int, packed: int) -> None:
    if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * packed:
        raise Damaged("zip_bomb", f"{packed:,} bytes unpack to more than {unpacked:,}; the rest of it is passed by")


class Members:
    """The members of one file: how they are opened, and where they begin."""

    def __init__(self, window: Window) -> None:
        self.window = window
        head = window.exactly(0, 4)
        self.compressed = True
        self.open: Callable[[Window, int], Member]
        if _GZIP.match(head):
            self.open, self.signature = GzipMember, _GZIP
        elif _ZSTD.match(head) or _SKIPPABLE.match(head):
            self.open, self.signature = ZstdMember, _ZSTD
        else:
            self.open, self.signature, self.compressed = PlainMember, re.compile(re.escape(MAGIC)), False

    def begins(self, offset: int) -> int:
        """Where the member at `offset` begins: there, or behind frames that zstd tells readers to skip. Raises Damaged
        if none does."""
        while self.signature is _ZSTD and _SKIPPABLE.match(head := self.window.exactly(offset, 8)):
            offset += 8 + int.from_bytes(head[4:8], "little")
        if offset < self.window.size and not self.signature.match(self.window.exactly(offset, 5)) and self.compressed:
            raise Damaged("damaged_record", f"no record begins at byte {offset}")
        return offset

    def whole(self, offset: int) -> int:
        """The end of the member at `offset` if it can be unpacked and begins as a record does; otherwise 0."""
        try:
            member = self.open(self.window, self.begins(offset))
            data = member.read(PIECE)
            while 0 < len(data) < len(MAGIC) and (more := member.read(PIECE)):
                data += more
            if not data.startswith(MAGIC):
                return 0
            while member.read(1 << 18):
                pass
            return member.end
        except Damaged:
            return 0

    def by_record(self) -> bool:
        """Is the file compressed record by record, as far as its beginning says?"""
        try:
            member = self.open(self.window, self.begins(0))
            unpacked = 0
            while data := member.read(1 << 18):
                unpacked += len(data)
                if unpacked > _FIRST:
                    return False
            after = self.begins(member.end)
            return after < self.window.size and self.open(self.window, after).read(len(MAGIC)) == MAGIC
        except Damaged:
            return False

    def candidates(self, start: int, stop: int) -> Iterator[int]:
        """Offsets in [start, stop) where a signature stands."""
        step = 1 << 20
        for at in range(start, stop, step):
            data = self.window.exactly(at, min(step, stop - at) + 4)
            for match in self.signature.finditer(data):
                if match.start() < min(step, stop - at):
                    yield at + match.start()

    def next_whole(self, offset: int) -> int:
        """The first whole member at or after `offset`; the size of the file if there is none."""
        return next((at for at in self.candidates(offset, self.window.size) if self.whole(at)), self.window.size)

    def proven(self, offset: int, failed: set[int]) -> bool:
        """Does a real member begin here, whatever else is known? failed: offsets of which this is denied; extended."""
        chain, at = [], offset
        while at not in failed:
            chain.append(at)
            end = self.whole(at)
            if not end:
                break
            if end == self.window.size or end - offset > PROOF:
                return True
            at = end
        failed.update(chain)
        return False

    def anchor(self, offset: int) -> int:
        """A boundary at or before `offset` that a reader from the first byte passes through as well."""
        failed: set[int] = set()
        high, reach = min(offset, self.window.size), PROOF
        while high > 0:
            low = max(0, high - reach)
            for at in self.candidates(low, high):
                if self.proven(at, failed):
                    return at
            high, reach = low, 4 * reach
        return 0
