"""Pieces of HTML that are content as a whole (posts, feed entries) to Markdown-like text: nothing is judged away.

One pass over the tags, nothing recurses: time grows with the length however deep elements are nested.
"""

from __future__ import annotations

import re
from html import unescape

_TAG = re.compile(r"<!--|<(?P<end>/?)(?P<name>[a-zA-Z][a-zA-Z0-9]*)"
                  r"(?P<rest>(?:[^<>\"']|\"[^\"<]*+\"|'[^'<]*+'|[\"'])*+)>")
_BLANKS = re.compile(r"[ \t\r\n\f\xa0]+")
_DROP = frozenset(["script", "style", "template", "iframe", "object", "svg", "noscript", "head", "title", "textarea"])
_BLOCK = frozenset(["p", "div", "section", "article", "table", "tr", "figure", "figcaption", "details", "summary", "dl",
                    "dt", "dd", "form", "header", "footer", "aside", "main", "hr", "center", "address", "caption"])
_INLINE = frozenset(["a", "b", "i", "em", "strong", "span", "img", "sub", "sup", "kbd", "small", "s", "del", "u"])
_CODE_LANGUAGE = re.compile(r"\blang(?:uage)?-([\w+#-]+)")
_DEEPEST = 8
"""Levels of lists and quotes that are shown; deeper ones look like this one."""


def fragment_text(html: str) -> str:
    """Paragraphs apart by blank lines, `- ` lists, `> ` quotes, ``` code with its white space, headings with `#`."""
    if "<" not in html:
        return _BLANKS.sub(" ", unescape(html)).strip()
    return _Fragment(html).text()


class _Fragment:
    def __init__(self, html: str) -> None:
        self.html = html
        self.out: list[str] = []
        self.line: list[str] = []
        self.lists: list[int] = []
        """For each open list the number of its next item; -1: not numbered."""
        self.quotes = 0
        self.bullet = ""
        self.code: list[str] | None = None
        self.language = ""

    def text(self) -> str:
        html, at = self.html, 0
        never: set[str] = set()
        while match := _TAG.search(html, at):
            self._text(html[at: match.start()])
            at = match.end()
            name = (match["name"] or "").lower()
            if not name:
                end = html.find("-->", at)
                at = len(html) if end < 0 else end + 3
            elif name in _DROP:
                if not match["end"] and not match["rest"].endswith("/") and name not in never:
                    close = re.compile(rf"</{name}\s*>", re.I).search(html, at)
                    if close:
                        at = close.end()
                    else:
                        never.add(name)
            else:
                self._tag(name, bool(match["end"]), match["rest"])
        self._text(html[at:])
        self._end_code()
        self._flush()
        return re.sub(r"\n{3,}", "\n\n", "\n".join(self.out)).strip("\n")

    def _text(self, raw: str) -> None:
        if not raw:
            return
        if self.code is not None:
            self.code.append(unescape(raw) if "&" in raw else raw)
        else:
            self.line.append(unescape(raw) if "&" in raw else raw)

    def _tag(self, name: str, end: bool, rest: str) -> None:
        if self.code is not None:
            if name == "pre" and end:
                self._end_code()
            elif name == "br":
                self.code.append("\n")
            elif name == "code" and not end and (found := _CODE_LANGUAGE.search(rest)):
                self.language = found[1]
        elif name in _INLINE:
            return
        elif name == "br":
            self._flush(blank=False)
        elif name == "pre" and not end:
            self._flush()
            found = _CODE_LANGUAGE.search(rest)
            self.code, self.language = [], found[1] if found else ""
        elif name == "code":
            self.line.append("`")
        elif name in ("ul", "ol", "menu"):
            self._flush(blank=not self.lists)
            if not end:
                self.lists.append(1 if name == "ol" else -1)
            elif self.lists:
                self.lists.pop()
            if not self.lists:
                self.out.append("")
        elif name == "li":
            self._flush(blank=False)
            if not end:
                number = self.lists[-1] if self.lists else -1
                self.bullet = f"{number}. " if number > 0 else "- "
                if number > 0:
                    self.lists[-1] += 1
        elif name == "blockquote":
            self._flush()
            self.quotes = max(0, self.quotes + (-1 if end else 1))
            if end and not self.quotes and self.out and self.out[-1] == ">":
                self.out[-1] = ""
        elif len(name) == 2 and name[0] == "h" and name[1] in "123456":
            self._flush()
            if not end:
                self.line.append("#" * int(name[1]) + " ")
        elif name in ("td", "th"):
            self.line.append(" " if end else "")
        elif name in _BLOCK:
            self._flush(blank=not self.bullet)

    def _margin(self) -> str:
        return "> " * min(self.quotes, _DEEPEST) + "  " * min(max(0, len(self.lists) - 1), _DEEPEST)

    def _flush(self, *, blank: bool = True) -> None:
        """End the line; blank: and the paragraph."""
        line = _BLANKS.sub(" ", "".join(self.line)).strip()
        self.line = []
        if line and line.strip("#"):
            self.out.append(f"{self._margin()}{self.bullet}{line}")
            self.bullet = ""
        if blank and not self.lists and self.out and self.out[-1] not in ("", ">"):
            self.out.append(">" if self.quotes else "")

    def _end_code(self) -> None:
        if self.code is None:
            return
        code, self.code = "".join(self.code).replace("\r", "").strip("\n"), None
        if code.strip():
            margin = self._margin() + "  " * bool(self.lists)
            lines = [margin + line for line in (f"```{self.language}", *code.split("\n"), "```")]
            if self.bullet:
                lines[0], self.bullet = f"{self._margin()}{self.bullet}```{self.language}", ""
            self.out += lines
            self.out.append("")
