"""robots.txt by RFC 9309: groups, longest match, `*` and `$`; Crawl-delay and Sitemap beside them.

Matching takes time in proportion to the path times the number of wildcards; no pattern can make it slow.
Where the RFC leaves room we do as Google's published parser does: a product token ends at the first character that
cannot be in one, lines that are no rules part no groups, and a colon may be missing. Unlike there, a Crawl-delay is
a rule: many files give `*` nothing else, and what follows for others is not meant for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes, urlsplit

LONGEST = 500 << 10
"""Bytes of a robots.txt that are read (RFC 9309, 2.5, asks for at least that)."""
_TOKEN = re.compile(r"[A-Za-z_-]+")
_LINE = re.compile(r"\s*([A-Za-z][A-Za-z -]*?)\s*:\s*(.*)|\s*([A-Za-z-]+)\s+(\S.*)")
_FIELDS = {"user-agent": "agent", "useragent": "agent", "user agent": "agent", "allow": "allow",
           "disallow": "disallow", "dissallow": "disallow", "dissalow": "disallow", "disalow": "disallow",
           "diasllow": "disallow", "disallaw": "disallow", "crawl-delay": "delay", "crawldelay": "delay",
           "sitemap": "sitemap", "site-map": "sitemap"}
_ESCAPES = re.compile(r"((?:%[0-9a-fA-F]{2})+)")
_UNRESERVED = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
_KEPT = _UNRESERVED | frozenset(b"!$&'()*+,;=:@/?#[]%")


@dataclass(frozen=True, slots=True)
class Rule:
    """A path pattern, its escapes in one form."""

    pattern: str
    allow: bool

    def matches(self, path: str) -> bool:
        """Does the pattern fit the beginning of `path` (or, with `$`, all of it)?"""
        return _matches(self.pattern, path)


@dataclass(slots=True)
class Robots:
    """What a robots.txt says to one crawler."""

    rules: list[Rule] = field(default_factory=list)
    delay: float | None = None
    """Crawl-delay in seconds."""
    sitemaps: list[str] = field(default_factory=list)

    def allowed(self, url: str) -> bool:
        """May this address be fetched? The longest rule that matches says it; Allow where two are equally long."""
        path = url_path(url)
        if path == "/robots.txt":
            return True
        best = (-1, True)
        for rule in self.rules:
            rank = (len(rule.pattern), rule.allow)
            if rank > best and rule.matches(path):
                best = rank
        return best[1]


@dataclass(slots=True)
class _Group:
    agents: list[str] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    delay: float | None = None
    open: bool = True
    """Do further user-agent lines still belong to it?"""


def parse_robots(data: bytes, agent: str) -> Robots:
    """What `data` says to the crawler with the product token `agent`: all its groups together, or else those for `*`.

    Bytes beyond `LONGEST` are not looked at, nor a line that is cut by that.
    """
    if len(data) > LONGEST:
        data = data[:LONGEST]
        data = data[: max(data.rfind(b"\n"), data.rfind(b"\r")) + 1]
    groups: list[_Group] = []
    result = Robots()
    for line in re.split(r"\r\n|\r|\n", data.decode("utf-8", "replace").removeprefix("\ufeff")):
        name, value = _field(line)
        if name == "agent":
            if not groups or not groups[-1].open:
                groups.append(_Group())
            token = _TOKEN.match(value)
            groups[-1].agents.append("*" if value.startswith("*") else token[0].lower() if token else "")
        elif name == "sitemap":
            if value:
                result.sitemaps.append(value)
        elif name and groups:
            group = groups[-1]
            group.open = False
            if name == "delay":
                group.delay = _seconds(value) if group.delay is None else group.delay
            elif value:
                group.rules.append(Rule(_pattern(value), name == "allow"))
    ours = [group for group in groups if agent.lower() in group.agents]
    for group in ours or [group for group in groups if "*" in group.agents]:
        result.rules += group.rules
        result.delay = group.delay if result.delay is None else result.delay
    return result


def url_path(url: str) -> str:
    """What rules are matched against: path and query, escapes in one form."""
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query or "?" in url.partition("#")[0] else "")
    return normal(path).replace("*", "%2A").replace("$", "%24")


def _pattern(value: str) -> str:
    """A rule's value in one form; a `$` anywhere but at the end is an ordinary character."""
    text = normal(value if value[0] in "/*" else f"/{value}")
    return text[:-1].replace("$", "%24") + text[-1]


def normal(text: str) -> str:
    """One form of a path (RFC 9309, 2.2.2): what need not be escaped is not, everything else is, in upper case."""
    pieces = []
    for number, piece in enumerate(_ESCAPES.split(text)):
        if number % 2:
            pieces.append("".join(chr(b) if b in _UNRESERVED else f"%{b:02X}" for b in unquote_to_bytes(piece)))
        elif piece.isascii():
            pieces.append("".join(c if ord(c) in _KEPT else f"%{ord(c):02X}" for c in piece))
        else:
            pieces.append("".join(chr(b) if b in _KEPT else f"%{b:02X}" for b in piece.encode("utf-8", "replace")))
    return "".join(pieces)


def _field(line: str) -> tuple[str, str]:
    match = _LINE.fullmatch(line.partition("#")[0].strip())
    if match is None:
        return "", ""
    name, value = (match[1], match[2]) if match[1] else (match[3], match[4])
    return _FIELDS.get(name.lower(), ""), value.strip()


def _seconds(value: str) -> float | None:
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _matches(pattern: str, path: str) -> bool:
    anchored = pattern.endswith("$")
    first, *others = (pattern[:-1] if anchored else pattern).split("*")
    if not path.startswith(first):
        return False
    if not others:
        return not anchored or path == first
    at = len(first)
    for piece in others[:-1]:
        found = path.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    last = others[-1]
    return path.endswith(last) and len(path) - len(last) >= at if anchored else path.find(last, at) >= 0
