"""Wikitext to plain text: headings, paragraphs, lists and code stay; templates, tables, references and files go.

One pass over the marks with a stack of what is open; nothing recurses and nothing is looked for twice, so time grows
with the length of the page however it is nested or broken. What is never closed is taken as text (as MediaWiki does);
a heading ends everything that is still open, so one forgotten bracket cannot swallow a page.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from html import unescape

from gristmill.data.formats.wiki_templates import DISAMBIGUATION, words

_MARK = re.compile(
    r"(?P<mark>\[\[|\]\]|\{\{|\}\}|\|(?!\}))"
    r"|<(?P<end>/?)(?P<tag>[a-zA-Z][a-zA-Z0-9]*)(?P<attributes>[^<>]*+)>"
    r"|^(?P<heading>=[^\n]*=)[ \t]*$"
    r"|(?P<open>^[ \t:*#]*\{\|)|(?P<close>^[ \t]*\|\}(?!\}))|(?P<bar>\|)"
    r"|(?P<outside>\[(?:(?:https?|ftp|irc|mailto|news):|//)[^\s\]]*+[ \t]*)|(?P<bracket>\])"
    r"|(?P<quotes>'{2,})|(?P<switch>__[A-Z]{3,30}__)",
    re.MULTILINE,
)
_DROP = frozenset([
    "ref", "references", "gallery", "timeline", "score", "imagemap", "hiero", "templatedata", "includeonly",
    "mapframe", "maplink", "graph", "indicator", "inputbox", "categorytree", "style", "script",
    "templatestyles", "table", "section",
])
_CODE = frozenset(["pre", "syntaxhighlight", "source"])
_FORMULA = frozenset(["math", "chem", "ce"])
_LINE = frozenset([
    "br", "hr", "p", "div", "blockquote", "center", "li", "ul", "ol", "dl", "dt", "dd", "tr", "poem", "h1",
    "h2", "h3", "h4", "h5", "h6",
])
_LANGUAGE = re.compile(r"""\blang\s*=\s*["']?([\w+#-]+)""")
_INTERWIKI = re.compile(r"[a-z]{2,3}(?:-[a-z]{2,12})*|simple|commons|species")
_LIST = re.compile(r"[*#:;]+[ \t]*")
_SPACES = re.compile(r"[ \t\xa0]{2,}|\xa0")
_EMPTY = re.compile(r"[ \t]*\([\s,;:–-]{0,20}\)")
_OPENED = re.compile(r"\([,;:\s]{1,20}(?=[^\s,;:])")
_BEFORE_STOP = re.compile(r"(?<=\S)[ \t]+(?=[,.](?:\s|$))")
_HELD = re.compile("\0(\\d+)\0")
_SEPARATOR = object()
NAMESPACES: Mapping[str, int] = {"file": 6, "image": 6, "media": 6, "category": 14}
"""Names of namespaces whose links are no text, that every wiki knows; others are in the dump's header."""


@dataclass(slots=True)
class _Open:
    """Something that was opened: its mark, and its parts so far."""

    mark: str
    parts: list[object] = field(default_factory=list)


def plain_text(wikitext: str, *, namespaces: Mapping[str, int] = NAMESPACES, leave_out: Collection[str] = (),
               marks: bool = True) -> tuple[str, bool]:
    """(text, whether the page says that it is a disambiguation page).

    namespaces: names in lower case of those that hold files and categories. leave_out: headings, in lower case, of the
    sections that are left out. marks: write headings as Markdown does, `## History`; else bare.
    """
    page = _Page(wikitext.replace("\0", "").replace("\1", ""), namespaces)
    text = page.text()
    lines = _sections(text.split("\n"), leave_out)
    out: list[str] = []
    for level, line in lines:
        if level:
            out += ["", f"{'#' * level} {line}" if marks else line, ""]
        else:
            out.append(line)
    joined = re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip()
    return _HELD.sub(lambda match: page.held[int(match[1])], joined).strip(), page.disambiguation


class _Page:
    def __init__(self, source: str, namespaces: Mapping[str, int]) -> None:
        self.source, self.namespaces = _without_comments(source), namespaces
        self.held: list[str] = []
        self.stack = [_Open("")]
        self.open = {"{{": 0, "[[": 0, "{|": 0}
        self.never: set[str] = set()
        """Tags that are not closed any more in the rest of the page."""
        self.disambiguation = False

    def text(self) -> str:
        at, outside, source = 0, 0, self.source
        while match := _MARK.search(source, at):
            if match.start() > at:
                self.stack[-1].parts.append(source[at: match.start()])
            at = match.end()
            kind = match.lastgroup
            if kind == "mark" or kind == "bar":
                self._mark(match[0])
            elif kind == "attributes":
                at = self._tag(match, at)
            elif kind == "heading":
                self._flatten(0, drop=True)
                self.stack[-1].parts.append(self._heading(match["heading"]))
            elif kind == "open":
                self._push("{|")
            elif kind == "close":
                self._close("{|")
            elif kind == "outside":
                outside += 1
            elif kind == "bracket":
                if outside:
                    outside -= 1
                else:
                    self.stack[-1].parts.append("]")
            elif kind == "switch":
                self.disambiguation |= match[0] == "__DISAMBIG__"
        self.stack[-1].parts.append(source[at:])
        self._flatten(0, drop=False)
        return _tidy("".join(str(part) for part in self.stack[0].parts if part is not _SEPARATOR))

    def _mark(self, mark: str) -> None:
        if mark in ("{{", "[["):
            self._push(mark)
        elif mark == "}}":
            self._close("{{")
        elif mark == "]]":
            self._close("[[")
        elif self.stack[-1].mark in ("{{", "[["):
            self.stack[-1].parts.append(_SEPARATOR)
        elif not self.open["{|"]:
            self.stack[-1].parts.append("|")

    def _push(self, mark: str) -> None:
        self.stack.append(_Open(mark))
        self.open[mark] += 1

    def _close(self, mark: str) -> None:
        if not self.open[mark]:
            return
        depth = len(self.stack) - 1
        while self.stack[depth].mark != mark:
            depth -= 1
        self._flatten(depth, drop=False)
        done = self.stack.pop()
        self.open[mark] -= 1
        if mark != "{|":
            arguments = _arguments(done.parts)
            text = self._template(arguments) if mark == "{{" else self._link(arguments)
            if text:
                self.stack[-1].parts.append(text)

    def _flatten(self, depth: int, *, drop: bool) -> None:
        """What is open above `depth` was never closed: it is text, or (`drop`, and tables) nothing."""
        below = self.stack[depth].parts
        for item in self.stack[depth + 1:]:
            self.open[item.mark] -= 1
            if item.mark != "{|" and not (drop and item.mark == "{{"):
                below.extend("|" if part is _SEPARATOR else part for part in item.parts)
        del self.stack[depth + 1:]

    def _tag(self, match: re.Match[str], at: int) -> int:
        """Where to go on after a tag."""
        name, parts = match["tag"].lower(), self.stack[-1].parts
        if match["end"]:
            parts.append("`" if name == "code" else "\n" if name in _LINE and name not in ("li", "br") else "")
            return at
        if match["attributes"].endswith("/"):
            parts.append("\n" if name in ("br", "hr") else "")
            return at
        if name in _DROP or name in _CODE or name in _FORMULA or name == "nowiki":
            end = None if name in self.never else re.compile(rf"</{name}\s*>", re.I).search(self.source, at)
            if end is None:
                self.never.add(name)
                return at
            inside = self.source[at: end.start()]
            if name in _CODE:
                language = _LANGUAGE.search(match["attributes"])
                code = unescape(inside).strip("\n")
                parts.append(f"\n{self._hold(f'```{language[1] if language else str()}{chr(10)}{code}{chr(10)}```')}\n")
            elif name in _FORMULA:
                parts.append(self._hold(f"${' '.join(unescape(inside).split())}$") if inside.strip() else "")
            elif name == "nowiki":
                parts.append(self._hold(unescape(inside)))
            return end.end()
        parts.append("`" if name == "code" else "\n" if name in _LINE else "")
        return at

    def _hold(self, text: str) -> str:
        """Something that nothing after this may change."""
        self.held.append(text)
        return f"\0{len(self.held) - 1}\0"

    def _heading(self, line: str) -> str:
        level = 1
        while level < 6 and level * 2 + 1 < len(line) and line[level] == "=" == line[-level - 1]:
            level += 1
        inside = line[level: -level] if len(line) > 2 * level else ""
        inner = _Page(" " + inside, self.namespaces)  # a line that begins with a blank is no heading
        title = " ".join(_HELD.sub(lambda match: inner.held[int(match[1])], inner.text()).split()).replace("\0", "")
        return f"\n\1{level}{title}\n"

    def _template(self, arguments: list[str]) -> str:
        name = " ".join(arguments[0].replace("_", " ").split()).lower()
        if name.partition(" (")[0] in DISAMBIGUATION or name.endswith("disambiguation"):
            self.disambiguation = True
        given: dict[str, str] = {}
        number = 0
        for argument in arguments[1:]:
            key, equals, value = argument.partition("=")
            if equals and len(key) < 40 and "<" not in key:
                given[key.strip()] = value.strip()
            else:
                number += 1
                given[str(number)] = argument.strip(" \n")
        return words(name, given)

    def _link(self, arguments: list[str]) -> str:
        target = arguments[0].strip()
        shown = "|".join(arguments[1:]).strip()
        plain = target.startswith(":")
        target = target.lstrip(":").strip()
        prefix, colon, _ = target.partition(":")
        prefix = prefix.strip().lower().replace("_", " ")
        if colon and not plain and (prefix in self.namespaces or (not shown and _INTERWIKI.fullmatch(prefix))):
            return ""
        if shown:
            return shown
        return target if plain else target.partition("#")[0] or target.lstrip("#")


def _arguments(parts: list[object]) -> list[str]:
    arguments: list[list[str]] = [[]]
    for part in parts:
        if part is _SEPARATOR:
            arguments.append([])
        else:
            arguments[-1].append(str(part))
    return ["".join(argument) for argument in arguments]


def _without_comments(text: str) -> str:
    parts, at = [], 0
    while (start := text.find("<!--", at)) >= 0:
        parts.append(text[at:start])
        end = text.find("-->", start)
        at = len(text) if end < 0 else end + 3
    return "".join([*parts, text[at:]])


def _tidy(text: str) -> str:
    """Entities as characters, list marks as dashes, and no traces of what was taken out."""
    text = _SPACES.sub(" ", unescape(text))
    text = _OPENED.sub("(", _EMPTY.sub("", text))
    lines = []
    for line in text.split("\n"):
        line = _BEFORE_STOP.sub("", line.strip())
        if match := _LIST.match(line):
            marks, line = match[0].strip(), line[match.end():]
            if line and marks[-1] in "*#":
                line = f"{'  ' * min(len(marks) - 1, 8)}- {line}"
        lines.append(line)
    return "\n".join(lines)


def _sections(lines: list[str], leave_out: Collection[str]) -> list[tuple[int, str]]:
    """(level of a heading or 0, line) without the sections to leave out and those that hold no text."""
    kept: list[tuple[int, str]] = []
    waiting: list[tuple[int, str]] = []
    """Headings that no text has followed yet."""
    without = 0
    for line in lines:
        if not line.startswith("\1"):
            if line and not without:
                kept += waiting
                waiting = []
                kept.append((0, line))
            elif not line and not without and not waiting:
                kept.append((0, ""))
            continue
        level, title = int(line[1]), line[2:].strip()
        if without and level > without:
            continue
        without = level if title.lower() in leave_out else 0
        while waiting and waiting[-1][0] >= level:
            waiting.pop()
        if not without and title:
            waiting.append((level, title))
    return kept
