"""Bytes of unknown encoding to text, and what cannot be text to a reason."""

from __future__ import annotations

import codecs

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROLS = bytes(b for b in range(32) if b not in b"\t\n\r\f\x1b\x08")
_SAMPLE = 1 << 16


class Unreadable(Exception):
    """These bytes are no text; the message says why."""


def decode(data: bytes, *, html: bool = False) -> tuple[str, str]:
    """Text and the name of its encoding.

    In order: a byte order mark; UTF-8; what the bytes themselves suggest (and, for HTML, its meta tag).
    Raises Unreadable for binary content and for bytes that no encoding explains.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            try:
                return data.decode(encoding).removeprefix("\ufeff"), encoding
            except UnicodeDecodeError as error:
                problem = f"the byte order mark says {encoding}, but: {error.reason} at byte {error.start}"
                raise Unreadable(problem) from error
    sample = data[:_SAMPLE]
    if b"\0" in sample:
        raise Unreadable("it holds NUL bytes, so it is binary")
    if sample and (controls := len(sample) - len(sample.translate(None, _CONTROLS))) > 0.02 * len(sample):
        raise Unreadable(f"{controls / len(sample):.0%} of its bytes are control characters, so it is binary")
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        first = error
    from resiliparse.parse.encoding import detect_encoding

    encoding = detect_encoding(data, from_html_meta=html) or "utf-8"
    try:
        return data.decode(encoding), encoding
    except (UnicodeDecodeError, LookupError):
        raise Unreadable(f"not UTF-8 ({first.reason} at byte {first.start}) and not {encoding} either") from first


def whole_characters(text: str) -> str:
    """Replace lone surrogates (possible in JSON escapes, impossible in UTF-8) by U+FFFD."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
