"""A page cut at its `<` signs, and what the tag at the start of each piece means.

`Tags.quick` reads a tag that is written as nearly all are; `Tags.read` reads any, also where it runs over several
pieces: comments, quoted values that hold `<` or `>`.
"""

from __future__ import annotations

import re

from gristmill.data.extract.tags import (
    CONTAINERS,
    DROPPED,
    KIND,
    OWN_FLAGS,
    RAW_TEXT,
    SLOTS,
    VOID,
    is_hidden,
    word_flags,
)

# What a start tag does. Everything that is not listed is part of the line (b, span, font, unknown names).
INLINE, LINK, BLOCK, BREAK, RULE, RAW, DROP, CODE, TEXT, END = range(10)

# A tag, read: what it does, whether it starts an element, its name, its flags (for a link: has an address), hidden, its
# place in `SLOTS` (-1: none), the kind of the text in it (0: none of its own, INHERITED: that around it).
Tag = tuple[int, bool, str, int, bool, int, int]
INHERITED = -1
# A tag that only formats a line. Compared by identity.
NOTHING: Tag = (INLINE, True, "", 0, False, -1, 0)
_IS_TEXT: Tag = (TEXT, False, "", 0, False, -1, 0)
ADDRESS: Tag = (LINK, True, "a", 1, False, -1, 0)
ANCHOR: Tag = (LINK, True, "a", 0, False, -1, 0)
_BUTTON: Tag = (LINK, True, "button", 1, False, -1, 0)
# What `Tags.parts` ends with, and no page holds: the end of the page ends the last block.
_LAST = "<>"
_END: Tag = (END, False, "", 0, False, -1, 0)
_NAME = re.compile(r"[a-zA-Z][^\s/>]*")
_VALUE = re.compile(r"=\s*(?:\"[^\"]*(\"?)|'[^']*('?))")
# Whole pages hide these until a script has run.
_NEVER_HIDDEN = frozenset(("body", "html", "main", "article"))
# Boxes that take over the kind of their surroundings: a div in a cell is a cell's text.
_TRANSPARENT = frozenset(("div", "section", "center", "details", "form", "fieldset"))
_KINDS = KIND | dict.fromkeys(_TRANSPARENT, INHERITED)
_ACTION = {"a": LINK, "button": LINK, "br": BREAK, "hr": RULE, "code": CODE, "kbd": CODE, "samp": CODE}
_ACTION |= dict.fromkeys(CONTAINERS, BLOCK)
_ACTION |= dict.fromkeys(RAW_TEXT, RAW) | dict.fromkeys(DROPPED, DROP)
# How the most frequent tags with attributes begin, none of which starts a block: links, images, spans, icons.
FREQUENT = frozenset((
    "a hr", "a cl", "a ta", "a id", "a ti", "a re", "img ", "span", "meta", "link", "inpu", "path", "i cl", "font",
    "stro", "time", "labe", "use ", "rect", "circ", "poly"))
_FORMATTING = frozenset((
    "b", "i", "em", "strong", "span", "font", "u", "s", "small", "sup", "sub", "big", "tt", "cite", "q", "abbr",
    "label", "time", "mark", "ins", "del", "html", "head", "body", "option", "optgroup", "picture", "tbody", "thead",
    "tfoot", "path", "use", "g", "rect", "circle", "polygon", "polyline"))
# What `quick` begins with: the start tags of these names without attributes.
_SIMPLE: dict[str, Tag] = dict.fromkeys(_FORMATTING | VOID, NOTHING) | {"a": ANCHOR, "button": _BUTTON}
_SIMPLE |= {name: (RAW, True, name, 0, False, -1, 0) for name in RAW_TEXT}
_SIMPLE |= {name: (DROP, True, name, 0, True, -1, 0) for name in DROPPED}
_SIMPLE |= {name: (BLOCK, True, name, OWN_FLAGS.get(name, 0), False, SLOTS.get(name, -1), _KINDS.get(name, 0))
            for name in CONTAINERS}
# Tags without attributes, as pages write them: the same everywhere.
_PLAIN: dict[str, Tag] = {}


def inline_tag(head: str) -> Tag:
    """What `NOTHING` leaves out: the name of a tag that formats a line, and whether it starts."""
    found = _NAME.match(head, 1 if head[:1] == "/" else 0)
    name = found[0].lower() if found else ""
    return INLINE, head[:1] != "/" and bool(name) and name not in VOID, name, 0, False, -1, 0


class Tags:
    """The pieces of a page between its `<` signs, and the meaning of the tag that each begins with.

    Tags that are written alike are read once: `known` maps what stands between `<` and `>` to its `Tag`. `parts` ends
    with a piece that no page holds.
    """

    def __init__(self, html: str) -> None:
        self.parts = html.split("<")
        self.length = len(self.parts)
        self.parts.append(_LAST)
        self.known = _PLAIN.copy()
        self.steps = 0
        self._spent: set[str] = set()

    def quick(self, head: str) -> Tag | None:
        """The tag of most of what stands between `<` and `>`; None where only `read` can tell."""
        name, _, attributes = head.partition(" ")
        tag = _SIMPLE.get(name)
        if tag is None:
            return None
        if '"' in attributes:
            if (attributes.count('"') & 1 or "'" in attributes) and _open_quote(attributes):
                return None
        elif "'" in attributes and attributes.count("'") & 1 and _open_quote(attributes):
            return None
        kind = tag[0]
        if kind in (RAW, DROP):
            return tag
        lower = attributes.lower()
        if ("hidden" in lower or "none" in lower) and name not in VOID:
            return None
        if kind == BLOCK:
            if attributes:
                bits = word_flags(lower)
                if bits:
                    tag = (BLOCK, True, name, tag[3] | bits, False, tag[5], tag[6])
                self.known[head] = tag
        elif tag is ANCHOR and "href" in lower:
            tag = ADDRESS
        return tag

    def read(self, part: str, at: int) -> tuple[Tag, str, str, int]:
        """The tag at the start of `part`, what stands in it, the text after it, and the next piece to read.

        `at` is the number of the piece after `part`; it moves on where a comment or a quoted value runs over `<`.
        """
        head, closed, text = part.partition(">")
        sign = head[:1]
        if sign == "!" or sign == "?":
            return self._declaration(part, head, text, at)
        ending = sign == "/"
        found = _NAME.match(head, 1 if ending else 0)
        if found is None:
            if ending:
                return NOTHING, head, text, at
            return _IS_TEXT, "", "<" + part, at
        name = found[0].lower()
        kind = _ACTION.get(name, INLINE)
        if ending:
            if kind in (INLINE, RAW, RULE) or name in VOID:
                tag = NOTHING
            else:
                tag = (kind, False, name, 0, False, SLOTS.get(name, -1), 0)
            if closed:
                self.known[head] = tag
            return tag, head, text, at
        attributes = head[found.end():]
        if '"' in attributes:
            unsure = attributes.count('"') & 1 or "'" in attributes
        else:
            unsure = "'" in attributes and attributes.count("'") & 1
        if unsure:
            quote = _open_quote(attributes)
            if quote:
                head, text, at = self._across(part, quote, at)
                attributes, closed = head[found.end():], ""
        hidden = kind == DROP
        lower = attributes.lower()
        if attributes and not hidden and name not in _NEVER_HIDDEN:
            hidden = ("hidden" in lower or "none" in lower) and name not in VOID and is_hidden(attributes)
        if kind == BLOCK:
            bits = OWN_FLAGS.get(name, 0) | word_flags(lower)
            tag = (kind, True, name, bits, hidden, SLOTS.get(name, -1), _KINDS.get(name, 0))
        elif kind == LINK:
            bits = int(name == "button" or "href" in lower)
            return (kind, True, name, bits, hidden, -1, 0), head, text, at
        elif kind == INLINE and not hidden:
            tag = NOTHING
        else:
            tag = (kind, True, name, 0, hidden, -1, 0)
        if closed:
            self.known[head] = tag
        return tag, head, text, at

    def _declaration(self, part: str, head: str, text: str, at: int) -> tuple[Tag, str, str, int]:
        if not part.startswith("!--"):
            return NOTHING, head, text, at
        if part.startswith(("!-->", "!--->")):
            return NOTHING, head, part.partition(">")[2], at
        end, begin = part.find("-->", 3), at
        while end < 0 and at < self.length:
            part = self.parts[at]
            at += 1
            end = part.find("-->")
        self.steps += at - begin
        return NOTHING, head, part[end + 3:] if end >= 0 else "", at

    def _across(self, part: str, quote: str, at: int) -> tuple[str, str, int]:
        """A tag whose quoted values hold `<` or `>`: what stands in it, the text after it, the next piece to read.

        A quotation mark that never comes again is remembered, so that the rest of the page is searched once for it.
        """
        head, closed, text = part.partition(">")
        pieces = [head]
        while quote:
            rest, begin, gathered = text, at, [closed]
            found = -1 if quote in self._spent else rest.find(quote)
            while found < 0 and quote not in self._spent and at < self.length:
                gathered += [rest, "<"]
                rest = self.parts[at]
                at += 1
                found = rest.find(quote)
            self.steps += at - begin
            if found < 0:
                self._spent.add(quote)
                at = begin
                break
            section, closed, text = rest[found + 1:].partition(">")
            sections = [section]
            while not closed and at < self.length:
                # The value is closed, but `<` comes before `>`: the tag goes on.
                section, closed, text = self.parts[at].partition(">")
                sections += ["<", section]
                at += 1
                self.steps += 1
            pieces += [*gathered, rest[:found + 1], *sections]
            quote = _open_quote("".join(sections))
        return "".join(pieces), text, at

    def skip(self, name: str, at: int) -> tuple[str, int]:
        """The text after the end tag of a raw text element, and the next piece to read; the end of the page ends it."""
        ends, size, parts, length = "/" + name, len(name) + 1, self.parts, self.length
        while at < length:
            part = parts[at]
            at += 1
            if part.startswith("/") and part[:size].lower() == ends and part[size:size + 1] in "> \t\r\n\f/":
                return part.partition(">")[2], at
        return "", at


def _open_quote(attributes: str) -> str:
    """The quotation mark of a value that is still open at the end."""
    for found in _VALUE.finditer(attributes):
        if not found[1] and not found[2]:
            return found[0].lstrip("= \t\r\n\f")[:1]
    return ""


def _plain_tags() -> dict[str, Tag]:
    tags, found = Tags(""), {_LAST[0]: _END}
    for name in sorted(_FORMATTING | VOID | _ACTION.keys()):
        for head in (name, "/" + name, name.upper(), "/" + name.upper()):
            found[head] = tags.read(head + ">", 0)[0]
    return found


_PLAIN.update(_plain_tags())
