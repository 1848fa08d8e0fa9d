"""Where unpacking can begin inside a compressed file, as far as the file itself says so without being unpacked.

xz: its index (.xz file format 1.1.0, section 4) lists the blocks that `xz -T` writes. zstd: the seek table
of the seekable format, or frames one after another whose headers state their sizes (RFC 8878, 3.1.1). gzip: the members
of `bgzip`, which state theirs (SAM specification, section 4.1). Everything else is one piece.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

_FRAME, _TABLE = b"\x28\xb5\x2f\xfd", b"\xb1\xea\x92\x8f"
_MOST_INDEX = 64 << 20
"""Bytes of an index or seek table that are read: about ten million blocks."""
_PADDING = 1 << 16


@dataclass(frozen=True, slots=True)
class AccessPoint:
    """stored, unpacked: the same place in the file and in what it unpacks to. prefix: bytes that a decoder needs before
    those from there on. end: stored place up to which it may be given them, if what follows needs the beginning."""

    stored: int
    unpacked: int
    prefix: bytes = b""
    end: int | None = None


def access_points(stored: IO[bytes], suffix: str) -> Iterator[AccessPoint]:
    """The places in order, without the beginning; none where the file does not say. The stream is left anywhere."""
    if not stored.seekable():
        return iter(())
    if suffix == ".xz":
        return iter(_xz(stored))
    if suffix == ".zst":
        return _seek_table(stored) if _table_size(stored) else _frames(stored) if _is_local(stored) else iter(())
    return _bgzip(stored) if suffix == ".gz" and _is_local(stored) else iter(())


def _is_local(stored: IO[bytes]) -> bool:
    """Is going from header to header cheap here?"""
    return isinstance(getattr(stored, "raw", None), io.FileIO)


def _at(stored: IO[bytes], offset: int, size: int) -> bytes:
    stored.seek(offset)
    return stored.read(size)


def _xz(stored: IO[bytes]) -> list[AccessPoint]:
    """The blocks of a file of one stream; the streams of a file of several."""
    end = stored.seek(0, io.SEEK_END)
    tail = _at(stored, max(0, end - _PADDING), _PADDING)
    end -= len(tail) - len(tail.rstrip(b"\0"))
    found: list[tuple[int, list[tuple[int, int]]]] = []
    while end > 0:
        end += -end % 4  # the footer's last bytes are no zeros: what was cut off is padding of four
        stream = _xz_stream(stored, end)
        if stream is None or len(found) > 1 << 20:
            return []
        found.append(stream)
        end = stream[0]
    points, unpacked = [], 0
    for start, blocks in reversed(found):
        if start:
            points.append(AccessPoint(start, unpacked))
        if len(found) == 1:
            header, at, end = _at(stored, 0, 12), 12, 12 + sum(packed for packed, _ in blocks)
            for packed, size in blocks:
                points.append(AccessPoint(at, unpacked, header, end))
                at += packed
                unpacked += size
            return points[1:]
        unpacked += sum(size for _, size in blocks)
    return points


def _xz_stream(stored: IO[bytes], end: int) -> tuple[int, list[tuple[int, int]]] | None:
    """(start, [(stored size, unpacked size) of each block]) of the stream that ends at `end`."""
    footer = _at(stored, max(0, end - 12), 12)
    if len(footer) < 12 or footer[10:] != b"YZ" or zlib.crc32(footer[4:10]) != int.from_bytes(footer[:4], "little"):
        return None
    size = 4 * (int.from_bytes(footer[4:8], "little") + 1)
    if size > min(_MOST_INDEX, end - 24):
        return None
    index = _at(stored, end - 12 - size, size)
    if index[:1] != b"\0" or zlib.crc32(index[:-4]) != int.from_bytes(index[-4:], "little"):
        return None
    count, at = _number(index, 1)
    blocks = []
    for _ in range(count):
        unpadded, at = _number(index, at)
        unpacked, at = _number(index, at)
        blocks.append((unpadded + -unpadded % 4, unpacked))
    start = end - 24 - size - sum(packed for packed, _ in blocks)
    return (start, blocks) if start >= 0 and _at(stored, start, 6) == b"\xfd7zXZ\0" else None


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and what comes after it. The checksum was right, so it is whole."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def _table_size(stored: IO[bytes]) -> int:
    """Bytes of the seek table at the end of a zstd file; 0 if there is none."""
    end = stored.seek(0, io.SEEK_END)
    footer = _at(stored, max(0, end - 9), 9)
    if len(footer) < 9 or footer[5:] != _TABLE:
        return 0
    size = 8 + int.from_bytes(footer[:4], "little") * (12 if footer[4] & 0x80 else 8) + 9
    if size > min(end, _MOST_INDEX):
        return 0
    head = _at(stored, end - size, 8)
    return size if head == b"\x5e\x2a\x4d\x18" + (size - 8).to_bytes(4, "little") else 0


def _seek_table(stored: IO[bytes]) -> Iterator[AccessPoint]:
    size = _table_size(stored)
    stored.seek(-size, io.SEEK_END)
    table = stored.read(size)
    step = 12 if table[-5] & 0x80 else 8
    packed = unpacked = 0
    for at in range(8, size - 9 - step, step):
        more = struct.unpack_from("<II", table, at)
        packed, unpacked = packed + more[0], unpacked + more[1]
        yield AccessPoint(packed, unpacked)


def _frames(stored: IO[bytes]) -> Iterator[AccessPoint]:
    """zstd frames after the first, as long as their headers state what they unpack to."""
    offset = unpacked = 0
    while True:
        head = _at(stored, offset, 18)
        if len(head) >= 8 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:  # to be skipped
            offset += 8 + int.from_bytes(head[4:8], "little")
            continue
        if len(head) < 6 or head[:4] != _FRAME:
            return
        if unpacked:
            yield AccessPoint(offset, unpacked)
        descriptor = head[4]
        single, flag = descriptor >> 5 & 1, descriptor >> 6
        at = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
        width = (single, 2, 4, 8)[flag]
        if not width or len(head) < at + width:
            return
        unpacked += int.from_bytes(head[at: at + width], "little") + (256 if flag == 1 else 0)
        offset += at + width
        last = False
        while not last:
            block = _at(stored, offset, 3)
            if len(block) < 3:
                return
            value = int.from_bytes(block, "little")
            last, kind, length = bool(value & 1), value >> 1 & 3, value >> 3
            offset += 3 + (1 if kind == 1 else length)
        offset += 4 * (descriptor >> 2 & 1)


def _bgzip(stored: IO[bytes]) -> Iterator[AccessPoint]:
    """The members of a file of `bgzip` after the first: each has its stored size in its header, the other at its
    end."""
    offset = unpacked = 0
    while True:
        head = _at(stored, offset, 18)
        if len(head) < 18 or head[:4] != b"\x1f\x8b\x08\x04" or head[10:16] != b"\x06\0BC\x02\0":
            return
        if unpacked:
            yield AccessPoint(offset, unpacked)
        offset += int.from_bytes(head[16:18], "little") + 1
        size = _at(stored, offset - 4, 4)
        if len(size) < 4:
            return
        unpacked += int.from_bytes(size, "little")
