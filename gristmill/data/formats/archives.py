"""Zip and tar archives of files: members one after another, nothing unpacked to a path of theirs.

A member that its range reads is copied out (to memory, a long one to an unnamed temporary file), so every kind of file
can be read from one. Its path is only a name. Every size is bounded: of what an archive may grow to, of a zip's table
of contents, and where members are held whole, of each of them.
"""

from __future__ import annotations

import io
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import IO, Any, cast

from gristmill.data.formats import tar_stream
from gristmill.data.formats.damaged import Damaged
from gristmill.data.formats.tables import in_range
from gristmill.data.formats.tar_stream import Tar, TarEntry
from gristmill.data.formats.zip_archive import copy_member, open_zip, printable
from gristmill.data.inputs import DAMAGE, Input, Range, cut, open_input, problem_of

_LONG = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz"}
ARCHIVES = {".zip", ".tar", *_LONG}
LARGEST_WHOLE = 64 << 20
"""Bytes of a file that is held whole in memory (`whole_files`); books and papers are far below."""
IN_MEMORY = 8 << 20
"""Bytes of a member that are held in memory; a longer one goes to a temporary file."""
_DRIVE = re.compile(r"^[a-zA-Z]:")
Wanted = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive: how it is called as an input, and its content or the problem with it."""

    input: Input
    content: IO[bytes] | Damaged

    def open(self) -> IO[bytes]:
        """Its bytes, decompressed if it is compressed itself; as often as wanted, until the next member is asked
        for."""
        assert not isinstance(self.content, Damaged)
        self.content.seek(0)
        return open_input(self.input, stored=io.BufferedReader(cast(Any, _Shared(self.content))))


@dataclass(frozen=True, slots=True)
class WholeFile:
    """A file held whole: an input, or a member of one (`inside`). name: its path there. data: or the problem with
    it."""

    name: str
    inside: bool
    data: bytes | Damaged

    @property
    def ending(self) -> str:
        """What comes after the input's name in the ids of documents."""
        return f"/{self.name}" if self.inside else ""


def is_archive(item: Input) -> bool:
    """Does its name say that it holds files?"""
    return item.suffix in ARCHIVES


def archive_ranges(item: Input, size: int) -> list[Range]:
    """Byte ranges of a zip or plain tar; any other is read from its beginning to its end."""
    return cut(item, size) if item.suffix in (".zip", ".tar") and not item.compressed else [Range(item)]


def members(item: Input, start: int, stop: int | None, wanted: Wanted, limit: int | None = None) -> Iterator[Member]:
    """The wanted files whose entry begins in [start, stop), in the archive's order.

    wanted: by the path in the archive. limit: bytes of a member. What is wrong comes as a Member with a problem; one
    that is called as the archive is says why no more of it can be read.
    """
    reading = (_zip if item.suffix == ".zip" else _tar)(item, start, stop, wanted, limit)
    try:
        yield from reading
    except DAMAGE as error:
        yield Member(item, Damaged(*problem_of(error)))


def whole_files(item: Input, wanted: Wanted, limit: int = LARGEST_WHOLE, *, start: int = 0,
                stop: int | None = None) -> Iterator[WholeFile]:
    """The files that an input is or holds: itself, decompressed, or the wanted ones of the archive that it is, as they
    are there."""
    if is_archive(item):
        for member in members(item, start, stop, wanted, limit):
            inside = member.input is not item
            name = member.input.name[len(item.name) + 1:] if inside else item.name
            content = member.content
            yield WholeFile(name, inside, content if isinstance(content, Damaged) else content.read())
    elif start == 0:
        try:
            with open_input(item) as stream:
                data = stream.read(limit + 1)
        except DAMAGE as error:
            yield WholeFile(item.name, False, Damaged(*problem_of(error)))
            return
        yield WholeFile(item.name, False, data if len(data) <= limit else _too_large(limit))


def _zip(item: Input, start: int, stop: int | None, wanted: Wanted, limit: int | None) -> Iterator[Member]:
    names, total = _Names(item), 0
    most = max(tar_stream.LEAST_UNPACKED, tar_stream.MOST_RATIO * item.size)
    with open_input(item) as stream:
        try:
            archive = open_zip(stream)
        except Damaged as problem:
            if start == 0:  # the same for every range: said once
                yield Member(item, problem)
            return
        with archive:
            for entry in archive.infolist():
                if entry.is_dir():
                    continue
                member = names.input(printable(entry.filename), entry.file_size)
                if not wanted(entry.filename):
                    continue
                total += entry.file_size  # no member can unpack to more than it claims
                if not in_range(entry.header_offset, item.size, start, stop):
                    continue
                refused = _unsafe(entry.filename)
                if stat.S_ISLNK(entry.external_attr >> 16):
                    refused = _LINK
                elif total > most:
                    refused = Damaged("archive_bomb", f"the archive unpacks to more than {most >> 20} MiB: unpack it "
                                      "yourself if you trust it")
                elif limit is not None and entry.file_size > limit:
                    refused = _too_large(limit)
                yield from _copied(member, refused, lambda copy, entry=entry: copy_member(  # type: ignore[misc]
                    archive, entry, copy, entry.file_size))


def _tar(item: Input, start: int, stop: int | None, wanted: Wanted, limit: int | None) -> Iterator[Member]:
    names, plain = _Names(item), item.suffix == ".tar" and not item.compressed
    with open_input(replace(item, name=f"x{_LONG[item.suffix]}") if item.suffix in _LONG else item) as stream:
        archive = Tar(stream, item.size, seekable=plain)
        try:
            for entry in archive:
                if plain and stop is not None and entry.offset >= stop:
                    return
                if entry.kind == "folder":
                    continue
                name = printable(entry.name)
                member = names.input(name, entry.size)
                if not wanted(name) or (plain and entry.offset < start):
                    continue
                refused = _entry_problem(entry)
                if refused is None and limit is not None and entry.size > limit:
                    refused = _too_large(limit)
                yield from _copied(member, refused, archive.copy)
            if not archive.ended:
                raise Damaged("truncated_archive", f"it ends without its end mark, at byte {archive.at}")
        except Damaged as problem:
            if not plain or in_range(archive.at, item.size, start, stop):
                yield Member(item, problem)


def _copied(member: Input, refused: Damaged | None, copy: Callable[[IO[bytes]], None]) -> Iterator[Member]:
    """A member with its content copied out, or why not. Raises Damaged where a tar cannot be read on."""
    if refused is not None:
        yield Member(member, refused)
        return
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as held:
        content = cast(IO[bytes], held)
        try:
            copy(content)
        except Damaged as damage:
            if damage.reason in ("truncated_archive", "archive_bomb"):
                raise
            yield Member(member, damage)
            return
        content.seek(0)
        yield Member(member, content)


def _entry_problem(entry: TarEntry) -> Damaged | None:
    if entry.kind == "link":
        return _LINK
    if entry.kind == "sparse":
        return Damaged("archive_bomb", "a sparse file: its size is not that of its content")
    if entry.kind == "other":
        return Damaged("not_a_file", "a device or pipe")
    return _unsafe(entry.name)


def _unsafe(name: str) -> Damaged | None:
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or name.startswith(("/", "\\")) or _DRIVE.match(name):
        return Damaged("unsafe_member_path", f"{name!r} points outside its archive")
    return None


def _too_large(limit: int) -> Damaged:
    return Damaged("too_large", f"more than {limit >> 20} MiB in one file; cut it into several")


_LINK = Damaged("link", "a link: what it points to is read where it lies")


class _Names:
    """What members are called: the second of a name becomes `name~2`, and so on, so that ids are unique."""

    def __init__(self, item: Input) -> None:
        self.item = item
        self.seen: dict[str, int] = {}

    def input(self, name: str, size: int) -> Input:
        """The member as an input."""
        name = self._unique(name.removeprefix("./"))
        return Input(f"{self.item.path}!{name}", f"{self.item.name}/{name}", size, self.item.mark)

    def _unique(self, name: str) -> str:
        while True:
            times = self.seen[name] = self.seen.get(name, 0) + 1
            if times == 1:
                return name
            path, dot, ending = name.rpartition(".")
            name = f"{path}~{times}{dot}{ending}" if dot else f"{name}~{times}"


class _Shared(io.RawIOBase):
    """A file that stays open when this is closed."""

    def __init__(self, file: IO[bytes]) -> None:
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
