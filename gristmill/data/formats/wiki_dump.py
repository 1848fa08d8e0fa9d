"""The pages of a MediaWiki XML dump as they lie in the file: found by their tags, from any byte on.

Between pages nothing needs to be parsed: `<page>` cannot stand inside of a page, since text has its `<` escaped. So a
broken page costs itself only, and a dump can be read from the middle: at any byte of a plain file, and at any stream of
a bzip2 file (multistream dumps hold one stream for every 100 pages; their index is not needed, since the ten bytes
that begin a stream do not occur by chance).
"""

from __future__ import annotations

import bz2
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from typing import IO

from gristmill.data.formats.damaged import Damaged
from gristmill.data.formats.warc_members import BOMB_BYTES, BOMB_RATIO, Members, Window
from gristmill.data.inputs import DAMAGE, Input, open_input

STREAM = re.compile(rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)")
_CHUNK = 1 << 18
_HEADER = 1 << 20
"""Bytes at the beginning of a dump in which its header has to be; it has some thousands."""
_OURS = (".bz2", ".gz", ".zst")
"""What is unpacked here, so that what comes before damage is kept to the last byte."""
_PAGE, _END = b"<page>", b"</page>"
_NAMESPACE = re.compile(r'<namespace\s+key="(-?\d{1,6})"[^>]*>([^<]*)</namespace>')


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins: in a bzip2 file the stream and the byte inside of it, otherwise a byte and 0."""

    offset: int
    inner: int = 0


@dataclass(slots=True)
class Found:
    """A page's XML, or why there is none: a reason and the detail."""

    place: Place
    xml: bytes = b""
    reason: str = ""
    detail: str = ""


@dataclass(slots=True)
class Header:
    """What a dump says about its wiki. problem: why the file cannot be read as a dump, with a reason."""

    language: str = ""
    database: str = ""
    base: str = ""
    namespaces: dict[str, int] = field(default_factory=dict)
    reason: str = ""
    problem: str = ""


@dataclass(slots=True)
class _Chunk:
    """Bytes of the dump and where they begin; a problem ends what was being read."""

    place: Place
    data: bytes
    reason: str = ""
    detail: str = ""


def read_header(item: Input) -> Header:
    """The header of a dump. Raises DAMAGE."""
    data = b""
    with _open(item) as stream:
        for chunk in _chunks(item, stream, 0):
            data += chunk.data
            if len(data) > _HEADER or b"</siteinfo>" in data or _PAGE in data:
                break
    text = data.partition(_PAGE)[0].decode("utf-8", "replace")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return Header(reason="xml_dtd", problem="it declares a document type, which no dump does; it is not read")
    if "<mediawiki" not in text:
        detail = "it does not begin as a MediaWiki dump does (`<mediawiki ...>`)" if data else "it holds no byte"
        return Header(reason="not_a_dump" if data else "empty_file", problem=detail)

    def first(pattern: str) -> str:
        match = re.search(pattern, text)
        return unescape(match[1]).strip() if match else ""

    names = {unescape(name).strip().lower(): int(key) for key, name in _NAMESPACE.findall(text) if name}
    language = first(r'<mediawiki[^>]*\bxml:lang="([^"]*)"')
    return Header(language, first(r"<dbname>([^<]*)"), first(r"<base>([^<]*)"), names)


def several_streams(stream: IO[bytes]) -> bool:
    """Does a bzip2 file hold more than one stream near its beginning?"""
    head = stream.read(8 << 20)
    return STREAM.search(head, 1) is not None


def pages(item: Input, start: int, stop: int | None, longest: int) -> Iterator[Found]:
    """The pages that begin in the bytes [start, stop) of the file as it is stored, none held that is longer than
    `longest`. A file that is compressed in one piece belongs to the range that holds its first byte. Raises DAMAGE."""
    by_stream = item.name.lower().endswith(".bz2")
    if item.compressed and not by_stream:
        if start:
            return
        stop = None
    with _open(item) as stream:
        yield from _Scan(_chunks(item, stream, start), stop, longest, by_stream).pages()


def _open(item: Input) -> IO[bytes]:
    return open_input(item, raw=item.name.lower().endswith(_OURS))


def _chunks(item: Input, stream: IO[bytes], start: int) -> Iterator[_Chunk]:
    name = item.name.lower()
    if name.endswith(".bz2"):
        return _bzip2(Window(stream), start)
    if name.endswith(_OURS):
        return _members(Window(stream))
    return _whole(stream, item.size) if item.compressed else _plain(stream, start)


class _Scan:
    """Pages cut out of a sequence of chunks."""

    def __init__(self, chunks: Iterator[_Chunk], stop: int | None, longest: int, by_stream: bool) -> None:
        self.chunks, self.stop, self.longest, self.by_stream = chunks, stop, longest, by_stream
        self.data = b""
        self.places: list[tuple[int, Place]] = []
        """Where in `data` each of its chunks begins (negative: before it)."""

    def pages(self) -> Iterator[Found]:
        at = 0
        while True:
            start = self.data.find(_PAGE, at)
            if start < 0:
                self._drop(max(at, len(self.data) - len(_PAGE) + 1))
                at = 0
                chunk = self._next()
                if chunk is None or (self._over(chunk.place) and not self.data):
                    return
                if chunk.reason:
                    if not self._over(chunk.place):
                        yield Found(chunk.place, b"", chunk.reason, chunk.detail)
                    self.data = b""
                    self.places.clear()
                continue
            self._drop(start)
            place = self._place()
            if self._over(place):
                return
            found, gap, at = self._page(place)
            yield found
            if gap is not None and not self._over(gap.place):
                yield Found(gap.place, b"", gap.reason, gap.detail)

    def _page(self, place: Place) -> tuple[Found, _Chunk | None, int]:
        """The page at the beginning of `data`, a problem that ended it, and where to go on."""
        searched, dropped = len(_PAGE), 0
        while True:
            end, again = self.data.find(_END, searched), self.data.find(_PAGE, searched)
            if again >= 0 and (end < 0 or again < end):
                return Found(place, b"", "broken_xml", "the next page begins before its end"), None, again
            if end >= 0:
                end += len(_END)
                if dropped or end > self.longest:
                    detail = f"{dropped + end:,} bytes of XML, more than {self.longest:,}"
                    return Found(place, b"", "too_long", detail), None, end
                return Found(place, self.data[:end]), None, end
            searched = max(len(_PAGE), len(self.data) - len(_END))
            if dropped or len(self.data) > self.longest:
                self._drop(searched)
                dropped += searched
                searched = 0
            chunk = self._next()
            if chunk is None or chunk.reason:
                self.data = b""
                self.places.clear()
                detail = "the file ends inside it" if chunk is None else f"it is damaged inside it: {chunk.detail}"
                return Found(place, b"", "truncated_page", detail), chunk, 0

    def _next(self) -> _Chunk | None:
        chunk = next(self.chunks, None)
        if chunk is not None and not chunk.reason:
            self.places.append((len(self.data), chunk.place))
            self.data += chunk.data
        return chunk

    def _drop(self, size: int) -> None:
        self.data = self.data[size:]
        self.places = [(at - size, place) for at, place in self.places]
        while len(self.places) > 1 and self.places[1][0] <= 0:
            del self.places[0]

    def _place(self) -> Place:
        at, place = self.places[0]
        return Place(place.offset, place.inner - at) if self.by_stream else Place(place.offset - at)

    def _over(self, place: Place) -> bool:
        return self.stop is not None and place.offset >= self.stop


def _plain(stream: IO[bytes], start: int) -> Iterator[_Chunk]:
    stream.seek(start)
    while data := stream.read(_CHUNK):
        yield _Chunk(Place(start), data)
        start += len(data)


def _members(window: Window) -> Iterator[_Chunk]:
    """gzip and zstd, in one member or many."""
    members, position, offset = Members(window), 0, 0
    try:
        while members.compressed and (position := members.begins(position)) < window.size:
            member = members.open(window, position)
            while data := member.read(_CHUNK):
                yield _Chunk(Place(offset), data)
                offset += len(data)
            position = member.end
    except Damaged as problem:
        reason = problem.reason if problem.reason == "zip_bomb" else "damaged_file"
        yield _Chunk(Place(offset), b"", reason, f"after {offset:,} unpacked bytes: {problem.detail}")
    if not members.compressed and window.size:
        yield _Chunk(Place(0), b"", "damaged_file", "it is not compressed as its name says")


def _whole(stream: IO[bytes], size: int) -> Iterator[_Chunk]:
    offset = 0
    while True:
        try:
            data = stream.read(_CHUNK)
        except DAMAGE as error:
            yield _Chunk(Place(offset), b"", "damaged_file", f"after {offset:,} unpacked bytes: {error}")
            return
        if not data:
            return
        yield _Chunk(Place(offset), data)
        offset += len(data)
        if size and offset > BOMB_BYTES and offset > BOMB_RATIO * size:
            yield _Chunk(Place(offset), b"", "zip_bomb", f"{size:,} bytes unpack to more than {offset:,}")
            return


def _bzip2(window: Window, start: int) -> Iterator[_Chunk]:
    position = _next_stream(window, start)
    if not start and position:
        yield _Chunk(Place(0), b"", "damaged_stream", f"no bzip2 stream begins at byte 0, the next at {position}")
    while position < window.size:
        begin, unpacked = position, 0
        decoder = bz2.BZ2Decompressor()
        problem = ("", "")
        while not decoder.eof:
            data = b""
            if decoder.needs_input:
                data = window.at(position)
                position += len(data)
                if not data:
                    problem = "truncated_stream", f"the file ends inside the stream at byte {begin}"
                    break
            try:
                out = decoder.decompress(data, _CHUNK)
            except (OSError, ValueError) as error:
                problem = "damaged_stream", f"the stream at byte {begin}: {error}"
                break
            if out:
                yield _Chunk(Place(begin, unpacked), out)
            unpacked += len(out)
            if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * (position - begin):
                problem = "zip_bomb", f"{position - begin:,} bytes unpack to more than {unpacked:,}"
                break
        if problem[0]:
            yield _Chunk(Place(begin, unpacked), b"", *problem)
            position = _next_stream(window, begin + 1)
            continue
        position -= len(decoder.unused_data)
        following = _next_stream(window, position) if position < window.size else position
        if following != position:
            yield _Chunk(Place(position), b"", "damaged_stream",
                         f"no stream begins at byte {position}; {following - position:,} bytes are passed by")
        position = following


def _next_stream(window: Window, offset: int) -> int:
    """Where the next stream begins at or after `offset`; the size of the file if none does."""
    step = 1 << 20
    for at in range(offset, window.size, step):
        if match := STREAM.search(window.exactly(at, step + 9)):
            return at + match.start()
    return window.size
