"""What a page that came says: its directives and the addresses that it links to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from gristmill.data.crawl.directives import Directives, directives
from gristmill.data.crawl.links import find_links
from gristmill.data.crawl.urls import NoAddress, clean
from gristmill.data.formats.feed_formats import BrokenFeed, feed_entries
from gristmill.data.formats.http_message import Undecodable, body_text, content_type, parse_response, unpacked
from gristmill.data.formats.text import Unreadable
from gristmill.data.inputs import DAMAGE

HTML = frozenset(["text/html", "application/xhtml+xml"])
SITEMAP_BYTES = 50 << 20
SITEMAP_ENTRIES = 50_000
"""Bounds of the sitemap protocol: unpacked bytes and addresses of one file."""


@dataclass(slots=True)
class Reading:
    """targets: absolute addresses, each once. counts: links that were not taken, by why. size: unpacked bytes."""

    directives: Directives = field(default_factory=Directives)
    targets: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    size: int = 0


def read_page(block: bytes, headers: Sequence[tuple[str, str]], url: str, agent: str, longest: int,
              most: int) -> Reading:
    """What the HTTP answer `block` (as it came) says. headers: all of them, names in lower case.

    Raises http_message.Undecodable for a body that cannot be unpacked or is longer than `longest` bytes then.
    """
    response = parse_response(block)
    body, cut_off = unpacked(response, longest)
    if cut_off:
        raise Undecodable("truncated_answer", "its content encoding ends before its end")
    kind, charset = content_type(response.headers.get("content-type", ""))
    if kind not in HTML and not (not kind and body[:1024].lstrip()[:1] == b"<"):
        return Reading(directives(headers, (), agent), size=len(body))
    try:
        text, _ = body_text(body, charset, html=True)
    except Unreadable:  # no text for a corpus, but what it asks of crawlers counts all the same
        text = body.decode("utf-8", "replace")
    found = find_links(text, most)
    said = directives(headers, found.metas, agent)
    counts = {"links_nofollow": found.nofollow, "links_cut": found.cut}
    if said.nofollow:
        counts["links_nofollow"] += len(found.targets)
        return Reading(said, [], counts, len(body))
    base = url
    if found.base:
        try:
            base = clean(found.base, url)
        except NoAddress:
            base = url
    targets: dict[str, None] = {}
    for target in found.targets:
        try:
            targets[clean(target, base)] = None
        except NoAddress as problem:
            name = f"links_{problem.reason}"
            counts[name] = counts.get(name, 0) + 1
    return Reading(said, list(targets), counts, len(body))


def read_sitemap(block: bytes, url: str) -> tuple[list[str], list[str]]:
    """(addresses of pages, addresses of further sitemaps) in a sitemap; what is broken ends it.

    Raises Undecodable for one that cannot be unpacked or is longer than the protocol allows.
    """
    import gzip
    import io

    response = parse_response(block)
    body, _ = unpacked(response, SITEMAP_BYTES)
    if body.startswith(b"\x1f\x8b"):
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(body)) as stream:
                body = stream.read(SITEMAP_BYTES + 1)
        except DAMAGE as error:
            raise Undecodable("damaged_encoding", str(error)[:300]) from error
        if len(body) > SITEMAP_BYTES:
            raise Undecodable("too_large", f"it unpacks to more than {SITEMAP_BYTES:,} bytes")
    pages: dict[str, None] = {}
    maps: dict[str, None] = {}
    if not body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):  # a list of addresses, one a line
        for line in body.decode("utf-8", "replace").splitlines()[:SITEMAP_ENTRIES]:
            _keep(line, url, pages)
        return list(pages), []
    try:
        for number, entry in enumerate(feed_entries(io.BytesIO(body))):
            if number >= SITEMAP_ENTRIES:
                break
            _keep(entry.url, url, maps if entry.form == "index" else pages)
    except BrokenFeed as problem:
        if not pages and not maps:
            raise Undecodable(problem.reason, problem.detail) from problem
    return list(pages), list(maps)


def _keep(text: str, base: str, found: dict[str, None]) -> None:
    if text.strip():
        try:
            found[clean(text, base)] = None
        except NoAddress:
            return


def retry_after(value: str, now: float) -> float:
    """Seconds to wait by a Retry-After header (a number, or a date); 0 if there is none."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(min(int(value[:12]), 10**9))
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now) if value else 0.0
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
