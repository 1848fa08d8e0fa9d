"""Wikipedia and other MediaWiki wikis: XML dumps of their pages, one document a page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal
from urllib.parse import quote
from xml.etree.ElementTree import Element, ParseError, fromstring

from gristmill.core.config import config, require
from gristmill.data.documents import Document, Reject
from gristmill.data.formats.dates import utc_time
from gristmill.data.formats.text import whole_characters
from gristmill.data.formats.wiki_dump import Found, Header, Place, pages, read_header, several_streams
from gristmill.data.formats.wikitext import NAMESPACES, plain_text
from gristmill.data.formats.xml_characters import mended
from gristmill.data.inputs import DAMAGE, Input, Range, cut, list_inputs, open_input, problem_of

_TWO_LETTERS = re.compile(r"[a-z]{2}(?![a-z])")


@config
class Wikipedia:
    """Pages of a MediaWiki dump (`...-pages-articles-multistream.xml.bz2`; .xml as it is, bz2, gzip, xz or zstd)."""

    kind: Literal["wikipedia"] = "wikipedia"
    path: str
    """A dump, a folder of dumps, a glob, or an fsspec URL of one."""
    name: str = ""
    """How the source is called in ids and reports; the kind, if empty."""
    license: str = "CC BY-SA 4.0"
    """The licence of the pages; this one holds for all the Wikipedias."""
    language: str = ""
    """ISO 639-1 code; what the dump says about itself, if empty."""
    domain: str = ""
    """A label for these documents; the name of the wiki's database (`enwiki`), if empty."""
    namespaces: tuple[int, ...] = (0,)
    """Numbers of the namespaces that are read: 0 articles, 4 project pages, 12 help, 14 categories, 100 portals."""
    disambiguation: bool = False
    """Read the pages too that only list what a title may mean (they carry `disambiguation` in their metadata)."""
    headings: Literal["markdown", "plain"] = "markdown"
    """`markdown`: `## History`, and the title as `# Ada Lovelace`; `plain`: the bare words."""
    leave_out: tuple[str, ...] = (
        "References", "External links", "See also", "Further reading", "Notes", "Bibliography", "Sources", "Citations",
        "Footnotes", "Notes and references",
    )
    """Headings of sections that are left out, in any case; for other languages give those of that language."""
    longest_mb: int = 16
    """Longer pages (as XML) are left out; one is in memory at a time, several times. MediaWiki allows 2."""

    def __post_init__(self) -> None:
        require(bool(self.path.strip()), "path", "give a dump, a folder, a glob or a URL")
        require(1 <= self.longest_mb <= 64, "longest_mb", "must be from 1 to 64")
        require(bool(self.namespaces), "namespaces", "give at least one number; 0 is that of articles")

    def inputs(self) -> list[Input]:
        """The dumps; the index files of multistream dumps are not needed and left out."""
        return list_inputs(self.path, {".xml"})

    def ranges(self, item: Input, size: int) -> list[Range]:
        """Byte ranges of a plain file and of a bzip2 file with more than one stream; otherwise the whole."""
        number = max(1, round(item.size / size))
        if not item.name.lower().endswith(".bz2"):
            return cut(item, size)
        try:
            if number > 1:
                with open_input(item, raw=True) as stream:
                    number = number if several_streams(stream) else 1
        except DAMAGE:  # said by reading it
            number = 1
        edges = [item.size * i // number for i in range(number)]
        return [Range(item, start, stop) for start, stop in zip(edges, [*edges[1:], None], strict=True)]

    def read(self, part: Range, source: str) -> Iterator[Document | Reject]:
        """The pages that begin in this part; a Reject for each that is broken, a redirect or not asked for."""
        item, last = part.input, Place(part.start)
        try:
            header = read_header(item)
            if header.reason:
                if not part.start:
                    yield Reject(self._document(item, source, header, None), header.reason, header.problem)
                return
            about = _About(header, self)
            for found in pages(item, part.start, part.stop, self.longest_mb << 20):
                last = found.place
                yield self._page(found, self._document(item, source, header, found.place), about)
        except DAMAGE as error:
            if not part.start or last != Place(part.start):
                document = self._document(item, source, Header(), last if last.offset else None)
                document.id += "!"  # the page at this place may have come out already
                yield Reject(document, *problem_of(error))

    def _document(self, item: Input, source: str, header: Header, place: Place | None) -> Document:
        metadata: dict[str, object] = {"path": item.name, "license": self.license}
        ending = ""
        if place is not None:
            metadata["offset"] = place.offset
            ending = f"@{place.offset}"
            if place.inner:
                metadata["inner"] = place.inner
                ending += f"+{place.inner}"
        code = _TWO_LETTERS.match(header.language.lower())
        return Document(f"{source}/{item.name}{ending}", "", source, domain=self.domain or header.database or source,
                        language=self.language or (code[0] if code else "und"), metadata=metadata)

    def _page(self, found: Found, document: Document, about: _About) -> Document | Reject:
        if found.reason:
            return Reject(document, found.reason, found.detail)
        try:
            page = fromstring(found.xml)  # without a document type, which cannot stand inside, there are no entities
        except ParseError as problem:
            try:
                page = fromstring(mended(found.xml))
                document.metadata["mended"] = True
            except ParseError:
                document.text = found.xml[:2000].decode("utf-8", "replace")
                return Reject(document, "broken_xml", f"the page at byte {_words(found.place)}: {problem}")
        title, number = _text(page, "title"), _text(page, "ns")
        known = {"title": title, "page_id": _text(page, "id"), "url": about.url(title)}
        revision = max(page.iterfind("revision"), key=lambda one: _text(one, "timestamp"), default=Element("revision"))
        known |= {"revision_id": _text(revision, "id"), "time": utc_time(_text(revision, "timestamp"))}
        document.metadata.update((key, value) for key, value in known.items() if value)
        namespace = int(number) if number.lstrip("-").isdecimal() and number.isascii() else 0
        if namespace:
            document.metadata["namespace"] = namespace
        if namespace not in self.namespaces:
            return Reject(document, "namespace", f"{namespace}")
        if (target := page.find("redirect")) is not None:
            return Reject(document, "redirect", f"to {target.get('title', '')}")
        model = _text(revision, "model") or "wikitext"
        if model != "wikitext":
            return Reject(document, "not_wikitext", model)
        text = revision.findtext("text") or ""
        if not text.strip():
            return Reject(document, "no_text", "the page is empty, or its text is not in the dump")
        text, listing = plain_text(text, namespaces=about.namespaces, leave_out=about.leave_out,
                                   marks=self.headings == "markdown")
        if listing or "(disambiguation)" in title:
            document.metadata["disambiguation"] = True
            if not self.disambiguation:
                return Reject(document, "disambiguation", "it lists what its title may mean")
        if not text:
            return Reject(document, "no_text", "nothing but templates, tables and files")
        document.text = whole_characters(f"{'# ' if self.headings == 'markdown' else ''}{title}\n\n{text}")
        return document


class _About:
    """What all the pages of a dump share."""

    def __init__(self, header: Header, source: Wikipedia) -> None:
        inside = {name: key for name, key in header.namespaces.items() if key in (6, 14, -2)}
        self.namespaces = {**NAMESPACES, **inside}
        self.leave_out = frozenset(" ".join(name.lower().split()) for name in source.leave_out)
        self.base = header.base.rpartition("/")[0]

    def url(self, title: str) -> str:
        if not (title and self.base.startswith(("http://", "https://"))):
            return ""
        return f"{self.base}/{quote(title.replace(' ', '_').encode('utf-8', 'replace'), safe=_SAFE)}"


_SAFE = "/:,;@!$()*'~"


def _text(element: Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _words(place: Place) -> str:
    return f"{place.offset}" + (f" (unpacked byte {place.inner} of that stream)" if place.inner else "")
