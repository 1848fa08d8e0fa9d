"""What each HTML tag does to the text: starts a block, is dropped with its content, or is part of the line."""

from __future__ import annotations

import re
from collections.abc import Sequence

# What a start tag does. Everything that is not listed is part of the line (b, span, font, unknown names).
INLINE, LINK, BLOCK, BREAK, RULE, RAW, DROP, CODE, TEXT = range(9)

CONTAINERS = frozenset((
    "address", "article", "aside", "blockquote", "caption", "center", "dd", "details", "dialog", "dir", "div", "dl",
    "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header",
    "hgroup", "legend", "li", "main", "menu", "nav", "ol", "p", "pre", "listing", "search", "section", "summary",
    "table", "td", "th", "tr", "ul"))
# Content that a browser shows nowhere, as text up to the end tag of the same name (HTML standard 13.1.2: raw text).
RAW_TEXT = frozenset((
    "script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "noscript", "plaintext"))
# Elements whose children are no running text.
DROPPED = frozenset((
    "svg", "template", "select", "object", "applet", "audio", "video", "canvas", "datalist", "annotation",
    "annotation-xml", "rp", "rt", "meter", "progress", "frameset"))
VOID = frozenset((
    "area", "base", "col", "embed", "frame", "img", "input", "link", "meta", "param", "source", "track", "wbr"))

SLOTS = {"li": 0, "dd": 1, "dt": 1, "td": 2, "th": 2, "caption": 2, "tr": 3, "table": 4}
HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))

# Kinds of block, from the nearest element that says something about the text.
KINDS = ("other", "p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "cell", "pre", "blockquote", "dd", "dt", "figcaption",
         "address", "summary", "caption")
KIND = {name: number for number, name in enumerate(KINDS)} | {"td": 9, "th": 9, "listing": 10, "legend": 17}
PRE = KIND["pre"]

# Words in class, id, role and itemprop, by what they say of the element. A word may stand anywhere in a name
# ("post-content", "sideBar"); very short ones only as a whole word.
WORDS: tuple[tuple[str, str], ...] = (
    ("content", r"content|article|entry|story|post|body|text|main|prose|description"),
    ("comment", r"comment|disqus|respond|replies|reply|discussion"),
    ("navigation", r"nav|menu|breadcrumb|pager|pagin|toolbar|toc|tabs|skip"),
    ("footer", r"foot|bottom|colophon|copyright|legal|imprint|impressum"),
    ("header", r"head|masthead|banner|logo|branding|topbar"),
    ("side", r"side|widget|aside|rail|complement|column"),
    ("related",
     r"relat|recommend|similar|popular|trending|latest|recent|more|teaser|promo|next|prev|also|card|archive"),
    ("share", r"shar|social|follow|facebook|twitter|whatsapp|pinterest"),
    ("advert", r"advert|sponsor|adsense|taboola|outbrain|affiliate|\bads?\b|anzeige|werbung"),
    ("consent", r"cookie|consent|gdpr|privacy|popup|modal|overlay|notice|alert|lightbox"),
    ("meta", r"meta|byline|author|date|time|tag|categor|publish|avatar|bio\b|rating"),
    ("form", r"form|login|subscri|newsletter|signup|search|input|button|btn"),
    ("caption", r"caption|credit|gallery|image|photo|figure|media|slide|thumb"),
    ("code", r"code|highlight|syntax|math|formula"),
)
WORD_FLAGS = {name: 1 << number for number, (name, _) in enumerate(WORDS)}
_BASE = len(WORDS)
TAG_FLAGS = {name: 1 << (_BASE + number) for number, name in enumerate(
    ("article", "main", "aside", "nav", "footer", "header", "form", "figure", "list", "table", "link", "details"))}
FLAGS = (*WORD_FLAGS, *(f"<{name}>" for name in TAG_FLAGS))
OWN_FLAGS = {name: TAG_FLAGS[name] for name in ("article", "main", "aside", "nav", "footer", "header", "form", "figure",
                                                "table", "details")}
OWN_FLAGS |= dict.fromkeys(("ul", "ol", "dl", "menu", "dir"), TAG_FLAGS["list"])
OWN_FLAGS |= {"search": TAG_FLAGS["form"], "dialog": WORD_FLAGS["consent"], "figcaption": WORD_FLAGS["caption"]}



def by_first_letter(patterns: Sequence[str], numbers: Sequence[int] | None = None) -> re.Pattern[str]:
    """One pattern for any of `patterns`, which all begin with a letter or sign of their own; tried by that first.

    With `numbers`, whatever matches of number n ends in a group called `g<n>_...`.
    """
    groups: dict[str, list[str]] = {}
    for at, pattern in enumerate(patterns):
        first, rest = (pattern[:1], pattern[1:]) if pattern[0] != "\\" else (pattern[2:3], "(?<=\\b.)" + pattern[3:])
        name = "" if numbers is None else f"(?P<g{numbers[at]}_{at}>)"
        groups.setdefault(first, []).append(rest + name)
    return re.compile("|".join(f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in groups.items()))


_WORD = by_first_letter([word for _, words in WORDS for word in words.split("|")],
                        [number for number, (_, words) in enumerate(WORDS) for _ in words.split("|")])
_GROUP_FLAGS = {name: 1 << int(name[1:].split("_")[0]) for name in _WORD.groupindex}
_NAMED = re.compile(r"""\b(?:class|id|role|itemprop)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.I)
_HIDDEN = re.compile(r"""\s(?:hidden(?=[\s/=]|$)(?!\s*=\s*["']?until-found)|aria-hidden\s*=\s*["']?true\b"""
                     r"""|style\s*=\s*(?:"[^"]*?|'[^']*?)(?<![\w-])(?:display\s*:\s*none|visibility\s*:\s*hidden))""",
                     re.I)

# Names of classes repeat within a page and between pages; what a name says never changes.
_MEMO: dict[str, int] = {}
_MEMO_SIZE = 20_000


def word_flags(attributes: str) -> int:
    """The bits of `WORD_FLAGS` that the names of an element speak of; `attributes` is the tag after its name."""
    flags = 0
    for one, two, three in _NAMED.findall(attributes):
        for word in (one or two or three).split():
            known = _MEMO.get(word)
            if known is None:
                known = _name_flags(word)
                if len(_MEMO) >= _MEMO_SIZE:
                    _MEMO.clear()
                if len(word) <= 64:
                    _MEMO[word] = known
            flags |= known
    return flags


def forget() -> None:
    """Begin anew with what names say, as a fresh process does."""
    _MEMO.clear()


def _name_flags(word: str) -> int:
    flags = 0
    for found in _WORD.finditer(word.lower()):
        flags |= _GROUP_FLAGS[found.lastgroup or ""]
    return flags


def is_hidden(attributes: str) -> bool:
    """Whether an element says of itself that it is not shown."""
    return _HIDDEN.search(attributes) is not None


# A tag, read: what it does, whether it starts an element, its name, its flags (for a link: has an address), hidden, its
# place in `SLOTS` (-1: none), the kind of the text in it (0: none of its own).
Tag = tuple[int, bool, str, int, bool, int, int]
_IS_TEXT: Tag = (TEXT, False, "", 0, False, -1, 0)
ADDRESS: Tag = (LINK, True, "a", 1, False, -1, 0)
ANCHOR: Tag = (LINK, True, "a", 0, False, -1, 0)
_NAME = re.compile(r"[a-zA-Z][^\s/>]*")
_VALUE = re.compile(r"=\s*(?:\"[^\"]*(\"?)|'[^']*('?))")
# Whole pages hide these until a script has run.
_NEVER_HIDDEN = frozenset(("body", "html", "main", "article"))
_ACTION = {"a": LINK, "button": LINK, "br": BREAK, "hr": RULE, "code": CODE, "kbd": CODE, "samp": CODE}
_ACTION |= dict.fromkeys(CONTAINERS, BLOCK)
_ACTION |= dict.fromkeys(RAW_TEXT, RAW) | dict.fromkeys(DROPPED, DROP)


# A tag that only formats a line. Compared by identity.
NOTHING: Tag = (INLINE, True, "", 0, False, -1, 0)

_FORMATTING = (
    "b", "i", "em", "strong", "span", "font", "u", "s", "small", "sup", "sub", "big", "tt", "cite", "q", "abbr",
    "label", "time", "mark", "ins", "del", "wbr", "img")

# How the most frequent tags with attributes begin, none of which starts a block: links, images, spans, icons.
FREQUENT = frozenset((
    "a hr", "a cl", "a ta", "a id", "a ti", "a re", "img ", "span", "meta", "link", "inpu", "path", "i cl", "font",
    "stro", "time", "labe", "use ", "rect", "circ", "poly"))


def _plain_tags() -> dict[str, Tag]:
    """Tags without attributes, the same in every page."""
    known: dict[str, Tag] = {}
    for name in _FORMATTING:
        known[name] = known["/" + name] = known[name.upper()] = known["/" + name.upper()] = NOTHING
    return known


def inline_tag(head: str) -> Tag:
    """What `NOTHING` leaves out: the name of a tag that formats a line, and whether it starts."""
    found = _NAME.match(head, 1 if head[:1] == "/" else 0)
    name = found[0].lower() if found else ""
    return INLINE, head[:1] != "/" and bool(name) and name not in VOID, name, 0, False, -1, 0


class Tags:
    """The pieces of a page between its `<` signs, and the meaning of the tag that each begins with.

    Tags that are written alike are read once: `known` maps what stands between `<` and `>` to its `Tag`.
    """

    def __init__(self, html: str) -> None:
        self.parts = html.split("<")
        self.known = dict(_PLAIN)
        self.steps = 0
        self._spent: set[str] = set()

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
        if attributes and not hidden and name not in _NEVER_HIDDEN:
            lower = attributes.lower()
            hidden = ("hidden" in lower or "none" in lower) and name not in VOID and is_hidden(attributes)
        if kind == BLOCK:
            bits = OWN_FLAGS.get(name, 0) | word_flags(attributes)
            tag = (kind, True, name, bits, hidden, SLOTS.get(name, -1), KIND.get(name, 0))
        elif kind == LINK:
            bits = int(name == "button" or "href" in attributes.lower())
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
        while end < 0 and at < len(self.parts):
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
            while found < 0 and quote not in self._spent and at < len(self.parts):
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
            while not closed and at < len(self.parts):
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
        ends, size, parts, length = "/" + name, len(name) + 1, self.parts, len(self.parts)
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


_PLAIN = _plain_tags()
