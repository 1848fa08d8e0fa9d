"""Bytes of unknown encoding to text, and what cannot be text to a reason."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import IO

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROLS = bytes(b for b in range(32) if b not in b"\t\n\r\f\x1b\x08")
_SAMPLE = 1 << 16
_LONG_SAMPLE = 1 << 20
_BLOCK = 1 << 20


class Unreadable(Exception):
    """These bytes are no text; the message says why."""


def decode(data: bytes, *, html: bool = False) -> tuple[str, str]:
    """Text and the name of its encoding.

    In order: a byte order mark; UTF-8; what the bytes themselves suggest (and, for HTML, its meta tag).
    Raises Unreadable for binary content and for bytes that no encoding explains.
    """
    encoding = _marked(data)
    if encoding is not None:
        try:
            return data.decode(encoding).removeprefix("\ufeff"), encoding
        except UnicodeDecodeError as error:
            problem = f"the byte order mark says {encoding}, but: {error.reason} at byte {error.start}"
            raise Unreadable(problem) from error
    _refuse_binary(data[:_SAMPLE])
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        first = error
    encoding = _guess(data, html)
    try:
        return data.decode(encoding), encoding
    except (UnicodeDecodeError, LookupError):
        raise Unreadable(f"not UTF-8 ({first.reason} at byte {first.start}) and not {encoding} either") from first


def decode_stream(again: Callable[[], IO[bytes]]) -> tuple[Iterator[str], str]:
    """What `decode` gives for a file too long to hold, in blocks; `again` opens it (it is read twice).

    Raises Unreadable at once for binary content, and while reading where the encoding stops to fit.
    """
    with again() as stream:
        head = stream.read(_LONG_SAMPLE)
        encoding = _marked(head)
        if encoding is None:
            _refuse_binary(head[:_SAMPLE])
            decoder = codecs.getincrementaldecoder("utf-8")()
            try:
                block = head
                while block:
                    decoder.decode(block)
                    block = stream.read(_BLOCK)
                decoder.decode(b"", final=True)
                encoding = "utf-8"
            except UnicodeDecodeError:
                encoding = _guess(head, False)
    return _blocks(again, encoding), encoding


def _blocks(again: Callable[[], IO[bytes]], encoding: str) -> Iterator[str]:
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError as error:
        raise Unreadable(str(error)) from error
    with again() as stream:
        first, data = True, b" "
        while data:
            data = stream.read(_BLOCK)
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise Unreadable(f"not {encoding} to its end: {error.reason}") from error
            if text:
                yield text.removeprefix("\ufeff") if first else text
                first = False


def sample_encoding(sample: bytes, *, whole: bool) -> str:
    """The encoding of a file that begins with this sample (`whole`: that is all there is); Unreadable if binary."""
    encoding = _marked(sample)
    if encoding is not None:
        return encoding
    _refuse_binary(sample)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample, final=whole)
        return "utf-8"
    except UnicodeDecodeError:
        return _guess(sample, False)


def _marked(data: bytes) -> str | None:
    return next((encoding for mark, encoding in _BOMS if data.startswith(mark)), None)


def _refuse_binary(sample: bytes) -> None:
    if b"\0" in sample:
        raise Unreadable("it holds NUL bytes, so it is binary")
    if sample and (controls := len(sample) - len(sample.translate(None, _CONTROLS))) > 0.02 * len(sample):
        raise Unreadable(f"{controls / len(sample):.0%} of its bytes are control characters, so it is binary")


def _guess(data: bytes, html: bool) -> str:
    from resiliparse.parse.encoding import detect_encoding

    return str(detect_encoding(data, from_html_meta=html) or "utf-8")


def whole_characters(text: str) -> str:
    """Replace lone surrogates (possible in JSON escapes, impossible in UTF-8) by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
