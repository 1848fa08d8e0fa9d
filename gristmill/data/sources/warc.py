"""Web archives: WARC files of crawls and the WET files of Common Crawl (plain text), one document a page."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from gristmill.core.config import PagesRef, config, require
from gristmill.core.errors import UserError
from gristmill.data.documents import Document, Reject
from gristmill.data.formats.dates import utc_time
from gristmill.data.formats.http_message import (
    Response,
    Undecodable,
    body_text,
    content_type,
    parse_response,
    unpacked,
)
from gristmill.data.formats.text import Unreadable, whole_characters
from gristmill.data.formats.warc_members import Members, Window
from gristmill.data.formats.warc_records import Record, records
from gristmill.data.inputs import DAMAGE, Input, Range, list_inputs, open_input, problem_of

SUFFIXES = {".warc", ".wet"}
HTML = frozenset({"text/html", "application/xhtml+xml"})
TEXT = frozenset({"text/plain", "text/markdown", "text/x-rst", "text/x-markdown"})
PAGES = frozenset({"response", "resource", "conversion"})
ASIDE = frozenset({"warcinfo", "request", "metadata"})
"""Types of records that describe the crawl: neither documents nor losses."""
_NO_PAGES = {"revisit": "the same page as one that was stored before",
             "continuation": "a part of a record that was cut in pieces"}
_TITLE = re.compile(r"<title(?:\s[^>]{0,500})?>([^<]{1,2000})", re.I)
_HEAD = 1 << 16


@config
class Warc:
    """Pages of web archives (.warc, .wet; as they are, gzip or zstd): text and HTML, the main text of the latter."""

    kind: Literal["warc"] = "warc"
    path: str = ""
    """A file, a folder, a glob such as `crawl/**/*.warc.gz`, or an fsspec URL of one."""
    pages: PagesRef | None = None
    """In place of `path`: the stage `crawl` (or an artifact of it) whose archives are read."""
    name: str = ""
    """How the source is called in ids and reports; the kind, if empty."""
    license: str = "unknown"
    """What the data card says about the right to use these pages; the pages of a crawl belong to their authors."""
    find_license: bool = False
    """Pages: where `license` is unknown, take over the licence that the page states (a link to Creative Commons,
    rel="license", a sentence); it is mostly in the footer, which is no longer there when the text is read."""
    language: str = ""
    """ISO 639-1 code, if all the pages are in one known language; otherwise it is detected."""
    domain: str = ""
    """A label for these documents; the host of each page, if empty."""
    statuses: Literal["ok", "any"] = "ok"
    """`ok`: only what was answered with HTTP status 200 to 299; `any`: error pages too."""
    longest_mb: int = 16
    """Longer pages are left out (as stored, and as unpacked): this much of one is in memory at a time, several
    times."""
    verify: bool = False
    """Compare each page with the digest in its record, where there is one that we know (sha1, sha256, sha512, md5)."""

    def __post_init__(self) -> None:
        require(bool(self.path.strip()) != bool(self.pages), "path",
                "give either a path (a file, a folder, a glob or a URL) or `pages`, a stage `crawl`")
        require(1 <= self.longest_mb <= 1024, "longest_mb", "must be from 1 to 1024")

    def at(self, folder: str) -> Warc:
        """The same source with the folder that `pages` stands for in its place."""
        return replace(self, path=folder, pages=None)

    def inputs(self) -> list[Input]:
        """The archives; WAT files (metadata only) are left out."""
        if self.pages:
            raise UserError(f"`{self.pages}` is not there yet", where="pages", fix="run the recipe that makes it")
        return [item for item in list_inputs(self.path, SUFFIXES) if ".warc.wat" not in item.name.lower()]

    def ranges(self, item: Input, size: int) -> list[Range]:
        """Byte ranges, if the file is compressed record by record (as all crawlers do it) or not at all."""
        number = max(1, round(item.size / size))
        try:
            if number > 1:
                with open_input(item, raw=True) as stream:
                    members = Members(Window(stream))
                    number = number if not members.compressed or members.by_record() else 1
        except Exception:  # whatever is wrong is said by reading it
            number = 1
        edges = [item.size * i // number for i in range(number)]
        return [Range(item, start, stop) for start, stop in zip(edges, [*edges[1:], None], strict=True)]

    def read(self, part: Range, source: str) -> Iterator[Document | Reject]:
        """The pages whose records begin in this part; a Reject for each record that is damaged or no text."""
        longest = self.longest_mb << 20
        last = part.start
        try:
            with open_input(part.input, raw=True) as stream:
                window = Window(stream)
                if not window.size and not part.start:
                    yield Reject(self._document(part.input, source, Record(0)), "empty_file", "it holds no byte")
                for record in records(window, part.start, part.stop, kinds=PAGES, longest=longest):
                    last = record.offset
                    if record.problem or record.kind not in ASIDE:
                        yield self._page(record, self._document(part.input, source, record), longest)
        except DAMAGE as error:
            if last or not part.start:
                document = self._document(part.input, source, Record(last))
                document.id += "!"  # the record at this place may have come out already
                yield Reject(document, *problem_of(error))

    def _document(self, item: Input, source: str, record: Record) -> Document:
        headers = record.headers
        url = whole_characters(headers.get("warc-target-uri", "").strip().strip("<>"))
        metadata: dict[str, object] = {"path": item.name, "offset": record.offset, "license": self.license}
        known = {
            "inner": record.inner, "url": url, "time": utc_time(headers.get("warc-date")),
            "record_id": headers.get("warc-record-id", "").strip("<>"),
            "languages": headers.get("warc-identified-content-language", ""),
            "truncated": headers.get("warc-truncated", ""),
        }
        metadata.update((key, value) for key, value in known.items() if value)
        ending = f"+{record.inner}" if record.inner else ""
        return Document(f"{source}/{item.name}@{record.offset}{ending}", "", source,
                        domain=self.domain or _host(url) or PurePosixPath(item.name).name,
                        language=self.language or "und", metadata=metadata)

    def _page(self, record: Record, document: Document, longest: int) -> Document | Reject:
        if record.problem:
            return Reject(document, record.reason, record.problem)
        kind = record.kind
        if kind not in PAGES:
            if detail := _NO_PAGES.get(kind):
                return Reject(document, kind, detail)
            return Reject(document, "record_type", f"a record of type {kind[:40]!r}")
        if record.block is None:
            fix = f"more than longest_mb: {longest >> 20}"
            return Reject(document, "too_long", f"a record of {record.length:,} bytes, {fix}")
        headers = record.headers
        if self.verify and (problem := digest_problem(record.block, headers)):
            return Reject(document, "wrong_digest", problem)
        if kind == "response" and record.block.startswith(b"HTTP/"):
            response = parse_response(record.block)
            document.metadata["status"] = response.status
            if self.statuses == "ok" and not 200 <= response.status <= 299:
                return Reject(document, "http_status", str(response.status))
        else:
            response = Response(0, {"content-type": headers.get("content-type", "")}, record.block)
        if document.metadata.get("url", "").startswith("metadata:"):
            return Reject(document, "not_a_page", "notes of the crawler about the crawl")
        return self._text(response, headers.get("warc-identified-payload-type", ""), document, longest)

    def _text(self, response: Response, identified: str, document: Document, longest: int) -> Document | Reject:
        kind, charset = content_type(response.headers.get("content-type", ""))
        kind = kind or identified.strip().lower()
        if kind and kind not in HTML | TEXT:
            return Reject(document, "content_type", kind[:100])
        try:
            body, cut_off = unpacked(response, longest)
            kind = kind or _sniff(body)
            if not kind:
                return Reject(document, "content_type", "none is stated, and it does not begin as HTML does")
            text, encoding = body_text(body, charset, html=kind in HTML)
        except Undecodable as problem:
            return Reject(document, problem.reason, problem.detail)
        except Unreadable as problem:
            return Reject(document, "unreadable_bytes", str(problem))
        document.metadata["content_type"] = kind
        if cut_off:
            document.metadata.setdefault("truncated", "body")
        if encoding != "utf-8":
            document.metadata["encoding"] = encoding
        if kind in HTML:
            from gristmill.data.extract import main_text
            from gristmill.data.signals.licences import stated_license

            if self.find_license and document.metadata.get("license", "unknown") == "unknown":
                document.metadata["license"] = stated_license(text) or "unknown"
            if title := page_title(text):
                document.metadata["title"] = title
            try:
                text = main_text(text)
            except Exception as error:  # what a parser raises is not part of its contract
                return Reject(document, "unreadable_html", str(error)[:500])
        document.text = whole_characters(text)
        return document if text.strip() else Reject(document, "no_text", f"nothing was left of {len(body):,} bytes")


def page_title(html: str) -> str:
    """The content of the title element near the beginning of a page, on one line."""
    match = _TITLE.search(html, 0, _HEAD)
    return whole_characters(" ".join(unescape(match[1]).split())[:500]) if match else ""


def digest_problem(block: bytes, headers: dict[str, str]) -> str:
    """What is wrong with a block by its WARC-Block-Digest, or else WARC-Payload-Digest; nothing if neither is known."""
    for field, content in (("warc-block-digest", block), ("warc-payload-digest", None)):
        algorithm, _, stated = headers.get(field, "").partition(":")
        algorithm, stated = algorithm.strip().lower().replace("-", ""), stated.strip()
        if algorithm not in ("sha1", "sha256", "sha512", "md5") or not stated:
            continue
        data = parse_response(block).body if content is None else content
        digest = hashlib.new(algorithm, data, usedforsecurity=False)
        found = digest.hexdigest(), base64.b32encode(digest.digest()).decode().rstrip("=").lower()
        if stated.lower().rstrip("=") in found:
            return ""
        return f"{field} says {stated[:200]}, it is {found[0]}"
    return ""


def _sniff(body: bytes) -> str:
    start = body[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return "text/html" if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) else ""


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").removeprefix("www.")
    except ValueError:
        return ""
