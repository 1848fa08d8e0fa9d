"""Papers as LaTeX source, above all those of arXiv."""

from __future__ import annotations

import io
import posixpath
import re
import zlib
from collections.abc import Iterator
from typing import Any, Literal

from gristmill.core.config import config, require
from gristmill.data.documents import Document, Reject
from gristmill.data.formats.archives import WholeFile, whole_files
from gristmill.data.formats.damaged import Damaged
from gristmill.data.formats.latex_text import LatexText, definitions, group, without_comments
from gristmill.data.formats.tar_stream import Tar, is_tar
from gristmill.data.formats.text import Unreadable, decode
from gristmill.data.inputs import Input, Range, list_inputs

KNOWN = {".tex", ".ltx", ".tar", ".tgz", ".zip", ".gz", ""}
SOURCES = (".tex", ".ltx", ".latex", ".sty", ".bbl")
LARGEST_SOURCE = 16 << 20
"""Bytes of one file of a paper, and characters of the paper with all that it includes; the longest have 2 million."""
LARGEST_PAPER = 128 << 20
"""Bytes of a paper with its pictures, packed or unpacked; arXiv takes up to 50 MB."""
MOST_INCLUDES, DEEPEST_INCLUDE = 1000, 20
_INCLUDE = re.compile(r"\\(?:input|include|subfile)\s*(?:\{([^{}]{1,300})\}|\s([\w./-]{1,300}))")
_ARXIV = re.compile(r"(?:^|/)(?:([a-z-]+)(\d{7})|(\d{4}\.\d{4,5}))(?:v\d+)?(?:\.|$)")


@config
class Latex:
    """Papers in LaTeX: .tex files, and .gz, .tar.gz, .zip and .tar of papers as arXiv gives them out, also its bulk
    archives of many. One document a paper, as Markdown-like text; math stays TeX."""

    kind: Literal["latex"] = "latex"
    path: str
    """A file, a folder (read whole, sorted) or a glob, local or a URL."""
    name: str = ""
    """How the source is called in ids and reports; the kind, if empty."""
    math: Literal["tex", "drop"] = "tex"
    """tex: formulas as TeX between dollars, the paper's own macros written out; drop: leave them out."""
    license: str = "unknown"
    """The right to use these papers; their source does not say it."""
    language: str = ""
    """ISO 639-1 code, if all the papers are in one known language; otherwise it is detected."""
    domain: str = ""
    """A label for these documents; `papers`, if empty."""

    def __post_init__(self) -> None:
        require(bool(self.path.strip()), "path", "give a file, a folder or a glob")

    def inputs(self) -> list[Input]:
        """Every file that will be read, sorted by name; a UserError if there is none."""
        return list_inputs(self.path, KNOWN)

    def ranges(self, item: Input, size: int) -> list[Range]:
        """A file is read whole."""
        return [Range(item)]

    def read(self, part: Range, source: str) -> Iterator[Document | Reject]:
        """The paper of a file, or the papers of an archive of them; what cannot be read comes out as a Reject."""
        item = part.input
        own: dict[str, bytes] = {}
        if part.start != 0:
            return
        for file in whole_files(item, _is_paper, LARGEST_PAPER):
            document = self._document(item, source, file)
            if isinstance(file.data, Damaged):
                yield Reject(document, *file.data.said)
            elif not file.inside or file.name.lower().endswith((".gz", ".tar")):
                yield from self._paper(file.data, document, file.name)
            else:
                own[_path(file.name)] = file.data
                if sum(map(len, own.values())) > 4 * LARGEST_SOURCE:
                    yield Reject(document, "too_large", "the files of one paper together; give each paper its archive")
                    own.clear()
        if own:
            yield self._write(own, self._document(item, source, WholeFile(item.name, False, b"")), item.name)

    def _document(self, item: Input, source: str, file: WholeFile) -> Document:
        metadata: dict[str, Any] = {"path": item.name, "license": self.license}
        if match := _ARXIV.search(file.name):
            name = f"{match[1]}/{match[2]}" if match[1] else match[3]
            digits = match[2] or match[3]
            year = int(digits[:2])
            metadata |= {"arxiv": name, "url": f"https://arxiv.org/abs/{name}", "group": f"arxiv-{name}"}
            if 1 <= int(digits[2:4]) <= 12:
                metadata["time"] = f"{1900 + year if year > 90 else 2000 + year}-{digits[2:4]}"
        name = f"{source}/{item.name}{file.ending}"
        metadata.setdefault("group", name)
        return Document(name, "", source, domain=self.domain or "papers", language=self.language or "und",
                        metadata=metadata)

    def _paper(self, data: bytes, document: Document, name: str) -> Iterator[Document | Reject]:
        """A paper that is one file: TeX, or an archive of it, packed or not; the content says which."""
        try:
            data = _unpacked(data)
            if data[257:262] == b"ustar" or is_tar(data):
                archive = Tar(io.BytesIO(data), len(data))
                wanted = {_path(entry.name): held for entry in archive if entry.kind == "file"
                          and _is_source(entry.name) and (held := archive.data(LARGEST_SOURCE))}
            elif len(data) > LARGEST_SOURCE:
                raise Damaged("too_large", f"more than {LARGEST_SOURCE >> 20} MiB in one file")
            else:
                wanted = {"main.tex": data}
        except Damaged as problem:
            yield Reject(document, *problem.said)
            return
        yield self._write(wanted, document, name)

    def _write(self, files: dict[str, bytes], document: Document, name: str) -> Document | Reject:
        texts: dict[str, str] = {}
        for path, data in files.items():
            if data[:4] in (b"%PDF", b"%!PS"):
                return Reject(document, "not_latex", "it is PDF or PostScript, no source")
            try:
                texts[path] = without_comments(decode(data)[0].replace("\r\n", "\n").replace("\r", "\n"))
            except Unreadable as problem:
                if len(files) == 1:
                    return Reject(document, "unreadable_bytes", str(problem))
        main = _main(texts, name)
        if main is None:
            return Reject(document, "no_main_file", f"none of {len(files)} files begins a document")
        try:
            whole = _included(texts, main)
        except Damaged as problem:
            return Reject(document, *problem.said)
        styles = "\n".join(text for path, text in texts.items() if path.endswith(".sty"))
        _, macros = definitions(styles)
        whole, own = definitions(whole)
        writer = LatexText(macros | own, math=self.math == "tex")
        preamble, begun, body = whole.partition("\\begin{document}")
        title = _argument(whole, "title")
        authors = [writer.of(text) for text in _all(whole, "author")]
        text = writer.of(body if begun else preamble)
        found = {"title": " ".join(writer.of(title).split()), "author": "; ".join(
            " ".join(re.sub(r"\s*(?:,|\band\b)\s*$", "", author).split()) for author in authors if author)[:4000]}
        document.metadata.update({key: value for key, value in found.items() if value})
        if not text:
            return Reject(document, "no_text", "nothing is left of its body")
        document.text = f"# {found['title']}\n\n{text}" if found["title"] else text
        return document


def _unpacked(data: bytes) -> bytes:
    """What a gzip holds; other data as they are. Raises Damaged."""
    if data[:2] != b"\x1f\x8b":
        return data
    unpack = zlib.decompressobj(31)
    try:
        out = unpack.decompress(data, LARGEST_PAPER)
    except zlib.error as error:
        raise Damaged("damaged_archive", str(error)) from error
    if unpack.unconsumed_tail:
        raise Damaged("too_large", f"more than {LARGEST_PAPER >> 20} MiB in one paper")
    if not unpack.eof:
        raise Damaged("truncated_archive", "it ends inside its compressed data")
    return out


def _is_source(name: str) -> bool:
    return name.lower().endswith(SOURCES)


def _is_paper(name: str) -> bool:
    """A file of a paper, or a paper in an archive of many."""
    return name.lower().endswith((*SOURCES, ".gz", ".tar"))


def _path(name: str) -> str:
    return posixpath.normpath(name)


def _main(texts: dict[str, str], name: str) -> str | None:
    """The file that begins the document: the likeliest name, then the longest."""
    tex = {path: text for path, text in texts.items() if not path.endswith((".sty", ".bbl"))}
    able = [path for path, text in tex.items() if re.search(r"\\document(?:class|style)", text)]
    whole = [path for path in able if "\\begin{document}" in tex[path]] or able
    if not whole:
        whole = [path for path, text in tex.items() if len(tex) == 1 and re.search(r"\\[a-zA-Z]{2,}", text)]
    stem = posixpath.basename(name).split(".")[0].lower()
    likely = {"main.tex": 3, "ms.tex": 2, "paper.tex": 2, "article.tex": 1, f"{stem}.tex": 2}
    return max(sorted(whole), key=lambda path: (likely.get(posixpath.basename(path).lower(), 0), len(tex[path])),
               default=None)


def _included(texts: dict[str, str], main: str) -> str:
    """The main file with what it includes, looked up among the paper's own files only. Raises Damaged."""
    pieces: list[str] = []
    waiting: list[tuple[str, int, tuple[str, ...]]] = [(texts[main], 0, (main,))]
    size = count = 0
    while waiting:
        text, at, chain = waiting.pop()
        match = _INCLUDE.search(text, at)
        piece = text[at: match.start() if match else len(text)]
        pieces.append(piece)
        size += len(piece)
        if size > LARGEST_SOURCE or count > MOST_INCLUDES:
            raise Damaged("too_large", "its files include each other to more than the limit")
        if match is None:
            continue
        waiting.append((text, match.end(), chain))
        name = _path(posixpath.join(posixpath.dirname(main), (match[1] or match[2]).strip().strip('"')))
        path = next((p for p in (f"{name}.tex", name) if p in texts), None)
        if path is not None and path not in chain and len(chain) < DEEPEST_INCLUDE:
            count += 1
            waiting.append((texts[path], 0, (*chain, path)))
    return "".join(pieces)


def _argument(text: str, name: str) -> str:
    return next(_all(text, name), "")


def _all(text: str, name: str) -> Iterator[str]:
    """The arguments of a command, wherever it stands."""
    for match in re.finditer(rf"\\{name}\b\s*", text):
        at = match.end()
        if (optional := group(text, at, "[]")) is not None:
            at = optional[1]
        if found := group(text, at):
            yield re.sub(r"\s*\\and\b\s*", "; ", re.sub(r"\\thanks\s*\{[^{}]*\}", "", found[0])).replace("\\\\", " ")
