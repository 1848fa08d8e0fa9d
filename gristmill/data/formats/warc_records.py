"""The records of a WARC file (ISO 28500) in order, from any byte on; damaged ones are said and passed by.

A record that ends early, has no length or cannot be unpacked costs itself; reading goes on at the next member, or,
where the file is not compressed record by record, at the next line that begins as a record does. Memory: one record of
at most `longest` bytes, and a buffer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from gristmill.data.formats.damaged import Damaged
from gristmill.data.formats.http_message import parse_headers
from gristmill.data.formats.warc_members import MAGIC, PIECE, Member, Members, Window

LONGEST_HEADER = 1 << 20
"""Bytes of the named fields of one record; no tool writes more than some thousands."""


@dataclass(slots=True)
class Record:
    """offset: of its member, or its own in a file without members. inner: where it begins in the unpacked member.
    block: its content; None if it is longer than asked for or of a type that was not asked for. problem: why it cannot
    be read, with a reason; headers and block are then what was read so far."""

    offset: int
    inner: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    length: int = 0
    block: bytes | None = None
    reason: str = ""
    problem: str = ""

    @property
    def kind(self) -> str:
        """`response`, `request`, ..."""
        return self.headers.get("warc-type", "").lower()


def records(window: Window, start: int, stop: int | None, *, kinds: Collection[str], longest: int) -> Iterator[Record]:
    """The records that begin in [start, stop), with the blocks of those whose type is in `kinds`. What is read is the
    same for every cut into ranges."""
    members = Members(window)
    position = members.anchor(start) if start and members.compressed else 0
    end = window.size if stop is None else min(stop, window.size)
    opened: tuple[int, Member, bytes] | None = None
    """A member whose first bytes were read to see what it is."""
    while position < end:
        reader: _Reader | None = None
        try:
            position = members.begins(position)
            if position >= end:
                return
            if opened is None or opened[0] != position:
                opened = position, members.open(window, position), b""
            reader = _Reader(members, opened[1], opened[2], start, kinds, longest)
            for record in reader:
                if record.offset >= end:
                    return
                if record.offset >= start:
                    yield record
            position, opened = reader.member.end, reader.following
        except Damaged as problem:
            record = Record(position) if reader is None else reader.current
            if record.offset >= end:
                return
            record.reason, record.problem, opened = problem.reason, problem.detail, None
            if record.offset >= start:
                yield record
            if reader is not None and reader.next_member:
                position = reader.next_member
            elif members.compressed:
                last = position if reader is None else reader.member.start
                position = members.next_whole(last + 1)
            else:
                return


class _Reader:
    """The records of one member, and of those after it that go on where it ends."""

    def __init__(self, members: Members, member: Member, head: bytes, wanted_from: int, kinds: Collection[str],
                 longest: int) -> None:
        self.members, self.wanted_from, self.kinds, self.longest = members, wanted_from, kinds, longest
        self.member = member
        self.data, self.at = head, 0
        self.following: tuple[int, Member, bytes] | None = None
        """The member after the last one, opened to see what it is."""
        self.base = 0
        """Where `data` begins in the unpacked member."""
        self.next_member = 0
        """Where a member was met that begins a record inside of another record."""
        self.current = Record(member.start)

    def __iter__(self) -> Iterator[Record]:
        while True:
            if not self._pass_newlines():
                return
            self.current = self._place()
            try:
                record = self._record()
            except Damaged as problem:
                if problem.reason != "broken_record" or not self._find_record():
                    raise
                record = self.current
                record.reason, record.problem = problem.reason, problem.detail
            yield record

    def _place(self) -> Record:
        inner = self.base + self.at
        return Record(self.member.start, inner) if self.members.compressed else Record(inner)

    def _record(self) -> Record:
        record = self.current
        if not self._more(len(MAGIC)) or not self.data.startswith(MAGIC, self.at):
            raise Damaged("broken_record", "it does not begin with `WARC/`")
        record.headers = parse_headers(self._header())
        length = record.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 19):
            raise Damaged("broken_record", f"its Content-Length is {length[:40]!r}" if length else "no Content-Length")
        record.length = int(length)
        wanted = record.kind in self.kinds and record.length <= self.longest and record.offset >= self.wanted_from
        parts: list[bytes] = []
        left = record.length
        while left:
            if not wanted and self.at == len(self.data) and (passed := self.member.skip(left)):
                self.data, self.at, self.base = b"", 0, self.base + len(self.data) + passed
                left -= passed
                continue
            if self.at == len(self.data) and not self._more(1, inside=True):
                raise Damaged("truncated_record", f"{record.length - left:,} of its {record.length:,} bytes are there")
            part = self.data[self.at: self.at + left]
            self.at += len(part)
            left -= len(part)
            if wanted:
                parts.append(part)
        record.block = b"".join(parts) if wanted else None
        # The member's checksum is verified by this.
        if self._pass_newlines() and self._more(len(MAGIC)) and not self.data.startswith(MAGIC, self.at):
            raise Damaged("broken_record", f"more follows than the {record.length:,} bytes that it is said to have")
        return record

    def _pass_newlines(self) -> bool:
        """Go to the next byte that is no end of a line; is there one?"""
        while self.at < len(self.data) or self._more(1):
            if self.data[self.at] not in b"\r\n":
                return True
            self.at += 1
        return False

    def _header(self) -> bytes:
        """The lines up to the first empty one."""
        searched = self.at
        while True:
            end, after = self.data.find(b"\r\n\r\n", searched), 4
            other = self.data.find(b"\n\n", searched, end if end >= 0 else len(self.data))
            if other >= 0:
                end, after = other, 2
            if end >= 0:
                block = self.data[self.at: end]
                self.at = end + after
                return block
            held = len(self.data) - self.at
            if held > LONGEST_HEADER:
                raise Damaged("broken_record", f"its header is longer than {LONGEST_HEADER:,} bytes")
            if not self._more(held + 1, inside=True):
                raise Damaged("truncated_record", "the file ends in its header")
            searched = max(self.at, len(self.data) - held - 3) if self.at else max(0, held - 3)

    def _find_record(self) -> bool:
        """Go to the next line that begins as a record does, in this member; False if there is none."""
        while True:
            found = self.data.find(b"\nWARC/1.", self.at)
            if found >= 0:
                self.at = found + 1
                return True
            self.at = max(self.at, len(self.data) - 7)
            if not self._more(len(self.data) - self.at + 1):
                return False

    def _more(self, size: int, *, inside: bool = False) -> bool:
        """Have at least `size` bytes at hand; False at the end of the data.

        Between two records a member that begins with `WARC/` is left to the caller; any other goes on with the data
        (files that were cut into members without regard to records). inside: a member that begins so is damage.
        """
        while len(self.data) - self.at < size:
            more = self.member.read(8 * PIECE if self.members.compressed else PIECE)
            if more:
                self.base += self.at
                self.data, self.at = self.data[self.at:] + more, 0
                continue
            if not self.members.compressed or self.member.end >= self.members.window.size:
                return False
            if self.following is not None:  # looked at already
                if inside:
                    self.next_member = self.following[0]
                    raise Damaged("truncated_record", f"the next one begins inside of it, at byte {self.next_member}")
                return False
            try:
                start = self.members.begins(self.member.end)
                if start >= self.members.window.size:
                    return False
                following = self.members.open(self.members.window, start)
                head = following.read(8 * PIECE)
                while 0 < len(head) < len(MAGIC) and (rest := following.read(8 * PIECE)):
                    head += rest
            except Damaged:
                if inside:
                    raise
                return False  # it is said when its turn comes
            if head.startswith(MAGIC):
                self.following = start, following, head
                if inside:
                    self.next_member = start
                    raise Damaged("truncated_record", f"the next one begins inside of it, at byte {start}")
                return False
            held = self.data[self.at:]
            self.member, self.data, self.at, self.base = following, held + head, 0, -len(held)
        return True
