"""Addresses as a crawl asks for them, which of them belong to it, and which look like traps."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import xxhash

from gristmill.data.crawl.settings import Limits
from gristmill.data.dedup.urls import TRACKING, url_hash

_BLANKS = re.compile(r"[\t\r\n]")
_SAFE = "/:;@!$&'()*+,=~%-._"
_PORTS = {"http": 80, "https": 443}
_ACCOUNT = re.compile(
    r"(wp-)?(log|sign)[-_]?(in|out|on|off|up)|register|registration|cart|checkout|basket", re.IGNORECASE)


class NoAddress(Exception):
    """This is nothing that a crawler can ask for: reason and detail as of a reject."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def clean(link: str, base: str = "") -> str:
    """The address that is asked for: absolute, without fragment, user name, default port and tracking parameters.

    Raises NoAddress for another scheme than http(s), and for what is no address.
    """
    text = _BLANKS.sub("", link).strip("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x1b\x1c\x1d\x1e\x1f \x7f")
    try:
        parts = urlsplit(urljoin(base, text) if base else text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise NoAddress("no_address", f"{text[:200]!r}: {error}") from None
    scheme = parts.scheme.lower()
    if scheme not in _PORTS:
        raise NoAddress("other_scheme", f"{scheme[:20]}: is not http or https" if scheme else f"{text[:200]!r}")
    with contextlib.suppress(UnicodeError):
        host = host.encode("idna").decode("ascii") if not host.isascii() else host
    host = host.lower().rstrip(".")
    if not host or not host.isascii() or re.search(r"[^a-z0-9._:%-]", host) or len(host) > 253:
        raise NoAddress("no_address", f"{text[:200]!r} names no host")
    shown = f"[{host}]" if ":" in host else host
    place = shown if port in (None, _PORTS[scheme]) else f"{shown}:{port}"
    path = quote(_without_dots(parts.path) if "/." in parts.path else parts.path, safe=_SAFE)
    query = "&".join(piece for piece in parts.query.split("&") if not TRACKING.fullmatch(piece.partition("=")[0]))
    return urlunsplit((scheme, place, path or "/", quote(query, safe=_SAFE + "?"), ""))


def _without_dots(path: str) -> str:
    """RFC 3986, 5.2.4."""
    kept: list[str] = []
    pieces = path.split("/")
    for piece in pieces:
        if piece == "..":
            kept = kept[:-1] or [""]
        elif piece != ".":
            kept.append(piece)
    return "/".join(kept) + ("/" if pieces[-1] in (".", "..") else "")


def key(url: str) -> bytes:
    """16 bytes that are the same for all spellings of an address (`dedup.urls.canonical_url`)."""
    return url_hash(url)


def origin(url: str) -> str:
    """scheme://host:port, what one robots.txt is for."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def host_of(url: str) -> str:
    """Whom politeness is due: the host, with its port where that is unusual."""
    return urlsplit(url).netloc


def _plain_host(url: str) -> str:
    return (urlsplit(url).hostname or "").removeprefix("www.")


class Scope:
    """Which addresses belong to a crawl.

    host: those of the start addresses' hosts; domain: also of hosts below them (`docs.` of a start at `example.org`);
    prefix: those that begin as a start address does up to its last slash; any: all. `www.` and http or https make no
    difference. include: one of these expressions must be found in the address; exclude: none.
    """

    def __init__(self, kind: str, start: Sequence[str], include: Sequence[str] = (),
                 exclude: Sequence[str] = ()) -> None:
        self.kind = kind
        self.places = {_place(url) for url in start}
        self.hosts = {_plain_host(url) for url in start}
        self.prefixes = tuple(f"{_place(url)}{urlsplit(url).path.rpartition('/')[0]}/" for url in start)
        self.include = [re.compile(text) for text in include]
        self.exclude = [re.compile(text) for text in exclude]

    def outside(self, url: str, *, whole_host: bool = False) -> bool:
        """Does it lie beyond the places of the crawl? whole_host: a prefix is not looked at, only its host."""
        kind = "host" if whole_host and self.kind == "prefix" else self.kind
        return not {
            "host": lambda: _place(url) in self.places,
            "domain": lambda: any(_plain_host(url) == host or _plain_host(url).endswith(f".{host}")
                                  for host in self.hosts),
            "prefix": lambda: (_place(url) + urlsplit(url).path).startswith(self.prefixes),
            "any": lambda: True,
        }[kind]()

    def refusal(self, url: str) -> tuple[str, str]:
        """(reason, detail) why `url` does not belong to the crawl; ("", "") if it does."""
        if self.outside(url):
            return "out_of_scope", f"scope: {self.kind}"
        if self.include and not any(pattern.search(url) for pattern in self.include):
            return "not_included", "no expression of `include` is found in it"
        found = next((pattern.pattern for pattern in self.exclude if pattern.search(url)), None)
        return ("excluded", f"exclude: {found}") if found is not None else ("", "")


def _place(url: str) -> str:
    """The host without `www.`, with its port where that is unusual."""
    parts = urlsplit(url)
    port = "" if parts.port in (None, 80, 443) else f":{parts.port}"
    return _plain_host(url) + port


def trap(url: str, limits: Limits) -> tuple[str, str]:
    """(reason, detail) if an address looks as those do that programs make without end; ("", "") if not."""
    if len(url) > limits.url_length:
        return "long_address", f"{len(url)} characters, url_length: {limits.url_length}"
    parts = urlsplit(url)
    pieces = [piece for piece in parts.path.split("/") if piece]
    if len(pieces) > limits.path_depth:
        return "deep_path", f"{len(pieces)} parts, path_depth: {limits.path_depth}"
    if pieces:
        piece, often = Counter(pieces).most_common(1)[0]
        if often > limits.repeated_parts:
            detail = f"{piece[:80]!r} stands {often} times in it, repeated_parts: {limits.repeated_parts}"
            return "repeated_path", detail
    number = len([piece for piece in parts.query.split("&") if piece])
    if number > limits.parameters:
        return "many_parameters", f"{number} parameters, parameters: {limits.parameters}"
    if pieces and _ACCOUNT.fullmatch(pieces[-1].partition(".")[0]):
        return "account_page", f"{pieces[-1][:80]!r} is for logging in or buying"
    return "", ""


def shape(url: str) -> bytes:
    """16 bytes that are the same for addresses that differ in the values of query parameters only; b"" without any."""
    parts = urlsplit(url)
    if not parts.query:
        return b""
    names = sorted({piece.partition("=")[0] for piece in parts.query.split("&")})
    return xxhash.xxh3_128_digest(f"{_place(url)}{parts.path}?{'&'.join(names)}".encode())
