"""Whole small files, one at a time in memory: an input itself, or the members of the zip or tar archive that it is.

For books and papers, which are read whole. Nothing is ever unpacked to disk, so a member's path (absolute, with `..`, a
link) leads nowhere; it is only a name. Every size is bounded: of a member, of what a compressed archive may grow to, of
a zip's table of contents.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from gristmill.data.inputs import DAMAGE, Input, open_input

LARGEST_MEMBER = 64 << 20
"""Bytes of a file inside an archive, or of a whole file, that is read at once; books and papers are far below."""
LARGEST_RATIO, RATIO_FLOOR = 200, 256 << 20
"""An archive that has grown to 256 MiB and to 200 times its stored size is a bomb (text shrinks 3 to 20 times)."""
LARGEST_DIRECTORY = 64 << 20
"""Bytes of a zip's table of contents: about half a million members, which are all in memory while it is read."""
_LONGEST_NAME = 64 << 10
_SHORT = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz"}
_BLOCK = 512


class Damaged(Exception):
    """This cannot be read further: `reason` and `detail` as of a Reject."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside an input. index: its place in the archive, None where the input is the file itself.

    name: its path, with a number where an earlier member has the same. data is None where there is a problem with it
    (`reason`, `detail` as of a Reject).
    """

    index: int | None
    name: str
    data: bytes | None
    reason: str = ""
    detail: str = ""

    @property
    def ending(self) -> str:
        """What comes after the input's name in the ids of documents."""
        return "" if self.index is None else f"/{self.name}"


def members(item: Input, wanted: Callable[[str], bool], limit: int | None = None, *, start: int = 0,
            stop: int | None = None) -> Iterator[Member]:
    """The files of an input in order: itself, or those of the zip or tar whose name is `wanted` and whose place lies in
    [start, stop). A problem comes as a Member without data; what follows a damaged place in an archive is lost."""
    limit = LARGEST_MEMBER if limit is None else limit
    try:
        if item.name.lower().endswith(".zip"):
            with open_input(item, raw=True) as stream:
                yield from zip_members(stream, item.size, wanted, limit, start, stop)
        elif item.suffix == ".tar" or item.suffix in _SHORT:
            with _tar_stream(item) as stream:
                yield from tar_members(Bounded(stream, item.size), wanted, limit, start, stop)
        elif start == 0:
            with open_input(item) as stream:
                data = stream.read(limit + 1)
            yield Member(None, item.name, data) if len(data) <= limit else _too_large(None, item.name, limit)
    except Damaged as problem:
        yield Member(None, item.name, None, problem.reason, problem.detail)
    except DAMAGE as error:
        yield Member(None, item.name, None, "unreadable_file", f"{type(error).__name__}: {error}")


def _tar_stream(item: Input) -> IO[bytes]:
    """The tar's own bytes, also behind the short endings (.tgz)."""
    ending = PurePosixPath(item.name.lower()).suffix
    return open_input(Input(item.path, f"x{_SHORT[ending]}", item.size) if ending in _SHORT else item)


class Bounded:
    """A stream that is read forward only and refuses to grow like a bomb.

    Raises Damaged with the reason `archive_bomb`.
    """

    def __init__(self, stream: IO[bytes], stored: int) -> None:
        self.stream, self.read_bytes = stream, 0
        self.most = max(RATIO_FLOOR, LARGEST_RATIO * stored)

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer at the end."""
        data = self.stream.read(size)
        self.read_bytes += len(data)
        if self.read_bytes > self.most:
            raise Damaged("archive_bomb", f"it grows to more than {LARGEST_RATIO} times its size")
        return data

    def skip(self, size: int) -> None:
        """Pass by `size` bytes."""
        while size > 0:
            data = self.read(min(size, 1 << 20))
            if not data:
                raise Damaged("truncated_archive", f"it ends inside a member, {size} bytes before that one's end")
            size -= len(data)


def tar_members(stream: Bounded, wanted: Callable[[str], bool], limit: int = LARGEST_MEMBER, start: int = 0,
                stop: int | None = None) -> Iterator[Member]:
    """The regular files of a tar stream (POSIX, GNU long names, pax paths); links and devices are left out.

    Not `tarfile`: its pax headers are read whole whatever their size, and searched in quadratic time (CVE-2024-6232).
    """
    index, long_name, long_size, names = -1, "", -1, _Names()
    while True:
        header = stream.read(_BLOCK)
        if not header.strip(b"\0"):
            if not header and index < 0:
                raise Damaged("empty_archive", "it holds no members")
            return
        size, kind = _tar_header(header, index)
        if kind in b"LKxg":
            data = _tar_data(stream, size, _LONGEST_NAME)
            if data is not None and kind == b"L":
                long_name = _clean(data.rstrip(b"\0"))
            elif data is not None and kind == b"x":
                fields = _pax(data)
                long_name = _clean(fields[b"path"]) if b"path" in fields else long_name
                stated = fields.get(b"size", b"")
                long_size = int(stated) if stated.isdigit() and len(stated) < 20 else -1
            continue
        index += 1
        name = names.unique(long_name or _short_name(header))
        size = long_size if long_size >= 0 else size
        long_name, long_size = "", -1
        if kind not in b"0\0007" or not wanted(name) or index < start or (stop is not None and index >= stop):
            stream.skip(0 if kind in b"123456" else size + -size % _BLOCK)
            continue
        data = _tar_data(stream, size, limit)
        yield Member(index, name, data) if data is not None else _too_large(index, name, limit)


def _tar_header(header: bytes, index: int) -> tuple[int, bytes]:
    """(size, kind) of a member; Damaged if the header's sum is wrong."""
    if len(header) < _BLOCK:
        raise Damaged("truncated_archive", f"it ends inside the header after member {index}")
    try:
        said = int(header[148:156].strip(b"\0 ") or b"0", 8)
        if header[124] & 0x80:
            size = int.from_bytes(header[125:136], "big")
        else:
            size = int(header[124:136].strip(b"\0 ") or b"0", 8)
    except ValueError:
        said, size = -1, 0
    if said != sum(header) - sum(header[148:156]) + 8 * 32 or size < 0:
        raise Damaged("damaged_archive", f"no tar header after member {index}")
    return size, header[156:157]


def _short_name(header: bytes) -> str:
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    plain = header[:100].split(b"\0")[0]
    return _clean(prefix + b"/" + plain if prefix else plain)


def _tar_data(stream: Bounded, size: int, limit: int) -> bytes | None:
    """The content of a member, its padding passed by; None if it is larger than `limit`."""
    if size > limit:
        stream.skip(size + -size % _BLOCK)
        return None
    data = stream.read(size)
    if len(data) < size:
        raise Damaged("truncated_archive", f"it ends inside a member, {size - len(data)} bytes before that one's end")
    stream.read(-size % _BLOCK)
    return data


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


def zip_members(stream: IO[bytes], size: int, wanted: Callable[[str], bool], limit: int = LARGEST_MEMBER,
                start: int = 0, stop: int | None = None) -> Iterator[Member]:
    """The files of a zip archive; encrypted ones and rare compressions come as problems."""
    budget, names = max(RATIO_FLOOR, LARGEST_RATIO * size), _Names()
    with open_zip(stream, size) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        for index, entry in enumerate(entries[:stop]):
            name = names.unique(_printable(entry.filename))
            if index < start or not wanted(name):
                continue
            try:
                if budget <= 0:
                    raise Damaged("archive_bomb", f"it grows to more than {LARGEST_RATIO} times its size")
                data = zip_data(archive, entry, limit)
            except Damaged as problem:
                yield Member(index, name, None, problem.reason, problem.detail)
                continue
            budget -= len(data)
            yield Member(index, name, data)


def open_zip(stream: IO[bytes], size: int) -> zipfile.ZipFile:
    """A zip archive whose table of contents is not too large; raises Damaged."""
    try:
        if _directory_size(stream, size) > LARGEST_DIRECTORY:
            raise Damaged("archive_bomb", f"its table of contents is larger than {LARGEST_DIRECTORY >> 20} MiB")
        return zipfile.ZipFile(stream)
    except (*DAMAGE, zipfile.BadZipFile, ValueError, NotImplementedError, IndexError, OverflowError) as error:
        raise Damaged("damaged_archive", f"{type(error).__name__}: {error}") from error


def _directory_size(stream: IO[bytes], size: int) -> int:
    """Bytes that a zip says its table of contents has."""
    stream.seek(max(0, size - (1 << 16) - 22))
    tail = stream.read((1 << 16) + 22)
    stream.seek(0)
    at = tail.rfind(b"PK\5\6")
    said = int.from_bytes(tail[at + 12: at + 16], "little") if at >= 0 else 0
    locator = tail.rfind(b"PK\6\7", 0, at) if at >= 0 else -1
    if locator >= 0:  # beyond 4 GiB: a second, larger record
        stream.seek(int.from_bytes(tail[locator + 8: locator + 16], "little") % max(size, 1))
        record = stream.read(56)
        stream.seek(0)
        said = max(said, int.from_bytes(record[40:48], "little")) if record[:4] == b"PK\6\6" else said
    return said if said != 0xFFFFFFFF else 0


def zip_data(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    """The content of a member, whatever size its header claims; raises Damaged."""
    name = _printable(entry.filename)
    if entry.flag_bits & 1:
        raise Damaged("encrypted", f"{name} is locked by a password")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # the others of zipfile decompress a block whole, whatever it grows to
        raise Damaged("unknown_compression", f"{name}: method {entry.compress_type}; pack it as deflate")
    held = io.BytesIO()
    try:
        with archive.open(entry) as file:
            while block := file.read(1 << 16):
                held.write(block)
                if held.tell() > limit:
                    raise Damaged("too_large", f"{name}: more than {limit} bytes are not read")
    except (*DAMAGE, zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, RuntimeError) as error:
        raise Damaged("damaged_member", f"{name}: {error}") from error
    return held.getvalue()


class _Names:
    """Makes the second member of a name `name~2`, and so on: ids are unique."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def unique(self, name: str) -> str:
        times = self.seen[name] = self.seen.get(name, 0) + 1
        path, dot, ending = name.rpartition(".")
        if times == 1:
            return name
        return self.unique(f"{path}~{times}{dot}{ending}" if dot else f"{name}~{times}")


def _too_large(index: int | None, name: str, limit: int) -> Member:
    return Member(index, name, None, "too_large", f"more than {limit >> 20} MiB in one file; cut it into several")


def _clean(data: bytes) -> str:
    return _printable(data.decode("utf-8", "backslashreplace"))


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
