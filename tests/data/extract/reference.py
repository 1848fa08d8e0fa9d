"""Segmentation again, slow and plain: read the page character by character, build its elements, walk over the nodes.

Three steps instead of one pass, with nothing remembered and nothing shared with the fast one but the table of names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import unescape

from gristmill.data.extract.tags import CONTAINERS, DROPPED, HEADINGS, KINDS, RAW_TEXT, VOID

KIND_OF = {name: name for name in KINDS[1:]} | {"td": "cell", "th": "cell", "listing": "pre", "legend": "caption"}
KIND_OF.pop("cell")
TRANSPARENT = {"div", "section", "center", "details", "form", "fieldset"}


@dataclass
class Block:
    text: str
    kind: str
    linked: int
    links: int
    path: tuple[str, ...]


@dataclass
class Token:
    """A start tag, an end tag, or text."""

    kind: str
    name: str = ""
    text: str = ""
    attributes: str = ""


def tokens(html: str) -> list[Token]:
    out: list[Token] = []
    at = 0
    while at < len(html):
        if html[at] != "<":
            end = html.find("<", at)
            end = len(html) if end < 0 else end
            out.append(Token("text", text=html[at:end]))
            at = end
            continue
        following = html[at + 1:at + 2]
        if html.startswith("<!--", at):
            at = _comment_end(html, at)
        elif following in ("!", "?"):
            at = _gap_end(html, at + 1)
        elif following.isascii() and following.isalpha():
            token, at = _tag(html, at + 1)
            out.append(token)
            if token.name in RAW_TEXT:
                at = _raw_end(html, at, token.name)
        elif following == "/":
            after = html[at + 2:at + 3]
            if after.isascii() and after.isalpha():
                name = re.match(r"[^\s/>]*", html[at + 2:])[0].split("<")[0].lower()  # type: ignore[index]
                out.append(Token("end", name))
            at = _gap_end(html, at + 1)
        else:
            end = html.find("<", at + 1)
            end = len(html) if end < 0 else end
            out.append(Token("text", text=html[at:end]))
            at = end
    return out


def _comment_end(html: str, at: int) -> int:
    for short in ("<!-->", "<!--->"):
        if html.startswith(short, at):
            return at + len(short)
    end = html.find("-->", at + 4)
    return len(html) if end < 0 else end + 3


def _gap_end(html: str, at: int) -> int:
    """After the next `>`, but no further than the next `<`: what comes before is no text."""
    closed, opened = html.find(">", at), html.find("<", at)
    if closed >= 0 and (opened < 0 or closed < opened):
        return closed + 1
    return len(html) if opened < 0 else opened


def _tag(html: str, at: int) -> tuple[Token, int]:
    """From the name of a start tag to after its end: the next `>` or, at the latest, before the next `<`.

    Where a quoted value is still open there and its mark comes again, the tag goes on behind that and up to a `>`.
    """
    found = re.compile(r"[^\s/><]*").match(html, at)
    assert found
    start = at = found.end()
    end = _gap_end(html, at)
    attributes = html[start:end].removesuffix(">")
    marks = (attributes.count('"'), attributes.count("'"))
    quote = _open_value(attributes) if marks[0] % 2 or marks[1] % 2 or all(marks) else ""
    while quote:
        close = html.find(quote, end)
        if close < 0:
            break
        end = html.find(">", close + 1)
        end = len(html) if end < 0 else end + 1
        attributes = html[start:end].removesuffix(">")
        quote = _open_value(html[close + 1:end].removesuffix(">"))
    return Token("start", found[0].lower(), attributes=attributes), end


def _open_value(attributes: str) -> str:
    for found in re.finditer(r"=\s*(?:\"[^\"]*(\"?)|'[^']*('?))", attributes):
        if not found[1] and not found[2]:
            return found[0].lstrip("= \t\r\n\f")[0]
    return ""


def _raw_end(html: str, at: int, name: str) -> int:
    for found in re.compile("</" + name + r"(?=[>\s/<]|$)", re.I).finditer(html, at):
        return _gap_end(html, found.end())
    return len(html)


@dataclass
class Element:
    name: str
    hidden: bool = False
    inline: bool = False
    kind: str = ""


@dataclass
class Reader:
    stack: list[Element] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    done: list[Block] = field(default_factory=list)
    inked: bool = False
    linked: int = 0
    links: int = 0
    link: int | None = None  # how many elements were open when the link began

    def hidden(self) -> bool:
        return any(element.hidden for element in self.stack)

    def pre(self) -> int | None:
        return next((at for at, element in enumerate(self.stack) if not element.inline
                     and element.name in ("pre", "listing")), None)

    def flush(self) -> None:
        if self.raw and self.inked:
            raw = unescape("".join(self.raw))
            if self.pre() is not None:
                text = raw.replace("\r\n", "\n").replace("\r", "\n").strip("\n").rstrip()
            elif "\v" in raw:
                text = "\n".join(" ".join(line.split()) for line in raw.split("\v")).strip("\n")
            else:
                text = " ".join(raw.split())
            if text:
                path = tuple(element.name for element in self.stack if not element.inline)
                self.done.append(Block(text, self.kind(), self.linked, self.links, path))
            self.linked, self.links = 0, int(self.link is not None)
            self.inked = False
        self.raw = []

    def kind(self) -> str:
        for element in reversed(self.stack):
            if element.inline or element.name in TRANSPARENT:
                continue
            return KIND_OF.get(element.name, "other")
        return "other"

    def text(self, text: str) -> None:
        if self.hidden():
            return
        if self.pre() is not None:
            self.raw.append(text)
            self.inked = self.inked or not text.isspace()
        elif not text.isspace():
            self.raw.append(text)
            self.inked = True
            self.linked += len(text) if self.link is not None else 0
        elif self.raw:
            self.raw.append(" ")

    def close(self, at: int) -> None:
        del self.stack[at:]
        if self.link is not None and self.link > at:
            self.link = None

    def nearest(self, names: tuple[str, ...], barriers: tuple[str, ...]) -> int | None:
        for at in range(len(self.stack) - 1, -1, -1):
            element = self.stack[at]
            if element.name in names and (not element.inline or names == (element.name,)):
                return at
            if element.name in barriers and not element.inline:
                return None
        return None


LISTS = ("ul", "ol", "menu", "dir")
CELLS = ("td", "th", "caption")


def _open_like(reader: Reader, name: str) -> int | None:
    """Where the element stands that another start or end of this name would close."""
    if name == "li":
        return _block_like(reader, ("li",), (*LISTS, "table"))
    if name in ("dd", "dt"):
        return _block_like(reader, ("dd", "dt"), ("dl", "table"))
    if name in CELLS:
        return _block_like(reader, CELLS, ("tr", "table"))
    if name == "tr":
        return _block_like(reader, ("tr",), ("table",))
    if name == "table":
        return _block_like(reader, ("table",), ())
    return reader.nearest((name,), CELLS)


def _block_like(reader: Reader, names: tuple[str, ...], barriers: tuple[str, ...]) -> int | None:
    for at in range(len(reader.stack) - 1, -1, -1):
        if reader.stack[at].inline:
            continue
        if reader.stack[at].name in names:
            return at
        if reader.stack[at].name in barriers:
            return None
    return None


def blocks(html: str) -> list[Block]:
    reader = Reader()
    for token in tokens(html):
        if token.kind == "text":
            reader.text(token.text)
        elif token.kind == "start":
            _start(reader, token)
        else:
            _end(reader, token.name)
    reader.flush()
    return reader.done


def _start(reader: Reader, token: Token) -> None:
    name = token.name
    if name in RAW_TEXT:
        return
    hidden = name in DROPPED or (name not in VOID | {"body", "html", "main", "article"} and _says_hidden(token))
    if name == "br":
        _break(reader)
    elif name == "hr":
        reader.flush()
    elif name in ("a", "button"):
        if hidden:
            reader.stack.append(Element(name, True, True))
        elif (name == "button" or "href" in token.attributes.lower()) and not reader.hidden():
            reader.link = len(reader.stack) + 1
            reader.links += 1
    elif name in ("code", "kbd", "samp"):
        return
    elif name in CONTAINERS:
        close = None
        if reader.stack and (reader.stack[-1].name == "p" or (
                reader.stack[-1].name in HEADINGS and name in HEADINGS)):
            close = len(reader.stack) - 1
        if name in ("li", "dd", "dt", "tr", *CELLS):
            other = _open_like(reader, name)
            close = close if other is None else other
        pre = reader.pre()
        if pre is not None:
            if reader.raw and not reader.raw[-1].endswith("\n"):
                reader.raw.append("\n")
            if close is not None and close > pre:
                reader.close(close)
            reader.stack.append(Element(name, hidden, True))
            return
        reader.flush()
        if close is not None:
            reader.close(close)
        reader.stack.append(Element(name, hidden))
    elif (hidden or reader.nearest((name,), CELLS) is not None) and name not in VOID:
        reader.stack.append(Element(name, hidden, True))


def _break(reader: Reader) -> None:
    if reader.hidden():
        return
    if reader.pre() is not None:
        reader.raw.append("\n")
    elif reader.raw:
        if reader.raw[-1] == "\v" or reader.raw[-2:] == ["\v", " "]:
            reader.flush()
        else:
            reader.raw.append("\v")


def _end(reader: Reader, name: str) -> None:
    if name in RAW_TEXT or name in VOID or name in ("hr", "code", "kbd", "samp"):
        return
    if name == "br":
        _break(reader)
        return
    at = _open_like(reader, name)
    if name in ("a", "button"):
        reader.link = None
    if name in CONTAINERS:
        pre = reader.pre()
        if pre is not None and at is not None and at > pre:
            if reader.raw and not reader.raw[-1].endswith("\n"):
                reader.raw.append("\n")
        else:
            reader.flush()
    if at is not None:
        reader.close(at)


def _says_hidden(token: Token) -> bool:
    names = {one.lower(): (two or three or four or "").lower() for one, two, three, four in re.findall(
        r"""([^\s=/"'>]+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+)))?""", " " + token.attributes)}
    style = names.get("style", "").replace(" ", "")
    return (("hidden" in names and names["hidden"] != "until-found") or names.get("aria-hidden") == "true"
            or "display:none" in style or "visibility:hidden" in style)
