"""Feeds and sitemaps that are there as files: RSS, Atom, JSON Feed and sitemaps, one document an entry with content."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from typing import Literal
from urllib.parse import urlsplit

from gristmill.core.config import config, require
from gristmill.data.documents import Document, Reject
from gristmill.data.formats.dates import utc_time
from gristmill.data.formats.feed_formats import LONGEST_TEXT, BrokenFeed, Entry, feed_entries
from gristmill.data.formats.html_fragment import fragment_text
from gristmill.data.formats.text import whole_characters
from gristmill.data.inputs import DAMAGE, Input, Range, list_inputs, open_input, problem_of

SUFFIXES = {".xml", ".rss", ".atom", ".rdf", ".json", ".feed"}
_TWO_LETTERS = re.compile(r"[a-z]{2}(?![a-z])")
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,500}>")


@config
class Feeds:
    """News and articles from feeds: RSS 0.9 to 2.0, RSS 1.0, Atom, JSON Feed; sitemaps are read for their addresses."""

    kind: Literal["feeds"] = "feeds"
    path: str
    """A file, a folder, a glob such as `feeds/**/*.rss`, or an fsspec URL of one; compressed or not."""
    name: str = ""
    """How the source is called in ids and reports; the kind, if empty."""
    license: str = ""
    """What the data card says about the right to use these texts; what the feed or entry says, if empty."""
    language: str = ""
    """ISO 639-1 code, if all the feeds are in one known language; otherwise what the feed says, or it is detected."""
    domain: str = ""
    """A label for these documents; the host of each entry, if empty."""
    summaries: bool = True
    """Take the summary of an entry that has no other content."""
    titles: bool = True
    """Begin each document with the title."""

    def __post_init__(self) -> None:
        require(bool(self.path.strip()), "path", "give a file, a folder, a glob or a URL")

    def inputs(self) -> list[Input]:
        """The feeds and sitemaps."""
        return list_inputs(self.path, SUFFIXES)

    def ranges(self, item: Input, size: int) -> list[Range]:
        """One: a feed has to be read from its beginning."""
        return [Range(item)]

    def read(self, part: Range, source: str) -> Iterator[Document | Reject]:
        """The entries that begin in this part; a Reject for each without content, and for what is broken."""
        item, last = part.input, 0
        try:
            with open_input(item) as stream:
                try:
                    for entry in feed_entries(stream, item.size if item.compressed else 0):
                        last = entry.place
                        if part.stop is not None and entry.place >= part.stop:
                            return
                        if entry.place >= part.start:
                            yield self._entry(entry, self._document(item, source, entry))
                except BrokenFeed as problem:
                    if last >= part.start:
                        yield Reject(self._end(item, source, last), problem.reason, _after(last, problem.detail))
        except DAMAGE as error:
            if last >= part.start:
                reason, detail = problem_of(error)
                yield Reject(self._end(item, source, last), reason, _after(last, detail))

    def _end(self, item: Input, source: str, last: int) -> Document:
        """What stands for the part of a file that cannot be read."""
        document = self._document(item, source, Entry(last, ""))
        document.id = f"{source}/{item.name}" + (f"@{last}!" if last else "")
        return document

    def _document(self, item: Input, source: str, entry: Entry) -> Document:
        url = whole_characters(entry.url)
        try:
            host = (urlsplit(url).hostname or "").removeprefix("www.")
        except ValueError:
            host = ""
        known = {
            "url": url, "title": _line(entry.title), "time": utc_time(entry.time), "feed": _line(entry.feed),
            "author": ", ".join(dict.fromkeys(_line(name) for name in entry.authors if name.strip())),
            "categories": list(dict.fromkeys(_line(name) for name in entry.categories if name.strip())),
            "entry_id": whole_characters(entry.number),
        }
        metadata: dict[str, object] = {"path": item.name, "offset": entry.place,
                                       "license": self.license or _line(entry.license) or "unknown"}
        metadata |= {key: value for key, value in known.items() if value}
        code = _TWO_LETTERS.match(entry.language.strip().lower())
        return Document(f"{source}/{item.name}@{entry.place}", "", source, domain=self.domain or host or source,
                        language=self.language or (code[0] if code else "und"), metadata=metadata)

    def _entry(self, entry: Entry, document: Document) -> Document | Reject:
        if entry.problem:
            return Reject(document, "broken_record", entry.problem)
        if entry.form == "index":
            return Reject(document, "no_content", "an entry of a sitemap index: it names another sitemap")
        if entry.form == "sitemap":
            return Reject(document, "no_content", "an address of a sitemap: crawl it to have its text")
        if entry.too_long:
            return Reject(document, "too_long", f"an element of more than {LONGEST_TEXT:,} characters")
        content = fragment_text(entry.content) if entry.html else whole_characters(entry.content)
        if not content and self.summaries and entry.summary:
            content = fragment_text(entry.summary)
            document.metadata["content"] = "summary"
        if not content.strip():
            return Reject(document, "no_content", "it has a summary only, and `summaries` is off" if entry.summary else
                          "it has neither content nor summary")
        title = document.metadata.get("title", "")
        document.text = whole_characters(f"# {title}\n\n{content}" if title and self.titles else content)
        return document


def _line(text: str) -> str:
    """A title as plain text on one line; feeds write HTML into it."""
    return whole_characters(" ".join(_TAG.sub("", unescape(text)).split()))[:1000]


def _after(last: int, detail: str) -> str:
    return f"{detail}; the rest of the file, after the entry at {last}, is not read" if last else detail
