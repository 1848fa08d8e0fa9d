"""What a user can set about a crawl, with the bounds that each value has."""

from __future__ import annotations

import ipaddress
from typing import Literal

from gristmill.core.config import config, require

TYPES = ("text/html", "application/xhtml+xml", "text/plain", "text/markdown")
"""What is kept if nothing else is said: what the source `warc` reads."""


@config
class Politeness:
    """How much a crawl asks of the hosts that it visits."""

    delay: float = 1.0
    """Seconds between two requests to a host, from the end of one answer to the next request; a longer Crawl-delay in
    its robots.txt stands over this. Below 0.5 only for hosts of your own."""
    per_host: int = 1
    """Requests under way at one host; more than 1 helps only where answers take longer than `delay`."""
    total: int = 16
    """Requests under way altogether."""
    longest_delay: float = 60.0
    """A robots.txt that asks for a longer Crawl-delay gets this many seconds."""
    longest_wait: float = 600.0
    """A host that asks (Retry-After) to be left alone for longer is parked: its other pages are left out."""
    tries: int = 3
    """Requests for one page before it is given up: after network failures, status 429 and 500 to 599."""
    backoff: float = 5.0
    """Seconds before the second try (from half to one and a half times that, by the seed); they double with each."""
    failures: int = 5
    """Failures of a host one after the other before it is parked."""

    def __post_init__(self) -> None:
        require(0 <= self.delay <= 3600, "delay", "must be from 0 to 3600 seconds")
        require(1 <= self.per_host <= 16, "per_host", "must be from 1 to 16")
        require(1 <= self.total <= 256, "total", "must be from 1 to 256")
        require(0 <= self.longest_delay <= 3600, "longest_delay", "must be from 0 to 3600 seconds")
        require(0 <= self.longest_wait <= 86400, "longest_wait", "must be from 0 to 86400 seconds")
        require(1 <= self.tries <= 10, "tries", "must be from 1 to 10")
        require(0 <= self.backoff <= 3600, "backoff", "must be from 0 to 3600 seconds")
        require(1 <= self.failures <= 1000, "failures", "must be from 1 to 1000")


@config
class Limits:
    """Bounds on one answer and on one address: against bombs, traps and servers that never end."""

    page_mb: int = 10
    """A longer page (in MiB, as sent or unpacked) is left out. Twice this much of each page under way is in
    memory."""
    connect_seconds: float = 10.0
    """For finding the address, connecting and the TLS handshake."""
    silence_seconds: float = 20.0
    """The longest pause within an answer."""
    total_seconds: float = 60.0
    """For the whole of one request and its answer."""
    redirects: int = 5
    """Redirects one after the other; each place is checked as any other address."""
    links: int = 10_000
    """Links taken from one page; the others are counted (`links_cut`)."""
    url_length: int = 2000
    """Longer addresses are left out."""
    path_depth: int = 16
    """Addresses with more parts in their path are left out."""
    repeated_parts: int = 3
    """Addresses in whose path one part stands more often are left out: /a/b/a/b/a/b/a/b."""
    parameters: int = 8
    """Addresses with more query parameters are left out."""
    variants: int = 2000
    """Addresses that differ in the values of query parameters only; more are left out (calendars, sorted tables)."""
    addresses: int = 1_000_000
    """Addresses that are remembered altogether (about 300 bytes of disk each); further ones are only counted."""

    def __post_init__(self) -> None:
        require(1 <= self.page_mb <= 256, "page_mb", "must be from 1 to 256")
        for name in ("connect_seconds", "silence_seconds", "total_seconds"):
            require(0 < getattr(self, name) <= 3600, name, "must be above 0 and at most 3600")
        require(0 <= self.redirects <= 20, "redirects", "must be from 0 to 20")
        require(20 <= self.url_length <= 8000, "url_length", "must be from 20 to 8000")
        for name in ("links", "path_depth", "repeated_parts", "variants", "addresses"):
            require(getattr(self, name) >= 1, name, "must be at least 1")
        require(self.parameters >= 0, "parameters", "must not be negative")


@config
class Network:
    """Which addresses may be connected to, and how."""

    allow: list[str] | None = None
    """Addresses or networks that would be refused otherwise, e.g. [10.1.0.0/16] for an intranet or [127.0.0.1]."""
    ca_file: str = ""
    """A file with certificates (PEM) to trust besides those of the system. TLS is always verified."""
    proxy: Literal["none", "environment"] = "none"
    """environment: go through the proxy that HTTP_PROXY and HTTPS_PROXY name. The proxy then resolves names, so only
    addresses that are written as numbers are checked."""

    def __post_init__(self) -> None:
        for text in self.allow or []:
            try:
                ipaddress.ip_network(text)
            except ValueError:
                require(False, "allow", f"{text!r} is no address or network such as 10.1.0.0/16")
