"""Mail: mbox files and folders of single messages; one document a message."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Literal

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.data.documents import Document, Reject
from gristmill.data.formats.damaged import Damaged
from gristmill.data.formats.mail_text import Message, parse_message, without_quotes, without_signature
from gristmill.data.inputs import DAMAGE, Input, Range, cut, lines, list_inputs, open_input, problem_of

MBOX = {".mbox", ".mbx"}
MAIL = {*MBOX, ".eml"}
LARGEST_MESSAGE = 32 << 20
"""Bytes of a message with its attachments; mail servers stop at about 25 MB. A larger one is passed by."""
_FROM = re.compile(rb"From \S.*\d:\d\d.*\b\d{4}\b")
_HEADER = re.compile(rb"(?:>?From |[A-Za-z][\w-]*:(?:[ \t]|\r?$))")


@config
class Mail:
    """Mail: .mbox (also compressed) and .eml files, and Maildir folders. One document a message; the messages of a
    thread stay in one split."""

    kind: Literal["mail"] = "mail"
    path: str
    """A file, a folder (read whole, sorted) or a glob, local or a URL."""
    name: str = ""
    """How the source is called in ids and reports; the kind, if empty."""
    drop_quotes: bool = True
    """Leave out what is quoted from other messages, and the line above it that says whose it is."""
    drop_signatures: bool = True
    """Leave out signatures (below `-- `), the footers of mailing lists and PGP signatures."""
    license: str = "unknown"
    """The right to use these messages."""
    language: str = ""
    """ISO 639-1 code, if all the messages are in one known language; otherwise it is detected."""
    domain: str = ""
    """A label for these documents; the mailing list, if empty."""

    def __post_init__(self) -> None:
        require(bool(self.path.strip()), "path", "give a file, a folder or a glob")

    def inputs(self) -> list[Input]:
        """Every file that will be read, sorted by name; a UserError if there is none."""
        found = list_inputs(self.path)
        kept = [item for item in found if len(found) == 1 or item.suffix in MAIL or _in_maildir(item.name)]
        if not kept:
            raise UserError("no mail here", where=self.path, fix="put .mbox or .eml files there, or name a file")
        return kept

    def ranges(self, item: Input, size: int) -> list[Range]:
        """An mbox is cut at messages."""
        return [Range(item)] if item.suffix == ".eml" else cut(item, size)

    def read(self, part: Range, source: str) -> Iterator[Document | Reject]:
        """The messages that begin in this part; what cannot be read comes out as a Reject."""
        item = part.input
        place = Document(f"{source}/{item.name}", "", source, domain=self.domain or source,
                         language=self.language or "und", metadata={"path": item.name, "license": self.license})
        try:
            with open_input(item) as stream:
                single = item.suffix == ".eml" or (item.suffix not in MBOX and stream.read(5) != b"From ")
            with open_input(item) as stream:
                if single and part.start == 0:
                    data = stream.read(LARGEST_MESSAGE + 1)
                    yield self._message(data if len(data) <= LARGEST_MESSAGE else None, place)
                elif not single:
                    found = False
                    for offset, message in mbox_messages(stream, part.start, part.stop):
                        found = True
                        yield self._message(message, _at(place, offset))
                    if not found and part.start == 0 and part.stop is None:
                        yield Reject(place, "no_messages", "no line that begins with `From ` and names a time")
        except DAMAGE as error:
            yield Reject(place, *problem_of(error))

    def _message(self, data: bytes | None, document: Document) -> Document | Reject:
        if data is None:
            return Reject(document, "too_large", f"a message of more than {LARGEST_MESSAGE >> 20} MiB")
        try:
            message = parse_message(data)
        except Damaged as problem:
            document.text = data[:2000].decode("utf-8", "backslashreplace")
            return Reject(document, *problem.said)
        self._describe(document, message)
        text = message.text
        if self.drop_signatures:
            text = without_signature(text)
        if self.drop_quotes:
            text = without_quotes(text)
        document.text = text.strip("\n")
        if not document.text.strip():
            held = f"{message.attachments} attachments" if message.attachments else "an empty body"
            return Reject(document, "no_text", held if not message.text.strip() else "only quotes and a signature")
        return document

    def _describe(self, document: Document, message: Message) -> None:
        document.metadata.update({name: value for name, value in (
            ("title", message.subject), ("author", message.author), ("time", message.time),
            ("message_id", message.id), ("group", message.thread), ("list", message.list),
            ("attachments", message.attachments),
        ) if value})
        if message.list and not self.domain:
            document.domain = message.list


def mbox_messages(stream: IO[bytes], start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes | None]]:
    """(offset of its From line, message) for the messages of an mbox that begin in [start, stop); None for one that is
    too large. A message begins with a line `From ` after a blank line (or at the beginning) that names a time, or that
    a header follows; `>From ` inside is `From `."""
    held: list[bytes] = []
    size, began = 0, -1
    for offset, line, opens in _marked(stream, start):
        if opens:
            if began >= 0:
                yield began, b"\n".join(held) + b"\n" if size <= LARGEST_MESSAGE else None
            if stop is not None and offset >= stop:
                return
            held, size, began = [], 0, offset
        elif began >= 0:
            size += len(line) + 1 if line is not None else LARGEST_MESSAGE + 1
            if line is None or size > LARGEST_MESSAGE:
                held = []
            else:
                held.append(line[1:] if line.startswith(b">From ") else line)
        elif stop is not None and offset >= stop:
            return
    if began >= 0:
        yield began, b"\n".join(held) + b"\n" if size <= LARGEST_MESSAGE else None


def _marked(stream: IO[bytes], start: int) -> Iterator[tuple[int, bytes | None, bool]]:
    """(offset, line, does it begin a message) of the lines from `start` on."""
    last: tuple[int, bytes | None, bool] | None = None
    blank = True
    for offset, line in lines(stream, start):
        if last is None:
            blank = start == 0 or _blank_at(stream, offset)
        else:
            before = last[1] or b""
            yield *last[:2], last[2] and bool(_FROM.match(before) or (line is not None and _HEADER.match(line)))
        last = (offset, line, blank and line is not None and line.startswith(b"From ") and len(line) < 1000)
        blank = line in (b"", b"\r")
    if last is not None:
        yield *last[:2], last[2] and bool(_FROM.match(last[1] or b""))


def _blank_at(stream: IO[bytes], offset: int) -> bool:
    """Is the line before this offset blank? The stream stays where it is."""
    here = stream.tell()
    stream.seek(max(0, offset - 3))
    before = stream.read(min(3, offset))
    stream.seek(here)
    return offset == 0 or before.endswith((b"\n\n", b"\n\r\n")) or before in (b"\n", b"\r\n")


def _at(place: Document, offset: int) -> Document:
    return Document(f"{place.id}@{offset}", "", place.source, place.domain, place.language,
                    {**place.metadata, "offset": offset})


def _in_maildir(name: str) -> bool:
    return re.search(r"(^|/)(cur|new)/[^/]+$", name) is not None
