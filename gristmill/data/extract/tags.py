"""What each HTML tag does to the text: starts a block, is dropped with its content, or is part of the line."""

from __future__ import annotations

import re
from collections.abc import Sequence

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



def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    """One pattern for any of `words`, tried by their first two letters; `\\b` may stand at their ends."""
    groups: dict[str, dict[str, list[str]]] = {}
    for word in words:
        letters = word.removeprefix("\\b")
        alone = f"(?<=\\b{letters[:2]})" if letters != word else ""
        groups.setdefault(letters[0], {}).setdefault(letters[1], []).append(alone + letters[2:])
    return re.compile("|".join(
        f"{first}(?:{'|'.join(f'{second}(?:{chr(124).join(rest)})' for second, rest in seconds.items())})"
        for first, seconds in groups.items()))


_SPELLED = [(spelled, WORD_FLAGS[name]) for name, words in WORDS for word in words.split("|")
            for spelled in ([word] if "?" not in word else [word.replace("s?", "s"), word.replace("s?", "")])]
_find_words = _any_of([word for word, _ in _SPELLED]).findall
_SAYS = {word.replace("\\b", ""): flag for word, flag in _SPELLED}
_NAMED = re.compile(r"""(?:class(?<!\wclass)|id(?<!\wid)|role(?<!\wrole)|itemprop(?<!\witemprop))"""
                    r"""\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)""")
_HIDDEN = re.compile(r"""\s(?:hidden(?=[\s/=]|$)(?!\s*=\s*["']?until-found)|aria-hidden\s*=\s*["']?true\b"""
                     r"""|style\s*=\s*(?:"[^"]*?|'[^']*?)(?<![\w-])(?:display\s*:\s*none|visibility\s*:\s*hidden))""",
                     re.I)

# Names of classes repeat within a page and between pages; what a name says never changes.
_MEMO: dict[str, int] = {}
_MEMO_SIZE = 20_000
_LONGEST = 64
_DIGITS = "0123456789"


def word_flags(attributes: str) -> int:
    """The bits of `WORD_FLAGS` that the names of an element speak of; `attributes`: the tag in lower case."""
    flags = 0
    for value in _NAMED.findall(attributes):
        known = _MEMO.get(value)
        flags |= _value_flags(value) if known is None else known
    return flags


def _value_flags(value: str) -> int:
    flags = 0
    # The words that names are made of repeat even more: names not seen before are mostly made of known ones.
    for word in value.strip("\"'").replace("-", " ").split():
        known = _MEMO.get(word)
        if known is None:
            # Numbered names ("item1234") say the same whatever their number.
            stem = word.rstrip(_DIGITS)
            name = stem + "0" if len(stem) < len(word) else word
            known = _MEMO.get(name)
            if known is None:
                known = 0
                for found in _find_words(name):
                    known |= _SAYS[found]
                _remember(name, known)
        flags |= known
    _remember(value, flags)
    return flags


def _remember(name: str, flags: int) -> None:
    if len(name) <= _LONGEST:
        if len(_MEMO) >= _MEMO_SIZE:
            _MEMO.clear()
        _MEMO[name] = flags


def forget() -> None:
    """Begin anew with what names say, as a fresh process does."""
    _MEMO.clear()


def is_hidden(attributes: str) -> bool:
    """Whether an element says of itself that it is not shown."""
    return _HIDDEN.search(attributes) is not None
