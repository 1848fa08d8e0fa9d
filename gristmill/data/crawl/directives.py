"""What a page asks of crawlers: robots meta tags, the header X-Robots-Tag, and reservations of text and data mining.

noindex, nofollow, none: as search engines read them. noai: a convention of sites for artists, `noai` among the robots
directives. tdm: the TDM Reservation Protocol (W3C community group), header or meta tag `tdm-reservation: 1`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_WITH_VALUE = frozenset(["max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"])
_NAME = re.compile(r"\s*([A-Za-z][A-Za-z0-9_-]*)\s*:(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Directives:
    """What was asked; everything is allowed that nobody forbids."""

    noindex: bool = False
    nofollow: bool = False
    noai: bool = False
    reserved: bool = False
    """Text and data mining is reserved."""


def directives(headers: Iterable[tuple[str, str]], metas: Iterable[tuple[str, str]], agent: str) -> Directives:
    """The directives of all headers (names in lower case) and meta tags (name in lower case, content) for `agent`."""
    words: set[str] = set()
    reserved = False
    for name, value in headers:
        if name == "x-robots-tag":
            words |= _header_words(value, agent.lower())
        elif name == "tdm-reservation":
            reserved |= value.strip() == "1"
    for name, value in metas:
        if name in ("robots", agent.lower()):
            words |= {word.strip().lower() for word in value.split(",")}
        elif name == "tdm-reservation":
            reserved |= value.strip() == "1"
    none = "none" in words
    return Directives(none or "noindex" in words, none or "nofollow" in words, "noai" in words, reserved)


def _header_words(value: str, agent: str) -> set[str]:
    """The directives of one header; `name: ...` at its beginning says whom it is for."""
    ours = True
    words: set[str] = set()
    for piece in value.split(","):
        match = _NAME.match(piece)
        if match and match[1].lower() not in _WITH_VALUE:
            ours, piece = match[1].lower() == agent, match[2]
        if ours:
            words.add(piece.strip().lower())
    return words
