"""EPUB books: the chapters in the order of the spine as plain text, and what the package says about the book.

EPUB 2 and 3 (W3C EPUB 3.3). Only members of the archive are looked up by the paths in it, so none leads outside.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from dataclasses import dataclass, field
from typing import IO, Any
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from gristmill.data.formats.damaged import Damaged
from gristmill.data.formats.dates import iso_date
from gristmill.data.formats.safe_xml import local, parse_xml
from gristmill.data.formats.text import Unreadable, decode
from gristmill.data.formats.zip_archive import member_data, open_zip

LARGEST_CHAPTER = 16 << 20
"""Bytes of one chapter's XHTML; a whole novel is 1 to 2 MiB."""
LARGEST_BOOK = 128 << 20
"""Bytes of all chapters together, unpacked: a small file that grows beyond it is no book."""
_FONTS_ONLY = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")
"""The two ways of scrambling fonts: such a book can be read."""
_VOID = "area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr"
_SELF_CLOSED = re.compile(rf"<(?!(?:{_VOID})\b)([A-Za-z][\w:.-]*)((?:\s[^<>]*?)?)/>", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"""^\s*<\?xml[^>]*\bencoding\s*=\s*["']([\w.-]+)""")
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")


@dataclass(slots=True)
class Book:
    """What an EPUB holds. missing: parts of the spine that are not there or cannot be read."""

    chapters: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    missing: int = 0


def read_epub(stream: IO[bytes]) -> Book:
    """A book from a stream that can be sought in. Raises Damaged with the reason for what cannot be read: damaged_epub,
    encrypted, archive_bomb, no_text and others."""
    try:
        with open_zip(stream) as archive:
            return _read(_Members(archive))
    except Damaged as problem:
        reason = "damaged_epub" if problem.reason == "damaged_archive" else problem.reason
        raise Damaged(reason, problem.detail) from problem


class _Members:
    """The archive's files by their path, read within one budget."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive, self.budget = archive, LARGEST_BOOK
        self.entries = {entry.filename: entry for entry in reversed(archive.infolist())}
        self.lower = {name.lower(): name for name in self.entries}

    def __contains__(self, path: str) -> bool:
        return path.lower() in self.lower

    def read(self, path: str) -> bytes:
        entry = self.entries.get(path) or self.entries[self.lower[path.lower()]]
        if self.budget <= 0:
            raise Damaged("archive_bomb", f"its chapters have more than {LARGEST_BOOK >> 20} MiB")
        data = member_data(self.archive, entry, LARGEST_CHAPTER)
        self.budget -= len(data)
        return data


def _read(files: _Members) -> Book:
    if "META-INF/encryption.xml" in files:
        _refuse_encrypted(parse_xml(files.read("META-INF/encryption.xml")))
    package = _package_path(files)
    root = parse_xml(files.read(package))
    book = Book(metadata=_metadata(root))
    folder = posixpath.dirname(package)
    manifest: dict[str, tuple[str, str]] = {}
    for entry in root.iter():
        if local(entry.tag) == "item" and entry.get("id") and entry.get("href"):
            path = posixpath.normpath(posixpath.join(folder, unquote(entry.get("href", "").split("#")[0])))
            page = "html" in entry.get("media-type", "xhtml") and "nav" not in entry.get("properties", "").split()
            manifest.setdefault(entry.get("id", ""), (path, "page" if page else ""))
    spine = [entry.get("idref", "") for entry in root.iter() if local(entry.tag) == "itemref"]
    paths: list[str] = []
    for name in spine:
        if name not in manifest or manifest[name][0] not in files:
            book.missing += 1
        elif manifest[name][1] and manifest[name][0] not in paths:
            paths.append(manifest[name][0])
    if not paths:  # a broken spine: the pages of the package in its own order
        paths = [path for path, page in dict.fromkeys(manifest.values()) if page and path in files]
    for path in paths:
        try:
            text = page_text(files.read(path))
        except Damaged as problem:
            if problem.reason in ("archive_bomb", "too_large", "encrypted"):
                raise
            book.missing += 1
            continue
        if text.strip():
            book.chapters.append(text)
    if not book.chapters:
        raise Damaged("no_text", f"{len(paths)} pages without text, {book.missing} missing or damaged")
    return book


def _refuse_encrypted(root: Element) -> None:
    for entry in root.iter():
        if local(entry.tag) == "EncryptionMethod" and entry.get("Algorithm", "") not in _FONTS_ONLY:
            raise Damaged("encrypted", f"protected by {entry.get('Algorithm', 'an unnamed method')}")


def _package_path(files: _Members) -> str:
    """Where the package file is: as the container says, else the first .opf."""
    if "META-INF/container.xml" in files:
        try:
            root = parse_xml(files.read("META-INF/container.xml"))
        except Damaged:
            root = Element("none")
        for entry in root.iter():
            path = posixpath.normpath(unquote(entry.get("full-path", "")))
            if local(entry.tag) == "rootfile" and path in files:
                return path
    for name in files.entries:
        if name.lower().endswith(".opf"):
            return name
    raise Damaged("damaged_epub", "it has no package file (.opf)")


def _metadata(root: Element) -> dict[str, Any]:
    """Dublin Core: title, author, language, license (rights), time (date), publisher, identifier."""
    values: dict[str, list[str]] = {}
    for entry in root.iter():
        if "purl.org/dc" in entry.tag and (text := " ".join("".join(entry.itertext()).split())[:500]):
            values.setdefault(local(entry.tag).lower(), []).append(text)
    found: dict[str, Any] = {}
    for ours, theirs in (("title", "title"), ("license", "rights"), ("publisher", "publisher"),
                         ("identifier", "identifier")):
        if theirs in values:
            found[ours] = values[theirs][0]
    if "creator" in values:
        found["author"] = "; ".join(dict.fromkeys(values["creator"]))
    if "language" in values:
        found["language"] = values["language"][0]
    if time := next(filter(None, map(iso_date, values.get("date", []))), ""):
        found["time"] = time
    return found


def page_text(data: bytes) -> str:
    """All text of an XHTML page. Raises Damaged."""
    match = _XML_ENCODING.match(data[:200])
    try:
        text = data.decode(match[1].decode()) if match else decode(data, html=True)[0]
    except (UnicodeDecodeError, LookupError):
        try:
            text = decode(data, html=True)[0]
        except Unreadable as problem:
            raise Damaged("unreadable_bytes", str(problem)) from problem
    except Unreadable as problem:
        raise Damaged("unreadable_bytes", str(problem)) from problem
    return html_text(_DECLARATION.sub("", text.removeprefix("\ufeff")))


def html_text(text: str) -> str:
    """All text of a page as paragraphs, not only its main content; a page of a book or a mail is all content.

    `<title/>` is allowed in XHTML; an HTML parser takes all that follows for the title.
    """
    from resiliparse.extract.html2text import extract_plain_text

    try:
        return str(extract_plain_text(_SELF_CLOSED.sub(r"<\1\2></\1>", text), main_content=False, alt_texts=False,
                                      preserve_formatting=True))
    except Exception as error:  # the parser's own error types are not stable between its versions
        raise Damaged("unreadable_html", str(error)) from error
