"""Zip and tar archives of files: members one after another, nothing unpacked to a path of theirs.

A member that its range reads is copied to an unnamed temporary file, so every kind of file can be read from one.
"""

from __future__ import annotations

import io
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any, cast

from gristmill.data.formats.json_records import Broken
from gristmill.data.formats.tables import in_range
from gristmill.data.inputs import DAMAGE, Input, open_input

ARCHIVES = {".zip", ".tar", ".tgz", ".tbz2", ".txz"}
_LONG = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz"}
LEAST_UNPACKED, MOST_RATIO = 1 << 30, 200
"""An archive is read up to 1 GiB, or 200 times its own size if that is more: text shrinks to a fifth, tables to a
fiftieth, bombs to a thousandth."""
IN_MEMORY = 8 << 20
"""Bytes of a member that are held in memory; a longer one goes to a temporary file."""
_HEADER = 1 << 20
"""Bytes that a tar's own headers may ask for at once."""
_DAMAGE = (*DAMAGE, zipfile.BadZipFile, tarfile.TarError, RuntimeError, NotImplementedError, ValueError,
           UnicodeError)
"""What zipfile and tarfile raise besides: encryption (RuntimeError), unknown methods, numbers that are none."""
_DRIVE = re.compile(r"^[a-zA-Z]:")


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive; `again` opens it as often as wanted, until the next member is asked for."""

    input: Input
    again: Callable[[], IO[bytes]]


def single(item: Input) -> bool:
    """Can this archive only be read from its beginning?"""
    return item.suffix in _LONG or item.compressed


def members(item: Input, start: int, stop: int | None,
            wanted: Callable[[Input], bool]) -> Iterator[tuple[Input, Member | Broken]]:
    """The wanted files whose entry begins in [start, stop), in the archive's order, and what is wrong with some."""
    if item.suffix == ".zip":
        reading = _zip(item, start, stop, wanted)
    else:
        reading = _tar(item, start, stop, wanted)
    try:
        yield from reading
    except _DAMAGE as error:
        yield item, Broken("unreadable_archive", f"{type(error).__name__}: {error}")


def _zip(item: Input, start: int, stop: int | None,
         wanted: Callable[[Input], bool]) -> Iterator[tuple[Input, Member | Broken]]:
    names, total = _Names(item), 0
    with _plain(item) as stream, zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            member = names.input(info.filename, info.file_size)
            if not wanted(member):
                continue
            total += info.file_size
            if not in_range(info.header_offset, item.size, start, stop):
                continue
            problem = names.problem(info.filename, total)
            if stat.S_ISLNK(info.external_attr >> 16):
                problem = Broken("link", "a symbolic link: what it points to is read where it lies")
            elif info.flag_bits & 1:
                problem = Broken("encrypted_member", "it needs a password")
            if problem is not None:
                yield member, problem
                continue
            yield from _member(member, lambda info=info: archive.open(info))  # type: ignore[misc]


def _tar(item: Input, start: int, stop: int | None,
         wanted: Callable[[Input], bool]) -> Iterator[tuple[Input, Member | Broken]]:
    names, total = _Names(item), 0
    with _plain(item) as below, tarfile.open(
            fileobj=cast(Any, _Forward(below, whole=not single(item))), mode="r:") as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
            member = names.input(info.name, info.size)
            total += info.size  # what is not wanted has to be decompressed too
            if info.isdir() or not (single(item) or in_range(info.offset, item.size, start, stop)):
                continue
            problem = names.problem(info.name, total)
            if problem is not None and problem.reason == "archive_bomb":
                yield member, problem
                return
            if not wanted(member):
                continue
            if info.issym() or info.islnk():
                problem = Broken("link", "a link: what it points to is read where it lies")
            elif not info.isreg():
                problem = Broken("no_file", "a device or pipe")
            elif info.issparse():
                problem = Broken("archive_bomb", "a sparse file: its size is not that of its content")
            if problem is not None:
                yield member, problem
                continue
            yield from _member(member, lambda info=info: archive.extractfile(info))  # type: ignore[misc]


def _member(member: Input, start: Callable[[], Any]) -> Iterator[tuple[Input, Member | Broken]]:
    """Copy a member out and hand it on."""
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as copy:
        try:
            with start() as stream:
                shutil.copyfileobj(stream, copy, 1 << 20)
        except _DAMAGE as error:
            yield member, Broken("unreadable_member", f"{type(error).__name__}: {error}")
            return
        yield member, Member(member, lambda: open_input(member, stored=cast(IO[bytes], _again(copy))))


class _Names:
    """What members are called in ids, and which names and sizes are refused."""

    def __init__(self, item: Input) -> None:
        self.item = item
        self.limit = max(LEAST_UNPACKED, MOST_RATIO * item.size)
        self.seen: dict[str, int] = {}

    def input(self, name: str, size: int) -> Input:
        """The member as an input; one of a name that was there before gets its number."""
        name = name.encode("utf-8", "backslashreplace").decode("utf-8").removeprefix("./")
        times = self.seen[name] = self.seen.get(name, 0) + 1
        path, dot, ending = name.rpartition(".")
        if times > 1:
            name = f"{path}~{times}{dot}{ending}" if dot else f"{name}~{times}"
        return Input(f"{self.item.path}!{name}", f"{self.item.name}/{name}", size, self.item.mark)

    def problem(self, name: str, total: int) -> Broken | None:
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or name.startswith(("/", "\\")) or _DRIVE.match(name):
            return Broken("unsafe_member_path", f"{name!r} points outside its archive")
        if total > self.limit:
            detail = f"it unpacks to more than {self.limit >> 20} MiB: unpack it yourself if you trust it"
            return Broken("archive_bomb", detail)
        return None


@contextmanager
def _plain(item: Input) -> Iterator[IO[bytes]]:
    long = _LONG.get(item.suffix)
    with open_input(replace(item, name=f"x{long}") if long else item) as stream:
        yield stream


class _Forward(io.RawIOBase):
    """A stream for tarfile: it goes forward by reading, and no header makes it read a gigabyte at once."""

    def __init__(self, stream: IO[bytes], *, whole: bool) -> None:
        self.stream, self.whole, self.at = stream, whole, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or (offset < self.at and not self.whole):
            raise OSError("a compressed archive is read from its beginning to its end")
        if self.whole:
            self.at = self.stream.seek(offset)
        while self.at < offset and self.read(min(offset - self.at, _HEADER)):
            pass
        return self.at

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0 or size > _HEADER:
            raise tarfile.ReadError(f"a header asks for {size} bytes")
        data = self.stream.read(size)
        self.at += len(data)
        return data


def _again(copy: Any) -> io.BufferedReader:
    copy.seek(0)
    return io.BufferedReader(cast(Any, _Shared(copy)))


class _Shared(io.RawIOBase):
    """A file that stays open when this is closed."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self.file.seek(offset, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    def readinto(self, buffer: Any) -> int:
        data = self.file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
