"""What a JATS article says, as text with Markdown headings, and what it says about itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element

from gristmill.data.formats.dates import month, ymd
from gristmill.data.formats.safe_xml import local

CITATION = "[cite]"
"""What stands for a reference to the literature that is only a number."""
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_LICENSE = re.compile(r"creativecommons\.org/(?:licen[sc]es/([a-z-]+)/(\d\.\d)|publicdomain/(zero|mark))",
                      re.IGNORECASE)
_DROPPED = {"ref-list", "supplementary-material", "fn-group", "fn", "media", "graphic", "inline-graphic", "label",
            "object-id", "permissions", "alt-text", "long-desc", "sub-article", "response", "app-group", "glossary"}
_PARAGRAPH = {"p", "disp-quote", "verse-line", "list-item", "def-item", "speech", "statement", "td", "th", "attrib"}
_FORMULAS = {"inline-formula", "disp-formula", "math", "tex-math"}
_CITED = re.compile(rf"(?:[(\[]\s*)?{re.escape(CITATION)}(?:\s*[,;–—-]\s*{re.escape(CITATION)})*(?:\s*[)\]])?")


def about(article: Element) -> dict[str, Any]:
    """title, author, journal, doi, pmcid, pmid, url, time, license, language, article_type, keywords; what is there."""
    found: dict[str, Any] = {}
    front = _or(_first(article, "front"), article)
    meta = _or(_first(front, "article-meta"), front)
    for ours, element in (("title", _first(meta, "article-title")), ("journal", _first(front, "journal-title"))):
        if element is not None and (text := _flat(element)):
            found[ours] = text[:1000]
    authors = [_name(c) for c in _all(meta, "contrib") if c.get("contrib-type", "author") == "author"]
    if any(authors):
        found["author"] = "; ".join(filter(None, authors))[:4000]
    for element in _children(meta, "article-id"):
        kind, value = element.get("pub-id-type", ""), (element.text or "").strip()
        name = {"doi": "doi", "pmc": "pmcid", "pmcid": "pmcid", "pmid": "pmid"}.get(kind)
        if name and value:
            found[name] = f"PMC{value}" if name == "pmcid" and value.isdigit() else value
    if "doi" in found:
        found["url"] = f"https://doi.org/{found['doi']}"
    elif "pmcid" in found:
        found["url"] = f"https://www.ncbi.nlm.nih.gov/pmc/articles/{found['pmcid']}/"
    dates = [_date(element) for element in _children(meta, "pub-date")]
    if any(dates):  # the fullest, of these the first
        found["time"] = min(filter(None, dates), key=lambda text: (-len(text), text))
    if license := _license(meta):
        found["license"] = license
    for name, key in (("language", _LANGUAGE), ("article_type", "article-type")):
        if article.get(key):
            found[name] = article.get(key)
    keywords = [_flat(element) for element in _all(meta, "kwd")]
    if any(keywords):
        found["keywords"] = [word for word in keywords if word][:50]
    return found


class ArticleText:
    """Writes an article as text. tables: with their cells; math: with formulas. `paragraphs` counts what was written
    beside the headings."""

    def __init__(self, *, tables: bool, math: bool) -> None:
        self.tables, self.math, self.paragraphs = tables, math, 0
        self.blocks: list[str] = []

    def of(self, article: Element, *, abstract: bool, body: bool) -> str:
        """The text of an article; raises RecursionError for one that is nested too deep."""
        front = _or(_first(article, "front"), article)
        title = _first(front, "article-title")
        if title is not None:
            self._add(f"# {self._inline(title)}")
        if abstract:
            for element in _all(front, "abstract"):
                if element.get("abstract-type") not in ("graphical", "toc", "teaser"):
                    head = _child(element, "title")
                    self._add(f"## {self._inline(head) if head is not None else 'Abstract'}")
                    self._block(element, 3)
        if body:
            for element in _children(article, "body"):
                self._block(element, 2)
            for back in _children(article, "back"):
                for element in _children(back, "ack"):
                    self._add("## Acknowledgements")
                    self._block(element, 3)
        return "\n\n".join(self.blocks)

    def _add(self, text: str, *, paragraph: bool = False) -> None:
        if text.strip(" #"):
            self.blocks.append(text)
            self.paragraphs += paragraph

    def _block(self, element: Element, level: int) -> None:
        """What is inside an element, as blocks; its own title has been written."""
        for child in element:
            name = local(child.tag)
            if name in _DROPPED or name in ("title", "caption"):
                continue
            if name in ("sec", "app", "boxed-text"):
                head = _child(child, "title")
                if head is None and (caption := _child(child, "caption")) is not None:
                    head = _child(caption, "title")
                if head is not None:
                    self._add(f"{'#' * min(level, 6)} {self._inline(head)}")
                self._block(child, level + 1)
            elif name in ("fig", "fig-group", "table-wrap", "table-wrap-group"):
                self._figure(child, level)
            elif name in ("list", "def-list"):
                items = [f"- {self._inline(entry)}" for entry in child if local(entry.tag) in ("list-item", "def-item")]
                self._add("\n".join(entry for entry in items if entry != "- "), paragraph=True)
            elif name == "p":
                self._paragraph(child, level)
            elif name == "disp-formula":
                self._add(self._formula(child), paragraph=True)
            elif name in ("disp-quote", "verse-group", "speech", "statement", "preformat", "code", "verse-line"):
                text = "".join(child.itertext()) if name in ("preformat", "code") else self._inline(child)
                self._add(text.strip("\n"), paragraph=True)
            else:
                self._block(child, level)

    def _paragraph(self, element: Element, level: int) -> None:
        """A paragraph, and after it the lists, figures and tables that stand inside it."""
        self._add(self._inline(element, skip=("list", "def-list", "fig", "table-wrap", "boxed-text")), paragraph=True)
        inside = Element("inside")
        inside.extend(_outermost(element, ("list", "def-list", "fig", "table-wrap", "boxed-text")))
        if len(inside):
            self._block(inside, level)

    def _figure(self, element: Element, level: int) -> None:
        label = _child(element, "label")
        caption = _child(element, "caption")
        head = _flat(label) if label is not None else ""
        text = self._inline(caption) if caption is not None else ""
        self._add(" ".join(filter(None, (head, text))), paragraph=bool(text))
        for child in element:
            if local(child.tag) in ("fig", "table-wrap"):
                self._figure(child, level)
        if self.tables:
            rows = ["\t".join(self._inline(cell) for cell in row if local(cell.tag) in ("td", "th"))
                    for row in _all(element, "tr")]
            self._add("\n".join(row for row in rows if row.strip()), paragraph=True)

    def _inline(self, element: Element, skip: tuple[str, ...] = ()) -> str:
        pieces: list[str] = []
        self._pieces(element, pieces, skip)
        text = " ".join("".join(pieces).split())
        if CITATION in text or not self.math:
            text = re.sub(r"\s+([.,;:)\]])", r"\1", _CITED.sub(CITATION, text))
        return text

    def _pieces(self, element: Element, pieces: list[str], skip: tuple[str, ...]) -> None:
        pieces.append(element.text or "")
        for child in element:
            name = local(child.tag)
            if name in _FORMULAS:
                pieces.append(self._formula(child))
            elif name == "xref" and child.get("ref-type") == "bibr":
                text = _flat(child)
                pieces.append(text if re.search(r"[^\W\d_]{3}", text) else f" {CITATION} ")
            elif name in ("sup", "sub"):
                inner: list[str] = []
                self._pieces(child, inner, skip)
                text = "".join(inner)
                mark = "" if CITATION in text else "^" if name == "sup" else "_"
                pieces.append(f"{mark}{text.strip()}" if mark and len(text.strip()) < 20 and text.strip() else text)
            elif name not in _DROPPED and name not in skip:
                edge = " " if name in _PARAGRAPH or name in ("title", "break", "caption", "list", "term", "def") else ""
                pieces.append(edge)
                self._pieces(child, pieces, skip)
                pieces.append(edge)
            pieces.append(child.tail or "")

    def _formula(self, element: Element) -> str:
        """A formula as TeX between dollars: as the article gives it in TeX, else its MathML in one line."""
        if not self.math:
            return " "
        mark = "$$" if local(element.tag) == "disp-formula" else "$"
        for entry in element.iter():
            if local(entry.tag) == "tex-math" or "tex" in entry.get("encoding", "").lower():
                text = "".join(entry.itertext())
                if match := re.search(r"\\begin\{document\}(.*)\\end\{document\}", text, re.DOTALL):
                    text = match[1]
                text = " ".join(text.strip().strip("$").split())
                return f"{mark}{text}{mark}" if text else ""
        math = element if local(element.tag) == "math" else _first(element, "math")
        text = " ".join(mathml(math).split()) if math is not None else self._inline(element)
        return f"{mark}{text}{mark}" if text and math is not None else text


def mathml(element: Element) -> str:
    """MathML in one line of TeX-like text: fractions, roots, scripts; what else there is, in order."""
    name = local(element.tag)
    if name in ("annotation", "annotation-xml"):
        return ""
    parts = [mathml(child) for child in element]
    grouped = [part if len(part.strip()) == 1 else f"{{{part.strip()}}}" for part in parts]
    if name == "mfrac" and len(parts) == 2:
        return rf"\frac{{{parts[0].strip()}}}{{{parts[1].strip()}}}"
    if name == "msqrt":
        return rf"\sqrt{{{''.join(parts).strip()}}}"
    if name == "mroot" and len(parts) == 2:
        return rf"\sqrt[{parts[1].strip()}]{{{parts[0].strip()}}}"
    if name in ("msup", "mover") and len(parts) == 2:
        return f"{grouped[0]}^{grouped[1]}"
    if name in ("msub", "munder") and len(parts) == 2:
        return f"{grouped[0]}_{grouped[1]}"
    if name in ("msubsup", "munderover") and len(parts) == 3:
        return f"{grouped[0]}_{grouped[1]}^{grouped[2]}"
    if name == "mfenced":
        inside = element.get("separators", ",")[:1].join(parts)
        return f"{element.get('open', '(')}{inside}{element.get('close', ')')}"
    if name == "mo":
        return f" {(element.text or '').strip()} "
    if name in ("mtr", "mtd"):
        return "".join(parts) + (" & " if name == "mtd" else r" \\ ")
    return (element.text or "").strip() + "".join(parts)


def _license(meta: Element) -> str:
    """A licence by its Creative Commons address as `CC-BY-4.0`, else its kind, address or first words."""
    for element in _all(meta, "license"):
        links = [value for entry in element.iter() for key, value in entry.attrib.items() if local(key) == "href"]
        texts = [entry.text or "" for entry in element.iter() if local(entry.tag) == "license_ref"]
        words = _flat(element)
        for text in (*links, *texts, words):
            if match := _LICENSE.search(text):
                if match[3]:
                    return "CC0-1.0" if match[3].lower() == "zero" else "public domain"
                return f"CC-{match[1].upper()}-{match[2]}"
        known = element.get("license-type") or next(filter(None, (*links, *texts)), "") or words
        if known:
            return known[:200]
    return ""


def _date(element: Element) -> str:
    held = {local(child.tag): (child.text or "").strip() for child in element}
    named = held.get("month", "")
    return ymd(held.get("year"), named if named.isdecimal() else month(named), held.get("day"))


def _name(contrib: Element) -> str:
    name = _first(contrib, "name")
    if name is None:
        group = _first(contrib, "collab")
        return _flat(group)[:200] if group is not None else ""
    held = {local(child.tag): (child.text or "").strip() for child in name}
    return " ".join(filter(None, (held.get("given-names", ""), held.get("surname", ""))))


def _all(element: Element, name: str) -> Iterator[Element]:
    return (child for child in element.iter() if local(child.tag) == name)


def _first(element: Element, name: str) -> Element | None:
    return next(_all(element, name), None)


def _children(element: Element, name: str) -> Iterator[Element]:
    return (child for child in element if local(child.tag) == name)


def _child(element: Element, name: str) -> Element | None:
    return next(_children(element, name), None)


def _outermost(element: Element, names: tuple[str, ...]) -> Iterator[Element]:
    for child in element:
        if local(child.tag) in names:
            yield child
        else:
            yield from _outermost(child, names)


def _or(element: Element | None, other: Element) -> Element:
    return other if element is None else element


def _flat(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())
