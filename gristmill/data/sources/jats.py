"""Journal articles in JATS XML, the form of PubMed Central (ANSI/NISO Z39.96)."""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Iterator
from typing import Literal
from xml.etree.ElementTree import Element

from gristmill.core.config import config, require
from gristmill.data.documents import Document, Reject
from gristmill.data.formats.archives import ARCHIVES, archive_ranges, is_archive, whole_files
from gristmill.data.formats.damaged import Damaged
from gristmill.data.formats.jats_text import ArticleText, about
from gristmill.data.formats.safe_xml import records
from gristmill.data.inputs import DAMAGE, Input, Range, list_inputs, open_input, problem_of

XML = {".xml", ".nxml"}


@config
class Jats:
    """Journal articles in JATS XML: .xml and .nxml, one article or many in a file, also in .tar.gz and .zip archives
    as PubMed Central gives them out. One document an article, as Markdown-like text with its headings."""

    kind: Literal["jats"] = "jats"
    path: str
    """A file, a folder (read whole, sorted) or a glob, local or a URL."""
    name: str = ""
    """How the source is called in ids and reports; the kind, if empty."""
    parts: Literal["all", "abstract", "body"] = "all"
    """all: title, abstract and body; abstract: title and abstract; body: title and body."""
    tables: Literal["captions", "rows"] = "captions"
    """captions: of a table only its label and caption; rows: also its cells, a tab between them."""
    math: Literal["tex", "drop"] = "tex"
    """tex: formulas as TeX, or MathML written in one line; drop: leave them out."""
    license: str = "unknown"
    """The right to use these articles, where the article does not say it."""
    language: str = ""
    """ISO 639-1 code of all the articles; if empty, what the article says, otherwise it is detected."""
    domain: str = ""
    """A label for these documents; the journal, if empty."""

    def __post_init__(self) -> None:
        require(bool(self.path.strip()), "path", "give a file, a folder or a glob")

    def inputs(self) -> list[Input]:
        """Every file that will be read, sorted by name; a UserError if there is none."""
        return list_inputs(self.path, XML | ARCHIVES)

    def ranges(self, item: Input, size: int) -> list[Range]:
        """A zip or plain tar is cut at its members; any other file is read whole."""
        return archive_ranges(item, size)

    def read(self, part: Range, source: str) -> Iterator[Document | Reject]:
        """The articles of a file or archive; one that is broken comes out as a Reject."""
        item = part.input
        if is_archive(item):
            for file in whole_files(item, _is_article, start=part.start, stop=part.stop):
                document = self._document(item, source, file.ending)
                if isinstance(file.data, Damaged):
                    yield Reject(document, *file.data.said)
                else:
                    yield from self._articles(io.BytesIO(_unpacked(file.data)), document, 0, None)
            return
        document = self._document(item, source)
        try:
            with open_input(item) as stream:
                yield from self._articles(stream, document, part.start, part.stop)
        except DAMAGE as error:
            yield Reject(document, *problem_of(error))

    def _document(self, item: Input, source: str, ending: str = "") -> Document:
        return Document(f"{source}/{item.name}{ending}", "", source, domain=self.domain, language=self.language or
                        "und", metadata={"path": item.name, "license": self.license})

    def _articles(self, stream: io.BufferedIOBase | io.BytesIO | object, place: Document, start: int,
                  stop: int | None) -> Iterator[Document | Reject]:
        """The articles of one XML file; the second and later ones have their number in the id."""
        number = 0
        try:
            for article in records(stream, "article"):  # type: ignore[arg-type]
                if number >= start and (stop is None or number < stop):
                    yield self._article(article, _numbered(place, number))
                number += 1
        except Damaged as problem:
            if stop is None or number < stop:
                yield Reject(_numbered(place, number), *problem.said)
            return
        if number == 0 and start == 0:
            yield Reject(place, "no_article", "there is no <article> in this file")

    def _article(self, article: Element, document: Document) -> Document | Reject:
        found = about(article)
        language = str(found.pop("language", ""))
        if language and not self.language:
            document.language = language.split("-")[0].lower()
        document.domain = self.domain or str(found.get("journal", "")) or document.source
        document.metadata.update(found)
        name = found.get("doi") or found.get("pmcid") or found.get("pmid")
        document.metadata["group"] = str(name) if name else document.id
        text = ArticleText(tables=self.tables == "rows", math=self.math == "tex")
        try:
            document.text = text.of(article, abstract=self.parts != "body", body=self.parts != "abstract")
        except RecursionError:
            return Reject(document, "too_deep", "its elements are nested too deep")
        if not text.paragraphs:
            wanted = {"all": "abstract and body", "abstract": "abstract", "body": "body"}[self.parts]
            return Reject(document, "no_text", f"it has no text in its {wanted}")
        return document


def _is_article(name: str) -> bool:
    return re.search(r"\.n?xml(\.gz)?$", name.lower()) is not None and not name.rpartition("/")[2].startswith(".")


def _unpacked(data: bytes) -> bytes:
    """The XML of a member, also of a .xml.gz; what is cut short shows as broken XML."""
    if not data.startswith(b"\x1f\x8b"):
        return data
    held = io.BytesIO()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            while (block := stream.read(1 << 16)) and held.tell() <= 64 << 20:
                held.write(block)
    except DAMAGE:
        pass
    return held.getvalue()


def _numbered(place: Document, number: int) -> Document:
    ending = f"@{number}" if number else ""
    return Document(f"{place.id}{ending}", "", place.source, place.domain, place.language, dict(place.metadata))
