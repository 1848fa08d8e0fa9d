"""LaTeX as text: macros of the paper expanded, headings as Markdown, math kept as TeX, references as neutral words.

No TeX: a scanner over commands, groups and environments, which knows those that change what is read and drops the names
of the others. Nothing is run, and what macros may grow to is bounded.
"""

from __future__ import annotations

import re
import unicodedata

CITATION, REFERENCE = "[cite]", "[ref]"
"""What stands for a reference to the literature, and to a figure, section or equation."""
MOST_EXPANSIONS = 100_000
LONGEST_EXPANSION = 1 << 16
"""Macros that are expanded in one paper, and characters that one of them may become; what is beyond stays away."""
MOST_TEXT = 32 << 20
"""Characters that are scanned in all, expansions included."""
_VERBATIM = r"verbatim\*?|lstlisting|minted|Verbatim|alltt"
_BEGIN_VERBATIM = re.compile(rf"\\begin\{{({_VERBATIM})\}}")
_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%.*")
_DEFINITION = re.compile(r"\\(?:(?:re|provide)?newcommand|DeclareMathOperator|def|DeclareRobustCommand)\b\*?\s*")
_TOKEN = re.compile(r"\\([a-zA-Z@]+)\*?[ \t]*|\\(.)|([{}$~&#^_])|(``|''|---?)|(\n[ \t]*\n\s*)", re.DOTALL)
_DROPPED_ENVIRONMENTS = {
    "figure", "table", "wrapfigure", "wraptable", "tikzpicture", "tabular", "tabularx", "longtable", "thebibliography",
    "picture", "comment", "algorithm", "algorithmic", "sidewaystable", "sidewaysfigure", "subfigure", "CCSXML",
    "filecontents", "keywords"}
_MATH = {"equation", "align", "eqnarray", "gather", "multline", "displaymath", "math", "flalign", "alignat", "dmath"}
_HEADINGS = {"part": "#", "chapter": "##", "section": "##", "subsection": "###", "subsubsection": "####",
             "paragraph": "#####", "subparagraph": "######"}
_CITES = re.compile(r"(?:no)?[cC]ite|(?:text|paren|auto|foot)cite")
_REFS = {"ref", "eqref", "autoref", "cref", "Cref", "pageref", "vref", "nameref", "subref"}
_SKIP = {"label": 1, "includegraphics": 1, "vspace": 1, "hspace": 1, "bibliographystyle": 1, "bibliography": 1,
         "usepackage": 1, "pagestyle": 1, "thispagestyle": 1, "setlength": 2, "setcounter": 2, "addtocounter": 2,
         "color": 1, "textcolor": 1, "colorbox": 1, "index": 1, "hypersetup": 1, "thanks": 1, "author": 1, "title": 1,
         "date": 1, "affiliation": 1, "address": 1, "email": 1, "institute": 1, "newtheorem": 2, "input": 1,
         "include": 1, "graphicspath": 1, "epsfig": 1, "psfig": 1, "documentclass": 1, "documentstyle": 1, "pacs": 1,
         "resizebox": 2, "scalebox": 1, "rule": 2, "cline": 1, "hskip": 0, "setlist": 1, "newlength": 1, "markboth": 2,
         "addcontentsline": 3, "bibitem": 1, "numberwithin": 2, "theoremstyle": 1, "renewenvironment": 3,
         "newenvironment": 3, "fontsize": 2, "raisebox": 1, "phantom": 1, "hphantom": 1, "vphantom": 1, "affil": 1}
_LITERAL = {"ldots": "...", "dots": "...", "LaTeX": "LaTeX", "TeX": "TeX", "ss": "ß", "ae": "æ", "AE": "Æ", "oe": "œ",
            "OE": "Œ", "aa": "å", "AA": "Å", "o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "i": "ı", "j": "ȷ", "S": "§",
            "P": "¶", "pounds": "£", "copyright": "©", "textendash": "–", "textemdash": "—", "textbackslash": "\\",
            "par": "\n\n", "newline": "\n", "item": "\n- ", "quad": " ", "qquad": " ", "textasciitilde": "~",
            "textquoteright": "’", "guillemotleft": "«", "guillemotright": "»", "textdegree": "°", "euro": "€"}
_ACCENTS = {"'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308", "~": "\u0303", "=": "\u0304", ".": "\u0307",
            "u": "\u0306", "v": "\u030c", "H": "\u030b", "c": "\u0327", "k": "\u0328", "r": "\u030a", "d": "\u0323"}
_QUOTES = {"``": "“", "''": "”", "---": "—", "--": "–"}


def without_comments(text: str) -> str:
    """The source without comments, `\\iffalse` parts and what stands behind `\\end{document}`; verbatim text stays."""
    kept: list[str] = []
    until = ""
    for line in text.split("\n"):
        if not until:
            bare = _COMMENT.sub(r"\1", line) if "%" in line else line
            if bare != line and not bare.strip():
                continue  # a line that is only a comment is no blank line
            line = bare
            if match := _BEGIN_VERBATIM.search(line):
                until = f"\\end{{{match[1]}}}"
        if until and until in line:
            until = ""
        kept.append(line)
    text = "\n".join(kept)
    text = text.partition("\\end{document}")[0]
    pieces, depth, last = [], 0, 0
    for match in re.finditer(r"\\(iffalse|if[a-zA-Z]*|fi)\b", text) if "\\iffalse" in text else ():
        if depth:
            depth += -1 if match[1] == "fi" else 1
            last = match.end() if depth == 0 else last
        elif match[1] == "iffalse":
            pieces.append(text[last: match.start()])
            depth = 1
    return "".join([*pieces, "" if depth else text[last:]])


def group(text: str, at: int, pair: str = "{}") -> tuple[str, int] | None:
    """(inside, end) of the group that begins at a place, white space before it passed by; None if there is none."""
    while at < len(text) and text[at] in " \t\n":
        at += 1
    if text[at: at + 1] != pair[0]:
        return None
    depth, here = 0, at
    for match in re.finditer(r"\\.|[{}\[\]]", text[at: at + LONGEST_EXPANSION], re.DOTALL):
        mark = match[0]
        if mark == "{" or mark == pair[0]:
            depth += 1
        elif mark == "}" or mark == pair[1]:
            depth -= 1
            if depth <= 0:
                here = at + match.end()
                return text[at + 1: here - 1], here
    return None


def definitions(text: str) -> tuple[str, dict[str, tuple[int, str | None, str]]]:
    """The text without the definitions of simple macros, and these: name -> (arguments, default of the first, body)."""
    macros: dict[str, tuple[int, str | None, str]] = {}
    pieces, last = [], 0
    for match in _DEFINITION.finditer(text):
        if match.start() < last:
            continue
        at = match.end()
        named = re.compile(r"\{?\s*\\([a-zA-Z@]+)\s*\}?").match(text, at)
        if not named:
            continue
        at, number, default = named.end(), 0, None
        if match[0].startswith("\\def"):
            given = re.compile(r"((?:#\d)*)\s*(?=\{)").match(text, at)
            if not given:
                continue
            number, at = len(given[1]) // 2, given.end()
        else:
            if count := re.compile(r"\s*\[(\d)\]").match(text, at):
                number, at = int(count[1]), count.end()
                if optional := group(text, at, "[]"):
                    default, at = optional
        body = group(text, at)
        if body is None:
            continue
        inside = f"\\mathrm{{{body[0]}}}" if "Operator" in match[0] else body[0]
        if not re.search(r"\\(?:def|newcommand|csname|expandafter|let)\b", inside):
            macros[named[1]] = (number, default, inside)
        pieces.append(text[last: match.start()])
        last = body[1]
    return "".join([*pieces, text[last:]]), macros


class LatexText:
    """Writes LaTeX as text. math: keep it as TeX. macros: of `definitions`."""

    def __init__(self, macros: dict[str, tuple[int, str | None, str]], *, math: bool) -> None:
        self.macros, self.math = macros, math
        self.expansions, self.scanned = 0, 0

    def of(self, text: str) -> str:
        """The text of a piece of a paper."""
        self.out: list[str] = []
        self.hidden = 0  # inside an environment that is left out
        self.closing: list[tuple[str, int]] = []
        self.waiting: list[tuple[str, int]] = [(text, 0)]
        while self.waiting:
            self._scan()
        joined = "".join(self.out)
        cite = re.escape(CITATION)
        joined = re.sub(rf"{cite}(?:\s*[,;]?\s*{cite})+", CITATION, joined)
        joined = re.sub(r"[ \t]*\n[ \t]*", "\n", re.sub(r"[ \t]{2,}", " ", joined))
        joined = re.sub(r"(?<=[^\n])\n(?=[^\n\-#$])", " ", joined)
        return re.sub(r"\n{3,}", "\n\n", joined).strip()

    def _write(self, text: str) -> None:
        if not self.hidden:
            self.out.append(text)

    def _scan(self) -> None:
        """Go on with the text on top until it ends or another is put on it."""
        text, at = self.waiting.pop()
        while at < len(text):
            match = _TOKEN.search(text, at)
            stop = match.start() if match else len(text)
            self._write(text[at:stop])
            self.scanned += stop - at + 1
            if match is None or self.scanned > MOST_TEXT:
                return
            at = match.end()
            name, symbol, mark, quote, blank = match.groups()
            if name is not None:
                at, pushed = self._command(name, text, at)
                if pushed is not None:
                    self.waiting += [(text, at), (pushed, 0)]
                    return
            elif symbol is not None:
                at = self._symbol(symbol, text, at)
            elif mark == "$":
                at = self._dollar(text, at)
            elif mark == "{":
                self.closing.append(("", self.hidden))
            elif mark == "}":
                if self.closing:
                    end, hidden = self.closing.pop()
                    self._write(end)
                    self.hidden = hidden
            elif mark is not None:
                self._write(" ")
            elif quote is not None:
                self._write(_QUOTES[quote])
            else:
                self._write(blank and "\n\n")

    def _symbol(self, symbol: str, text: str, at: int) -> int:
        if symbol in "([":
            end = text.find("\\)" if symbol == "(" else "\\]", at, at + LONGEST_EXPANSION)
            if end >= 0:
                self._formula(text[at:end], symbol == "[")
                return end + 2
        elif symbol in _ACCENTS:
            return self._accent(symbol, text, at)
        elif symbol == "\\":
            optional = group(text, at, "[]") if text[at: at + 1] == "[" else None
            self._write("\n")
            return optional[1] if optional else at
        else:
            self._write(symbol if symbol in "%&#_${}" else "" if symbol in "-/!)]" else " ")
        return at

    def _accent(self, accent: str, text: str, at: int) -> int:
        match = re.compile(r"\s*(?:\{\s*(\\?[^\W\d_])\s*\}|(\\[ij])\b\s*|([^\W\d_]))").match(text, at)
        if match is None:
            return at
        letter = (match[1] or match[2] or match[3]).lstrip("\\")
        self._write(unicodedata.normalize("NFC", letter + _ACCENTS[accent]))
        return match.end()

    def _dollar(self, text: str, at: int) -> int:
        display = text[at: at + 1] == "$"
        start = at + display
        end = re.compile(r"(?<!\\)\$\$" if display else r"(?<!\\)\$").search(text, start, start + LONGEST_EXPANSION)
        if end is None or (not display and "\n\n" in text[start: end.start()]):
            return start  # a dollar that is never closed
        self._formula(text[start: end.start()], display)
        return end.end()

    def _formula(self, text: str, display: bool) -> None:
        if not self.math:
            self._write(" ")
            return
        text = re.sub(r"\\(?:label\s*\{[^{}]*\}|nonumber\b|notag\b)", "", self._expanded(text))
        text = " ".join(text.split())
        if text:
            self._write(f"\n\n$${text}$$\n\n" if display else f"${text}$")

    def _expanded(self, text: str) -> str:
        """A formula with the paper's macros written out."""
        for _ in range(10):
            pieces, last = [], 0
            for match in re.finditer(r"\\([a-zA-Z@]+)", text):
                if match.start() < last or match[1] not in self.macros:
                    continue
                at, body = self._body(match[1], text, match.end())
                if body is not None:
                    pieces += [text[last: match.start()], body, " " if text[at: at + 1].isalpha() else ""]
                    last = at
            if not last or sum(map(len, pieces)) > LONGEST_EXPANSION:
                break
            text = "".join([*pieces, text[last:]])
        return text

    def _body(self, name: str, text: str, at: int) -> tuple[int, str | None]:
        """Where a macro's arguments end and what it becomes; None beyond the limits."""
        number, default, body = self.macros[name]
        self.expansions += 1
        if self.expansions > MOST_EXPANSIONS:
            return at, None
        arguments: list[str] = []
        if default is not None:
            optional = group(text, at, "[]")
            arguments.append(optional[0] if optional else default)
            at = optional[1] if optional else at
        while len(arguments) < number:
            found = group(text, at)
            if found is None:
                token = re.compile(r"\s*(\\[a-zA-Z]+|\S)").match(text, at)
                if token is None:
                    break
                found = token[1], token.end()
            arguments.append(found[0])
            at = found[1]
        size = len(body) + sum(map(len, arguments)) * max(1, body.count("#"))
        if size > LONGEST_EXPANSION:
            return at, None
        return at, re.sub(r"#(\d)", lambda m: arguments[int(m[1]) - 1] if 0 < int(m[1]) <= len(arguments) else "", body)

    def _command(self, name: str, text: str, at: int) -> tuple[int, str | None]:
        """What a command does; gives where to go on, and the text that stands for it, if any."""
        if name in self.macros:
            at, body = self._body(name, text, at)
            return at, body or ""
        if name in _LITERAL:
            self._write(_LITERAL[name])
            optional = group(text, at, "[]") if name == "item" and text[at: at + 1] == "[" else None
            return (optional[1], f"{optional[0]} ") if optional else (at, None)
        if name in _ACCENTS:
            return self._accent(name, text, at), None
        if name in ("begin", "end"):
            return self._environment(name, text, at), None
        while text[at: at + 1] == "[" and (optional := group(text, at, "[]")):
            at = optional[1]
        if _CITES.match(name) or name in _REFS:
            found = group(text, at)
            self._write("" if name == "nocite" else CITATION if name not in _REFS else REFERENCE)
            return (found[1] if found else at), None
        if name in _HEADINGS or name in ("caption", "footnote", "abstract"):
            if text[at: at + 1] == "{":
                at += 1
                hidden = self.hidden
                self.hidden = 0 if name == "caption" else hidden
                start, end = {"caption": ("\n\n", "\n\n"), "footnote": (" (", ")"), "abstract": (
                    "\n\n## Abstract\n\n", "\n\n")}.get(name, (f"\n\n{_HEADINGS.get(name, '')} ", "\n\n"))
                self._write(start)
                self.closing.append((end, hidden))
            return at, None
        if name in ("url", "href", "path"):
            found = group(text, at)
            if found and name != "href":
                self._write(found[0])
            return (found[1] if found else at), None
        for _ in range(_SKIP.get(name, 0)):
            found = group(text, at)
            at = found[1] if found else at
        if not name.isalpha() or name not in _SKIP:
            self._write("" if text[at: at + 1] in ("{", "") else " " if text[at - 1: at] == " " else "")
        return at, None

    def _environment(self, which: str, text: str, at: int) -> int:
        found = group(text, at)
        if found is None:
            return at
        name, at = found[0].rstrip("*").strip(), found[1]
        if which == "end":
            self._write("\n\n")
            return at
        closing = f"\\end{{{found[0]}}}"
        if name in _MATH:
            end = text.find(closing, at)
            if end >= 0:
                inside = text[at:end]
                single = name in ("equation", "displaymath", "math", "dmath")
                self._formula(inside if single else f"\\begin{{{name}}}{inside}\\end{{{name}}}", name != "math")
                return end + len(closing)
        elif re.fullmatch(_VERBATIM, name):
            end = text.find(closing, at)
            if end >= 0:
                self._write(f"\n\n{text[at:end].strip()}\n\n")
                return end + len(closing)
        elif name in _DROPPED_ENVIRONMENTS:
            end = text.find(closing, at)
            if end >= 0:
                self._captions(text[at:end])
                return end + len(closing)
        elif name == "abstract":
            self._write("\n\n## Abstract\n\n")
        else:
            self._write("\n\n")
        while (optional := group(text, at, "[]")) and text[at: at + 1] == "[":
            at = optional[1]
        return at

    def _captions(self, text: str) -> None:
        for match in re.finditer(r"\\caption\*?\s*", text):
            at = match.end()
            if optional := group(text, at, "[]"):
                at = optional[1]
            if (found := group(text, at)) and "\\caption" not in found[0]:
                inner = LatexText(self.macros, math=self.math)
                inner.expansions = self.expansions
                self._write(f"\n\n{inner.of(found[0])}\n\n")
                self.expansions = inner.expansions
