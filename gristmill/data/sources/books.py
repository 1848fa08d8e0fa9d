"""Books: Project Gutenberg text (alone or in zip and tar archives) and EPUB."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from gristmill.core.config import config, require
from gristmill.data.documents import Document, Reject
from gristmill.data.formats import gutenberg
from gristmill.data.formats.archives import ARCHIVES, archive_ranges, whole_files
from gristmill.data.formats.damaged import Damaged
from gristmill.data.formats.epub import Book, read_epub
from gristmill.data.formats.text import Unreadable, decode
from gristmill.data.inputs import DAMAGE, Input, Range, list_inputs, open_input, problem_of

TEXT = {".txt", ".text"}
KNOWN = {*TEXT, ".epub", *ARCHIVES}


@config
class Books:
    """Books: .txt (also inside .zip and .tar archives) and .epub; one document a book, or one a chapter."""

    kind: Literal["books"] = "books"
    path: str
    """A file, a folder (read whole, sorted) or a glob, local or a URL."""
    name: str = ""
    """How the source is called in ids and reports; the kind, if empty."""
    documents: Literal["book", "chapter"] = "book"
    """What becomes a document. Chapters of one book stay in one split."""
    gutenberg: bool = True
    """Cut what Project Gutenberg put around a book: its header, licence, credits and transcriber's notes."""
    join_lines: bool = False
    """Join hard-wrapped lines to paragraphs; verse and tables stay as they are."""
    license: str = "unknown"
    """The right to use these books, where the book does not say it."""
    language: str = ""
    """ISO 639-1 code of all the books; if empty, what the book says, otherwise it is detected."""
    domain: str = ""
    """A label for these documents; `books`, if empty."""

    def __post_init__(self) -> None:
        require(bool(self.path.strip()), "path", "give a file, a folder or a glob")

    def inputs(self) -> list[Input]:
        """Every file that will be read, sorted by name; a UserError if there is none."""
        return list_inputs(self.path, KNOWN)

    def ranges(self, item: Input, size: int) -> list[Range]:
        """A zip or plain tar is cut at its members; any other file is read whole."""
        return archive_ranges(item, size)

    def read(self, part: Range, source: str) -> Iterator[Document | Reject]:
        """The books of a file, or of an archive of them; what cannot be read comes out as a Reject."""
        item = part.input
        if item.suffix == ".epub" and not item.compressed:
            if part.start == 0:
                yield from self._epub(item, source)
            return
        for file in whole_files(item, _is_text, start=part.start, stop=part.stop):
            document = self._document(item, source, file.ending)
            if file.inside:
                document.metadata["member"] = file.name
            if isinstance(file.data, Damaged):
                yield Reject(document, *file.data.said)
            else:
                yield from self._text(file.data, document)

    def _document(self, item: Input, source: str, ending: str = "") -> Document:
        return Document(f"{source}/{item.name}{ending}", "", source, domain=self.domain or "books",
                        language=self.language or "und", metadata={"path": item.name, "license": self.license})

    def _epub(self, item: Input, source: str) -> Iterator[Document | Reject]:
        document = self._document(item, source)
        try:
            with open_input(item) as stream:
                book = read_epub(stream)
        except Damaged as problem:
            yield Reject(document, *problem.said)
            return
        except DAMAGE as error:
            yield Reject(document, *problem_of(error))
            return
        if book.missing:
            book.metadata["missing_chapters"] = book.missing
        yield from self._book(book, document)

    def _text(self, data: bytes, document: Document) -> Iterator[Document | Reject]:
        try:
            text, encoding = _decode(data)
        except Unreadable as problem:
            document.text = data[:2000].decode("utf-8", "backslashreplace")
            yield Reject(document, "unreadable_bytes", str(problem))
            return
        if encoding != "utf-8":
            document.metadata["encoding"] = encoding
        if not text.strip():
            yield Reject(document, "no_text", "the file is empty" if not data else "nothing but white space")
            return
        yield from self._book(Book([text.replace("\r\n", "\n").replace("\r", "\n")]), document)

    def _book(self, book: Book, document: Document) -> Iterator[Document | Reject]:
        whole = "\n\n".join(book.chapters)
        found: dict[str, Any] = {**book.metadata}
        if self.gutenberg:
            said = gutenberg.header(whole)
            found = {**said, **found, **({"license": said["license"]} if said else {})}
            start, stop, marks = gutenberg.body(whole)
            if marks != "none":
                found["gutenberg_marks"] = marks
            book.chapters = _within(book.chapters, start, stop)
            if book.chapters and (said or marks != "none"):
                if len(book.chapters) == 1:
                    book.chapters = [gutenberg.without_credits(book.chapters[0])]
                else:
                    book.chapters = [text for text in map(gutenberg.without_credits, book.chapters) if text.strip()]
        if self.join_lines:
            book.chapters = [gutenberg.join_lines(text) for text in book.chapters]
        self._describe(document, found)
        text = "\n\n".join(text.strip("\n") for text in book.chapters)
        if not text.strip():
            yield Reject(document, "no_text", "nothing is left between the marks of Project Gutenberg")
        elif self.documents == "book":
            document.text = text
            yield document
        else:
            yield from _chapters(book.chapters, document)

    def _describe(self, document: Document, found: dict[str, Any]) -> None:
        """Take over what the book says about itself."""
        language = str(found.pop("language", ""))
        if language and not self.language:
            code = language.split("-")[0].lower()
            if 2 <= len(code) <= 3:
                document.language = code
            document.metadata["stated_language"] = language
        document.metadata.update(found)
        if "ebook" in found:  # the same book in several forms stays in one split
            document.metadata["group"] = f"gutenberg-{found['ebook']}"
            document.metadata["url"] = f"https://www.gutenberg.org/ebooks/{found['ebook']}"
        else:
            document.metadata["group"] = document.id


def _is_text(name: str) -> bool:
    return name.lower().endswith(tuple(TEXT)) and not name.rpartition("/")[2].startswith(".")


def _decode(data: bytes) -> tuple[str, str]:
    """Text and its encoding; what is not UTF-8 is what the Gutenberg header says, if it says it and that can be."""
    stated = gutenberg.declared_encoding(data)
    if stated and b"\0" not in data[:4096]:
        try:
            return data.decode("utf-8").removeprefix("\ufeff"), "utf-8"
        except UnicodeDecodeError:
            try:
                return data.decode(stated), stated
            except (UnicodeDecodeError, LookupError):
                pass
    return decode(data)


def _within(chapters: list[str], start: int, stop: int) -> list[str]:
    """The chapters as far as they lie in [start, stop) of the text that they make, joined by two newlines."""
    kept, at = [], 0
    for text in chapters:
        piece = text[max(0, start - at): max(0, stop - at)]
        if piece.strip():
            kept.append(piece)
        at += len(text) + 2
    return kept


def _chapters(pieces: list[str], document: Document) -> Iterator[Document]:
    """A document a chapter: the pieces of an EPUB, or what the headings of a text part."""
    if len(pieces) > 1:
        parts = [(text.strip().split("\n", 1)[0][:100], text) for text in pieces]
    else:
        parts = gutenberg.chapters(pieces[0])
    for number, (heading, text) in enumerate(parts, start=1):
        yield Document(f"{document.id}#{number}", text.strip("\n"), document.source, document.domain,
                       document.language, {**document.metadata, "chapter": number, "heading": heading})
