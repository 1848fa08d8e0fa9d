"""Links, base address and meta tags of an HTML page, in one pass whose time grows with the length of the page only."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import unescape
from html.entities import html5

_START = re.compile(r"<(?:(!--)|(a|area|base|frame|iframe|link|meta|script|style|textarea|title|xmp)(?=[\s/>]))", re.I)
_ATTRIBUTE = re.compile(r"""[\s/]*([^\s"'<>/=]+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>][^\s>]*)))?""")
_END = {name: re.compile(rf"</{name}(?=[\s/>])", re.I) for name in ("script", "style", "textarea", "title", "xmp")}
_REFRESH = re.compile(r"""\s*[\d.]+\s*[;,]\s*(?:url\s*=\s*)?["']?([^"']+)""", re.I)
_ENTITY = re.compile(r"&(#\d{1,9};?|#[xX][0-9a-fA-F]{1,8};?|[A-Za-z][A-Za-z0-9]{1,40};?)")
_FOLLOWED = frozenset(["canonical", "next", "prev"])
LONGEST_TAG = 16 << 10
"""Characters of a tag in which attributes are looked for."""


@dataclass(slots=True)
class Links:
    """targets: what the page links to, as it is written, each once, in order. nofollow: how many links asked not to be
    followed. cut: links beyond the most that are taken. base: of relative links. metas: (name, content)."""

    targets: list[str] = field(default_factory=list)
    nofollow: int = 0
    cut: int = 0
    base: str = ""
    metas: list[tuple[str, str]] = field(default_factory=list)


def find_links(html: str, most: int) -> Links:
    """What a page says to a crawler; at most `most` links."""
    found = Links()
    seen: set[str] = set()
    at = 0
    while match := _START.search(html, at):
        at = match.end()
        if match[1]:
            at = html.find("-->", at)
            if at < 0:
                break
            continue
        name = match[2].lower()
        attributes, at = _attributes(html, at)
        if name in _END:
            end = _END[name].search(html, at)
            if end is None:
                break
            at = end.end()
            continue
        target = ""
        if name in ("a", "area"):
            target = attributes.get("href", "")
            if target and "nofollow" in attributes.get("rel", "").lower().split():
                found.nofollow += 1
                continue
        elif name in ("frame", "iframe"):
            target = attributes.get("src", "")
        elif name == "link":
            target = attributes.get("href", "") if _FOLLOWED & set(attributes.get("rel", "").lower().split()) else ""
        elif name == "base":
            found.base = found.base or attributes.get("href", "")
        elif attributes.get("http-equiv", "").lower() == "refresh":
            refresh = _REFRESH.match(attributes.get("content", ""))
            target = refresh[1] if refresh else ""
        elif attributes.get("name"):
            found.metas.append((attributes["name"].strip().lower(), attributes.get("content", "")))
        target = target.strip()
        if target and not target.startswith("#") and target not in seen:
            if len(seen) >= most:
                found.cut += 1
                continue
            seen.add(target)
            found.targets.append(target)
    return found


def _attributes(html: str, at: int) -> tuple[dict[str, str], int]:
    """The attributes of the tag at `at` (the first of each name), and where they end."""
    stop = min(len(html), at + LONGEST_TAG)
    attributes: dict[str, str] = {}
    while match := _ATTRIBUTE.match(html, at, stop):
        at = match.end()
        value = next((one for one in match.groups()[1:] if one is not None), "")
        value = _ENTITY.sub(_entity, value) if "&" in value else value
        attributes.setdefault(match[1].lower(), value)
    return attributes, at


def _entity(match: re.Match[str]) -> str:
    """In attributes `&copy=1` is a parameter, no sign: a name needs its `;` before `=` (HTML standard, 13.2.5.73)."""
    name = match[1]
    if name[0] == "#" or name[-1] == ";":
        return unescape(match[0])
    following = match.string[match.end(): match.end() + 1]
    return unescape(match[0]) if name in html5 and following != "=" else match[0]
