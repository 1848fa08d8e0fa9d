"""JSON as a stream: lines of objects, and the elements of one long array, without holding the file in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from gristmill.data.inputs import LONGEST_LINE, lines

_BLOCK = 1 << 20
_SPACE = b" \t\r\n,"
_STRUCTURE = re.compile(rb'["\[\]{},]')
_NESTING = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)
DEEPEST = 300
"""Lists and objects inside each other; Python's parser stops at 1,000 less the depth of whoever calls it, which differs
from place to place."""
_STRING_END = re.compile(rb'(?:[^"\\]++|\\.)*+"', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that cannot be read: reason as of a Reject, and what there is of it."""

    reason: str
    detail: str
    text: str = ""


def json_lines(stream: IO[bytes], start: int, stop: int | None) -> Iterator[tuple[int, Any]]:
    """(byte offset, record or Broken) of every line that begins in the range; blank lines are passed by."""
    for offset, line in lines(stream, start, stop):
        if line is None:
            yield offset, too_long(f"byte {offset}")
        elif line.strip():  # split on \n alone, so U+2028 stays inside a record
            yield offset, parse(line, f"byte {offset}", first=offset == 0)


def parse(data: bytes, where: str, *, first: bool = False) -> Any:
    """A JSON value, or Broken; `first` allows a byte order mark."""
    if data.count(b"[") + data.count(b"{") > DEEPEST and _depth(data) > DEEPEST:
        detail = f"{where}: lists and objects inside each other, more than {DEEPEST} deep"
        return Broken("too_deep", detail, data[:2000].decode("utf-8", "backslashreplace"))
    try:
        return json.loads(data.decode("utf-8-sig" if first else "utf-8"))
    except (ValueError, RecursionError) as error:
        return Broken("broken_record", f"{where}: {error}", data[:2000].decode("utf-8", "backslashreplace"))


def _depth(data: bytes) -> int:
    """How deep lists and objects are inside each other."""
    depth = deepest = 0
    for match in _NESTING.finditer(data):
        if match[0] in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif match[0] in (b"]", b"}"):
            depth -= 1
    return deepest


def too_long(where: str) -> Broken:
    """A record beyond the limit."""
    return Broken("too_long", f"{where}: longer than {LONGEST_LINE >> 20} MiB; cut it into several records")


def json_elements(stream: IO[bytes], longest: int = LONGEST_LINE) -> Iterator[tuple[int, Any]]:
    """(byte offset, value or Broken) of the elements of a top-level array, or of top-level values after one another.

    Only brackets and strings are followed, so one broken element does not spoil the next ones.
    """
    scan = _Scan(stream, longest)
    scan.skip(b"\xef\xbb\xbf", once=True)
    scan.skip(_SPACE)
    if scan.peek() == b"[":
        scan.take(1)
        array = True
    else:
        array = False
    while True:
        scan.skip(_SPACE)
        ahead = scan.peek()
        if not ahead:
            if array:
                yield scan.offset, Broken("broken_record", f"byte {scan.offset}: the file ends inside its array")
            return
        if array and ahead == b"]":
            return
        offset = scan.offset
        element = scan.element()
        where = f"byte {offset}"
        yield offset, too_long(where) if element is None else parse(element, where)


class _Scan:
    """A moving window over a stream of JSON."""

    def __init__(self, stream: IO[bytes], longest: int) -> None:
        self.stream, self.longest = stream, longest
        self.data, self.at, self.before, self.ended = b"", 0, 0, False

    @property
    def offset(self) -> int:
        return self.before + self.at

    def more(self) -> bool:
        """Read another block; what was passed is forgotten. Blocks grow with what is held, so time stays linear."""
        block = self.stream.read(max(_BLOCK, len(self.data) - self.at)) if not self.ended else b""
        self.ended = not block
        if block:
            self.data, self.before, self.at = self.data[self.at:] + block, self.offset, 0
        return bool(block)

    def peek(self) -> bytes:
        if self.at >= len(self.data):
            self.more()
        return self.data[self.at: self.at + 1]

    def take(self, number: int) -> None:
        self.at += number

    def skip(self, characters: bytes, *, once: bool = False) -> None:
        """Pass by any of these bytes; `once`: by exactly this mark."""
        if once:
            self.peek()
            self.at += len(characters) if self.data.startswith(characters) else 0
            return
        while ahead := self.peek():
            if ahead not in characters:
                return
            self.at += len(self.data) - self.at - len(self.data[self.at:].lstrip(characters))

    def element(self) -> bytes | None:
        """The bytes of the value that begins here, up to the comma or bracket that ends it; None if it is too long."""
        depth, position, long = 0, 0, False
        while True:
            match = _STRUCTURE.search(self.data, self.at + position)
            if match is None:
                position = len(self.data) - self.at
                if long or position > self.longest:
                    self.at, position, long = len(self.data), 0, True
                if not self.more():
                    break
                continue
            mark = match[0]
            position = match.end() - self.at
            if mark == b'"':
                ended, cut = self._string(position)
                position, long = self.at_end(ended), long or cut
                if ended is None:
                    break
                continue
            if mark in (b"{", b"["):
                depth += 1
            elif mark == b",":
                if depth == 0:
                    position -= 1
                    break
            elif depth == 0:
                position -= 1
                break
            else:
                depth -= 1
                if depth == 0:
                    break
        start, position = self.at, max(position, 1)  # a stray bracket is an element too: it has to be passed
        self.at += position
        return None if long or position > self.longest else self.data[start: self.at]

    def at_end(self, position: int | None) -> int:
        """A position, or that of the end of what is held."""
        return len(self.data) - self.at if position is None else position

    def _string(self, position: int) -> tuple[int | None, bool]:
        """Where the string ends whose inside begins at `position` (None: nowhere), and if it is beyond all limits."""
        long = False
        while (end := _STRING_END.match(self.data, self.at + position)) is None:
            if len(self.data) - self.at > self.longest:  # pass it by: only how it goes on matters
                tail = self.data[self.at + position:]
                left = b'"' + b"\\" * ((len(tail) - len(tail.rstrip(b"\\"))) % 2)
                self.before += len(self.data) - len(left)
                self.data, self.at, position, long = left, 0, 1, True
            if not self.more():
                return None, long
        return end.end() - self.at, long
