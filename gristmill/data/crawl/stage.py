"""The stage `crawl`: start addresses in, an artifact of web archives out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from gristmill.core.config import PagesRef, require
from gristmill.core.files import write_json
from gristmill.core.stage import StageContext, stage
from gristmill.data.crawl.settings import TYPES, Limits, Network, Politeness
from gristmill.data.crawl.urls import NoAddress, clean

_CONTACT = re.compile(r"[^@\s()<>]+@[^@\s()<>]+\.[^@\s()<>]+|https?://[^\s()<>]+")


@stage(kind="crawl", produces="pages", semantics_version=1)
class Crawl:
    """Fetch pages of web sites politely, by the rules of their robots.txt, into web archives."""

    start: list[str]
    """Where to begin: http(s) addresses."""
    contact: str
    """A mail address or web page of yours. It goes into every request, so that who runs a site can reach you."""
    agent: str = "gristmill"
    """The product token of the User-Agent header, and the name that robots.txt files may speak to."""
    scope: Literal["host", "domain", "prefix", "any"] = "host"
    """host: the hosts of the start addresses; domain: also hosts below them; prefix: what begins as a start address
    does up to its last slash; any: wherever links lead. `www.`, http and https make no difference."""
    include: list[str] | None = None
    """Regular expressions, one of which must be found in an address."""
    exclude: list[str] | None = None
    """Regular expressions, none of which may be found in an address."""
    depth: int = 10
    """Links from a start address to the farthest page."""
    pages: int = 1000
    """Pages that are asked for altogether, whatever the answer; redirects count."""
    pages_per_host: int | None = None
    """Pages that are asked for at one host; null for no bound but `pages`."""
    types: list[str] | None = None
    """Content types that are kept; null: HTML, plain text and Markdown, which the source `warc` reads."""
    sitemaps: bool = False
    """Read the sitemaps that robots.txt files name, too."""
    noindex: Literal["drop", "keep"] = "drop"
    """drop: pages that ask (noindex, none) not to be in search engines are not kept, but their links are followed."""
    reservations: bool = True
    """Leave out pages that reserve text and data mining (`tdm-reservation: 1`) or say `noai`."""
    as_of: str = ""
    """A date such as "2026-11-21". It means nothing by itself; another date makes another crawl of the same recipe."""
    earlier: PagesRef | None = None
    """A crawl whose pages are asked for only if they changed (ETag, Last-Modified); unchanged ones are taken over."""
    archive_mb: int = 256
    """A file of the archive that has reached this size (in MiB) is followed by another."""
    politeness: Politeness = field(default_factory=Politeness)
    """How much is asked of the hosts."""
    limits: Limits = field(default_factory=Limits)
    """Bounds on answers and addresses."""
    network: Network = field(default_factory=Network)
    """Which network addresses may be connected to."""

    def __post_init__(self) -> None:
        require(bool(self.start), "start", "name at least one address")
        for text in self.start:
            try:
                clean(text)
            except NoAddress as problem:
                require(False, "start", f"{text!r} is no http(s) address ({problem.detail})")
        require(_CONTACT.fullmatch(self.contact) is not None and self.contact.isascii(), "contact",
                "give a mail address or a web address of yours: whoever runs a site must be able to reach you")
        require(re.fullmatch(r"[A-Za-z_-]{1,64}", self.agent) is not None, "agent",
                "letters, `-` and `_` only (RFC 9309, 2.2.1)")
        for name in ("include", "exclude"):
            for text in getattr(self, name) or []:
                try:
                    re.compile(text)
                except re.error as error:
                    require(False, name, f"{text!r} is no regular expression: {error}")
        require(0 <= self.depth <= 1000, "depth", "must be from 0 to 1000")
        require(1 <= self.pages <= 100_000_000, "pages", "must be from 1 to 100,000,000")
        require(self.pages_per_host is None or self.pages_per_host >= 1, "pages_per_host",
                "must be at least 1, or null")
        require(self.types is None or len(self.types) > 0, "types", "name at least one, such as text/html")
        require(1 <= self.archive_mb <= 16384, "archive_mb", "must be from 1 to 16384")

    @property
    def accepted(self) -> frozenset[str]:
        """The content types that are kept."""
        return frozenset(one.strip().lower() for one in self.types or TYPES)

    def run(self, context: StageContext) -> Mapping[str, Any]:
        """Crawl into `context.work`, going on with what an interrupted run has left there.

        What is fetched depends on the web and on the day: the one stage whose bytes are not a function of its config.
        Raises UserError where not one page could be kept.
        """
        from gristmill.data.crawl.crawler import crawl

        earlier = context.inputs[self.earlier].path if self.earlier else None
        result = crawl(self, context.work, seed=context.seed, earlier=earlier, state=context.scratch / "crawl.sqlite",
                       progress=context.progress)
        write_json(context.telemetry / "crawl.json", result.telemetry)
        return result.summary
