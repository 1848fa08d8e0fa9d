"""RSS 0.9 to 2.0, RSS 1.0 (RDF), Atom, JSON Feed and sitemaps as entries, one at a time.

The XML is read as it comes, in pieces; a document type is refused (so there are no entities to expand and nothing
outside to load), and depth, length of a text and the file's growth by unpacking are bounded. What real feeds get wrong
is mended first: forbidden characters, HTML's entities without a declaration, `&` for itself, a wrong encoding.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.entities import html5
from typing import IO, Any
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from gristmill.data.formats.text import Unreadable, sample_encoding
from gristmill.data.formats.xml_characters import without_forbidden
from gristmill.data.inputs import DAMAGE

LONGEST_TEXT = 16 << 20
"""Characters of one element that are held; an entry with more is left out."""
LONGEST_JSON = 64 << 20
"""Bytes of a JSON feed, which has to be in memory as a whole."""
DEEPEST = 256
"""Elements inside elements; feeds have 10, the XHTML in them 50."""
LONGEST_TOKEN = 32 << 20
"""Bytes of one tag or comment; the parser has to hold it."""
_BLOCK = 1 << 16
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z][\w.-]*)["']""")
_ENTITY = re.compile(r"&(?:(#\d{1,9};|#[xX][0-9a-fA-F]{1,8};|amp;|lt;|gt;|quot;|apos;)|([A-Za-z][A-Za-z0-9]{1,31};))?")
_ROOTS = {"rss": "item", "rdf": "item", "feed": "entry", "urlset": "url", "sitemapindex": "sitemap", "channel": "item"}
_PREFIXES = {"content", "dc", "dcterms", "news", "atom", "atom10", "a10", "rss", "xhtml", "sm"}
"""Prefixes of names that mean what they mean without; `media:title` and the like are something else."""


class BrokenFeed(Exception):
    """The rest of the file cannot be read: a reason in snake_case, and the detail with the position."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(slots=True)
class Entry:
    """An item of a feed or an address of a sitemap.

    place: byte where it begins (of the text as UTF-8), or its number in a JSON feed. form: "rss", "atom", "json",
    "sitemap" or "index". html: is the content HTML? too_long: a text of it was longer than `LONGEST_TEXT`.
    problem: why it is no entry.
    """

    place: int
    form: str
    url: str = ""
    title: str = ""
    time: str = ""
    content: str = ""
    summary: str = ""
    html: bool = True
    number: str = ""
    language: str = ""
    license: str = ""
    feed: str = ""
    authors: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    too_long: bool = False
    problem: str = ""


def feed_entries(stream: IO[bytes], size: int = 0) -> Iterator[Entry]:
    """The entries of a feed or sitemap of any kind. size: its bytes as stored, for the bound on unpacking.

    Raises BrokenFeed where it ends to be readable (the entries before have been given), and what reading raises.
    """
    head = stream.read(1 << 20)
    if not head.strip():
        raise BrokenFeed("empty_file", "it holds nothing")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        yield from _json(stream, head)
        return
    blocks = _mended(_blocks(stream, head, size))
    reader = _Reader()
    try:
        yield from reader.read(blocks)
    except expat.ExpatError as error:
        where = f"line {error.lineno}, column {error.offset}, byte {reader.parser.ErrorByteIndex}"
        raise BrokenFeed("broken_xml", f"{expat.ErrorString(error.code)}: {where}") from error


def _blocks(stream: IO[bytes], head: bytes, size: int) -> Iterator[str]:
    """The file as text: the encoding that it declares if that fits its beginning, or else the one that does."""
    declared = _DECLARED.match(head)
    encoding = declared[1].decode().lower() if declared else "utf-8"
    try:
        if head.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            encoding = sample_encoding(head, whole=False)
        elif head.startswith((b"<\0", b"\0<")):
            encoding = "utf-16-le" if head.startswith(b"<\0") else "utf-16-be"
        codecs.getincrementaldecoder(encoding)().decode(head)
    except (ValueError, LookupError):
        try:
            encoding = sample_encoding(head.replace(b"\0", b""), whole=False)
        except Unreadable as problem:
            raise BrokenFeed("unreadable_bytes", str(problem)) from problem
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    block, total = head, 0
    while block:
        total += len(block)
        if size and total > 64 << 20 and total > 200 * size:
            raise BrokenFeed("zip_bomb", f"{size:,} bytes unpack to more than {total:,}")
        yield decoder.decode(block).removeprefix("\ufeff") if block is head else decoder.decode(block)
        block = stream.read(_BLOCK)
    yield decoder.decode(b"", final=True)


def _mended(blocks: Iterator[str]) -> Iterator[bytes]:
    held = ""
    for block in blocks:
        text = held + block
        cut = text.rfind("&", max(0, len(text) - 40))
        held, text = (text[cut:], text[:cut]) if cut >= 0 else ("", text)
        yield _ENTITY.sub(_entity, without_forbidden(text)).encode("utf-8", "replace")
    yield _ENTITY.sub(_entity, without_forbidden(held)).encode("utf-8", "replace")


def _entity(match: re.Match[str]) -> str:
    if match[1]:
        return match[0]
    name = match[2] or ""
    return escape(html5[name]) if name in html5 else f"&amp;{name}"


class _Reader:
    """Expat's events as entries."""

    def __init__(self) -> None:
        parser = self.parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._doctype
        self.depth = 0
        self.form = self.item = self.prefix = ""
        self.entry: Entry | None = None
        self.entry_depth = 0
        self.ready: list[Entry] = []
        self.texts: list[list[str]] = []
        self.lengths: list[int] = []
        self.markup = 0
        """Depth of the Atom element whose markup is its content."""
        self.kinds: list[dict[str, str]] = []
        self.feed = Entry(0, "")

    def read(self, blocks: Iterator[bytes]) -> Iterator[Entry]:
        fed = 0
        try:
            for block in blocks:
                self.parser.Parse(block, False)
                fed += len(block)
                if fed - max(0, self.parser.CurrentByteIndex) > LONGEST_TOKEN:
                    raise BrokenFeed("too_long", f"a tag or comment of more than {LONGEST_TOKEN:,} bytes")
                yield from self._given()
            self.parser.Parse(b"", True)
        except (expat.ExpatError, BrokenFeed, *DAMAGE):
            yield from self._given()
            raise
        yield from self._given()
        if not self.item:
            raise BrokenFeed("not_a_feed", "no RSS, RDF, Atom or sitemap element in it")

    def _given(self) -> Iterator[Entry]:
        ready, self.ready = self.ready, []
        yield from ready

    def _doctype(self, name: str, *_: object) -> None:
        raise BrokenFeed("xml_dtd", f"it declares a document type ({name[:40]!r}), which is not read for safety")

    def _local(self, name: str) -> str:
        prefix, colon, local = name.rpartition(":")
        if not colon or prefix == self.prefix or prefix.lower() in _PREFIXES:
            return local.lower()
        return name.lower()

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise BrokenFeed("too_deep", f"more than {DEEPEST} elements inside each other, at line "
                                         f"{self.parser.CurrentLineNumber}, byte {self.parser.CurrentByteIndex}")
        if self.markup:
            self._add(f"<{name}{''.join(f' {key}={quoteattr(value)}' for key, value in attributes.items())}>")
            return
        local = name.rpartition(":")[2].lower()
        if not self.item:
            if local not in _ROOTS:
                raise BrokenFeed("not_a_feed", f"its first element is {name[:60]!r}")
            self.item, self.prefix = _ROOTS[local], name.rpartition(":")[0]
            self.form = {"feed": "atom", "urlset": "sitemap", "sitemapindex": "index"}.get(local, "rss")
        local = self._local(name)
        if local == self.item and self.entry is None:
            self.entry, self.entry_depth = Entry(self.parser.CurrentByteIndex, self.form), self.depth
            self.entry.url = attributes.get("rdf:about", "")
        self.texts.append([])
        self.lengths.append(0)
        self.kinds.append(attributes)
        if self.form == "atom" and local in ("content", "summary", "title") and attributes.get("type") == "xhtml":
            self.markup = self.depth
        about = self.entry or self.feed
        if local == "link" and attributes.get("href") and attributes.get("rel", "alternate") == "alternate":
            about.url = about.url or attributes["href"].strip()
        if local == "category" and attributes.get("term"):
            about.categories.append(attributes["term"].strip())
        if attributes.get("xml:lang"):
            about.language = about.language or attributes["xml:lang"]

    def _text(self, data: str) -> None:
        self._add(escape(data) if self.markup else data)

    def _add(self, data: str) -> None:
        if not self.texts:
            return
        self.lengths[-1] += len(data)
        if self.lengths[-1] <= LONGEST_TEXT:
            self.texts[-1].append(data)
        elif self.entry is not None:
            self.entry.too_long = True

    def _end(self, name: str) -> None:
        if self.markup and self.depth > self.markup:
            self._add(f"</{name}>")
            self.depth -= 1
            return
        xhtml, self.markup = bool(self.markup), 0
        text = "".join(self.texts.pop()).strip()
        self.lengths.pop()
        attributes = self.kinds.pop()
        local = self._local(name)
        entry = self.entry
        if entry is None:
            self._channel(local, text)
        elif self.depth == self.entry_depth:
            self._finish(entry)
        elif self.form in ("sitemap", "index"):
            _set_sitemap(entry, local, text)
        else:
            parent = self.kinds[-1] if self.kinds else {}
            _set(entry, local, text, attributes, xhtml, outer=self.depth == self.entry_depth + 1, parent=parent)
        self.depth -= 1

    def _channel(self, local: str, text: str) -> None:
        """What a feed says about itself, before its entries."""
        if local == "title" and self.depth <= 3:
            self.feed.title = self.feed.title or text
        elif local == "language":
            self.feed.language = self.feed.language or text
        elif local in ("copyright", "rights", "license"):
            self.feed.license = self.feed.license or text

    def _finish(self, entry: Entry) -> None:
        entry.feed, entry.language = entry.feed or self.feed.title, entry.language or self.feed.language
        entry.license = entry.license or self.feed.license
        self.entry = None
        self.ready.append(entry)


def _set(entry: Entry, local: str, text: str, attributes: dict[str, str], xhtml: bool, *, outer: bool,
         parent: dict[str, str]) -> None:
    """What an element inside of an RSS or Atom entry says. outer: it is not inside of another one."""
    if not outer:
        if local == "name" and "href" not in parent:  # of an Atom author
            entry.authors.append(text)
        return
    if local in ("encoded", "content") and text and not attributes.get("src"):
        if local == "encoded" or not entry.content:
            entry.content, entry.html = text, attributes.get("type", "html") != "text" or xhtml
            if entry.form == "atom" and not attributes.get("type"):
                entry.html = False  # RFC 4287, 4.1.3.1
    elif local in ("description", "summary", "abstract") and text:
        entry.summary = entry.summary or (text if xhtml or attributes.get("type", "html") != "text" else escape(text))
    elif local == "title":
        entry.title = entry.title or text
    elif local == "link" and text:
        entry.url = text
    elif local in ("guid", "id"):
        entry.number = text
        if not entry.url and local == "guid" and attributes.get("isPermaLink", "true").lower() == "true" \
                and text.startswith(("http://", "https://")):
            entry.url = text
    elif local in ("pubdate", "date", "published", "created", "issued") and text:
        entry.time = text if local in ("pubdate", "published") or not entry.time else entry.time
    elif local in ("updated", "modified") and text:
        entry.time = entry.time or text
    elif local in ("creator", "author") and text:
        entry.authors.append(text)
    elif local in ("category", "subject") and text:
        entry.categories.append(text)
    elif local in ("rights", "license", "copyright") and text:
        entry.license = text
    elif local == "language" and text:
        entry.language = text


def _set_sitemap(entry: Entry, local: str, text: str) -> None:
    if local == "loc" and text:
        entry.url = entry.url or text
    elif local == "publication_date" and text:
        entry.time = text
    elif local == "lastmod" and text:
        entry.time = entry.time or text
    elif local == "title" and text:
        entry.title = text
    elif local in ("keywords", "genres") and text:
        entry.categories += [word.strip() for word in text.split(",") if word.strip()]
    elif local == "language" and text:
        entry.language = text
    elif local == "name" and text:
        entry.feed = text


def _json(stream: IO[bytes], head: bytes) -> Iterator[Entry]:
    data = head + stream.read(LONGEST_JSON + 1 - len(head))
    if len(data) > LONGEST_JSON:
        raise BrokenFeed("too_long", f"a JSON feed of more than {LONGEST_JSON:,} bytes, which would be held as a whole")
    try:
        feed = json.loads(data.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError) as error:
        raise BrokenFeed("broken_json", str(error)) from error
    items = feed.get("items")
    if not isinstance(items, list):
        raise BrokenFeed("not_a_feed", "a JSON object without a list of `items`")
    for number, item in enumerate(items):
        if isinstance(item, dict):
            yield _json_entry(number, item, feed)
        else:
            yield Entry(number, "json", problem=f"item {number} is a {type(item).__name__}, not an object")


def _json_entry(number: int, item: dict[str, Any], feed: dict[str, Any]) -> Entry:
    """An item of JSON Feed 1.0 or 1.1 (jsonfeed.org)."""

    def text(value: Any) -> str:
        return value.strip() if isinstance(value, str) else ""

    entry = Entry(number, "json", text(item.get("url")) or text(item.get("external_url")), text(item.get("title")),
                  text(item.get("date_published")) or text(item.get("date_modified")), number=str(item.get("id", "")))
    entry.html = bool(text(item.get("content_html")))
    entry.content = text(item.get("content_html")) or text(item.get("content_text"))
    entry.summary = text(item.get("summary"))
    entry.language = text(item.get("language")) or text(feed.get("language"))
    entry.feed = text(feed.get("title"))
    people = item.get("authors") or [item.get("author") or feed.get("author")]
    tags = item.get("tags")
    people = people if isinstance(people, list) else []
    entry.authors = [text(one.get("name")) for one in people if isinstance(one, dict)]
    entry.categories = [text(tag) for tag in tags if text(tag)] if isinstance(tags, list) else []
    return entry
