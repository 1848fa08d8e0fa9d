"""HTTP responses as archives keep them: status, headers, and the body as text whatever was done to it on its way.

Archives lie about bodies: many were unpacked before they were stored and kept the header that says `gzip` or `chunked`.
What a header claims is therefore tried, and left alone where the bytes say otherwise (RFC 9110, RFC 9112).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message

import pyarrow as pa

from gristmill.data.formats.text import decode

_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? +(\d{3})")
_CHUNK = re.compile(rb"[ \t]*([0-9a-fA-F]{1,12})[ \t]*(?:;[^\r\n]*)?\r?\n")
_PIECE = 1 << 16
# Names that the web uses for a larger encoding than they mean: https://encoding.spec.whatwg.org/#names-and-labels
_LARGER = {
    "iso-8859-1": "cp1252", "iso8859-1": "cp1252", "latin1": "cp1252", "latin-1": "cp1252", "ascii": "cp1252",
    "us-ascii": "cp1252", "iso-8859-9": "cp1254", "iso-8859-11": "cp874", "tis-620": "cp874", "gb2312": "gb18030",
    "gbk": "gb18030", "x-gbk": "gb18030", "shift_jis": "cp932", "shift-jis": "cp932", "x-sjis": "cp932",
    "sjis": "cp932", "euc-kr": "cp949", "ks_c_5601-1987": "cp949", "big5": "big5hkscs", "x-x-big5": "big5hkscs",
}
# Codecs of Python that are no encodings of text.
_NO_TEXT = frozenset([
    "base64", "base64_codec", "bz2", "hex", "quopri", "rot13", "uu", "zip", "zlib", "idna", "punycode",
    "undefined", "unicode_escape", "raw_unicode_escape", "mbcs", "oem",
])


class Undecodable(Exception):
    """The body cannot be unpacked: a reason in snake_case, and the detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(slots=True)
class Response:
    """status: 0 where there is no status line. headers: names in lower case, the first of each name. body: as
    stored."""

    status: int
    headers: dict[str, str]
    body: bytes


def parse_response(block: bytes) -> Response:
    """A stored HTTP message; one without a status line is all body."""
    match = _STATUS.match(block)
    if match is None:
        return Response(0, {}, block)
    end, after = block.find(b"\r\n\r\n"), 4
    other = block.find(b"\n\n", 0, end if end >= 0 else len(block))
    if other >= 0:
        end, after = other, 2
    if end < 0:
        end, after = len(block), 0
    return Response(int(match[1]), parse_headers(block[:end]), block[end + after:])


def parse_headers(block: bytes) -> dict[str, str]:
    """`name: value` lines after the first line, names in lower case; a line that begins with a blank goes on with the
    one before."""
    headers: dict[str, str] = {}
    last = ""
    for line in block.decode("utf-8", "replace").split("\n")[1:]:
        if line[:1] in (" ", "\t") and last:
            headers[last] += " " + line.strip()
            continue
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if colon and name not in headers:
            headers[name], last = value.strip(), name
        elif colon:
            last = ""
    return headers


def content_type(value: str) -> tuple[str, str]:
    """(`text/html`, charset or "") of a Content-Type header."""
    kind = value.partition(";")[0].strip().lower()
    if "charset" not in value.lower():
        return kind, ""
    message = Message()
    message["content-type"] = value.replace("\n", " ").replace("\r", " ")
    charset = message.get_param("charset") or ""
    return kind, str(charset[2] if isinstance(charset, tuple) else charset).strip().strip("'\"").lower()


def unpacked(response: Response, longest: int) -> tuple[bytes, bool]:
    """(body without chunks and content encodings, whether its end is missing). Never holds more than `longest` bytes of
    one stage; raises Undecodable for more, and for a body that is neither packed as its headers say nor plain."""
    body, cut_off = response.body, False
    if "chunked" in response.headers.get("transfer-encoding", "").lower():
        body, cut_off = _unchunked(body)
    for coding in reversed(response.headers.get("content-encoding", "").lower().split(",")):
        unpack = _CODINGS.get(coding.strip())
        if unpack is None or not body:
            continue
        parts: list[bytes] = []
        size = 0
        ended = False
        try:
            for part in unpack(body):
                if part is None:
                    ended = True
                    break
                size += len(part)
                if size > longest:
                    raise Undecodable("too_long", f"its {coding.strip()} body unpacks to more than {longest:,} bytes")
                parts.append(part)
        except (zlib.error, pa.ArrowException, OSError, _brotli_error()) as error:
            if not size and _plain(body):
                continue  # unpacked by whoever stored it
            if not size:
                raise Undecodable("damaged_encoding", f"no {coding.strip()}, as its header says: {error}") from error
        cut_off |= not ended
        body = b"".join(parts)
    if len(body) > longest:
        raise Undecodable("too_long", f"{len(body):,} bytes")
    return body, cut_off


def body_text(body: bytes, charset: str, *, html: bool) -> tuple[str, str]:
    """(text, its encoding). What is valid UTF-8 is UTF-8 whatever was declared, since nothing else looks like it; then
    what HTTP declared; then what the bytes themselves suggest. Raises text.Unreadable for what is no text."""
    charset = _LARGER.get(charset, charset)
    wide = charset.replace("_", "-").startswith(("utf-16", "utf16", "utf-32", "utf32"))
    if charset and charset.replace("-", "_") not in _NO_TEXT and (wide or not _utf8(body)):
        try:
            return body.decode(charset).removeprefix("\ufeff"), charset
        except (LookupError, ValueError):  # an unknown name, or not what it says
            pass
    return decode(body, html=html)


def _utf8(body: bytes) -> bool:
    try:
        body.decode()
        return True
    except UnicodeDecodeError:
        return False


def _plain(body: bytes) -> bool:
    head = body[:512]
    return head.lstrip()[:1] in (b"<", b"{", b"[") or (b"\0" not in head and _utf8(body[:_PIECE]))


def _unchunked(body: bytes) -> tuple[bytes, bool]:
    parts: list[bytes] = []
    at = 0
    while match := _CHUNK.match(body, at):
        size = int(match[1], 16)
        start = match.end()
        if not size:
            return b"".join(parts), False
        parts.append(body[start: start + size])
        at = start + size
        if at > len(body):
            break
        at += 2 if body[at: at + 2] == b"\r\n" else 1 if body[at: at + 1] == b"\n" else 0
    return (b"".join(parts), True) if parts else (body, False)


def _inflate(body: bytes) -> Iterator[bytes | None]:
    """gzip, of one or more members."""
    if not body.startswith(b"\x1f\x8b"):
        raise zlib.error("it does not begin as gzip does")
    while body.startswith(b"\x1f\x8b"):
        decoder = zlib.decompressobj(31)
        yield from _drained(decoder, body)
        if not decoder.eof:
            return
        body = decoder.unused_data
    yield None


def _deflate(body: bytes) -> Iterator[bytes | None]:
    """zlib as the standard says, or the bare deflate that some servers send."""
    decoder = zlib.decompressobj()
    try:
        decoder.decompress(body[:_PIECE], 1)
        decoder = zlib.decompressobj()
    except zlib.error:
        decoder = zlib.decompressobj(-15)
    yield from _drained(decoder, body)
    if decoder.eof:
        yield None


def _drained(decoder: zlib._Decompress, body: bytes) -> Iterator[bytes]:
    while not decoder.eof:
        part = decoder.decompress(body, 4 * _PIECE)
        rest = decoder.unconsumed_tail
        if not part and len(rest) == len(body):
            return
        body = rest
        yield part


def _unbrotli(body: bytes) -> Iterator[bytes | None]:
    import brotli

    decoder = brotli.Decompressor()
    part = decoder.process(body, output_buffer_limit=4 * _PIECE)
    while True:
        yield part
        if decoder.is_finished():
            yield None
            return
        if decoder.can_accept_more_data():
            return
        part = decoder.process(b"", output_buffer_limit=4 * _PIECE)


def _unzstd(body: bytes) -> Iterator[bytes | None]:
    with pa.CompressedInputStream(pa.BufferReader(body), "zstd") as stream:
        while part := stream.read(4 * _PIECE):
            yield part
    yield None


def _brotli_error() -> type[Exception]:
    try:
        import brotli
    except ImportError as error:  # a body that says `br` is then refused with this message
        return type(error)
    return brotli.error  # type: ignore[no-any-return]


_CODINGS: dict[str, Callable[[bytes], Iterator[bytes | None]]] = {
    "gzip": _inflate, "x-gzip": _inflate, "deflate": _deflate, "br": _unbrotli, "zstd": _unzstd,
}
