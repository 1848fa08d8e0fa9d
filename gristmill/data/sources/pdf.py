"""PDF files as text, read in a process of their own. Needs the package `pypdfium2` (BSD-3-Clause, Apache-2.0)."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.data.documents import Document, Reject
from gristmill.data.formats.archives import ARCHIVES, WholeFile, archive_ranges, whole_files
from gristmill.data.formats.damaged import Damaged
from gristmill.data.formats.dates import ymd
from gristmill.data.formats.pdf_text import Line, in_reading_order, running_text, without_running
from gristmill.data.inputs import Input, Range, list_inputs

KNOWN = {".pdf", *ARCHIVES}
LARGEST_PDF = 256 << 20
"""Bytes of a file; it is in memory twice while it is read."""
UNREADABLE_SHARE = 0.2
"""A text with more characters than this without a meaning comes from fonts that do not say what they show."""
_SCRIPT = Path(__file__).parents[1] / "formats" / "pdf_pages.py"


@config
class Pdf:
    """PDF files, also in .zip and .tar archives; one document a file."""

    kind: Literal["pdf"] = "pdf"
    path: str
    """A file, a folder (read whole, sorted) or a glob, local or a URL."""
    name: str = ""
    """How the source is called in ids and reports; the kind, if empty."""
    max_pages: int = 2000
    """Pages of a file that are read; `pages` in its metadata says how many it has."""
    seconds: float = 60.0
    """Seconds of computing for one file; one that takes longer is left out."""
    running_heads: bool = False
    """Keep lines that repeat at the top or bottom of pages, and page numbers."""
    ignore_permissions: bool = False
    """Read files too whose owner forbids taking text out."""
    license: str = "unknown"
    """The right to use these files."""
    language: str = ""
    """ISO 639-1 code, if all the files are in one known language; otherwise it is detected."""
    domain: str = ""
    """A label for these documents; `pdf`, if empty."""

    def __post_init__(self) -> None:
        require(bool(self.path.strip()), "path", "give a file, a folder or a glob")
        require(self.max_pages >= 1, "max_pages", "must be 1 or more")
        require(self.seconds > 0, "seconds", "must be above 0")

    def inputs(self) -> list[Input]:
        """Every file that will be read, sorted by name; a UserError if there is none or pypdfium2 is missing."""
        if importlib.util.find_spec("pypdfium2") is None:
            raise UserError("reading PDF needs the package pypdfium2", where=self.path, fix="pip install pypdfium2")
        return list_inputs(self.path, KNOWN)

    def ranges(self, item: Input, size: int) -> list[Range]:
        """A zip or plain tar is cut at its members; any other file is read whole."""
        return archive_ranges(item, size)

    def read(self, part: Range, source: str) -> Iterator[Document | Reject]:
        """The text of a file, or of each PDF in an archive; what cannot be read comes out as a Reject."""
        item = part.input
        for file in whole_files(item, _is_pdf, LARGEST_PDF, start=part.start, stop=part.stop):
            document = Document(
                f"{source}/{item.name}{file.ending}", "", source, domain=self.domain or "pdf",
                language=self.language or "und", metadata={"path": item.name, "license": self.license},
            )
            yield self._read(file, document)

    def _read(self, file: WholeFile, document: Document) -> Document | Reject:
        document.metadata["group"] = document.id
        if isinstance(file.data, Damaged):
            return Reject(document, *file.data.said)
        if b"%PDF-" not in file.data[:4096]:
            problem = "the file is empty" if not file.data else "it does not begin like a PDF"
            return Reject(document, "damaged_pdf", problem)
        answer = _reader().ask(file.data, self.max_pages, not self.ignore_permissions, self.seconds)
        if "error" in answer:
            return Reject(document, *answer["error"])
        document.metadata.update(_about(answer))
        pages = [[Line(*line) for line in lines] for lines in answer["lines"]]
        if not self.running_heads:
            pages = list(without_running(pages))
        pages = [in_reading_order(lines, width) for lines, width in zip(pages, answer["widths"], strict=True)]
        document.text = running_text(pages)
        if not document.text.strip():
            return Reject(document, "no_text", f"{answer['pages']} pages without text: pictures, which would need OCR")
        strange = sum(c == "\ufffd" or "\ue000" <= c <= "\uf8ff" or c < "\t" for c in document.text)
        if strange > UNREADABLE_SHARE * len(document.text):
            share = strange / len(document.text)
            return Reject(document, "unmapped_fonts", f"{share:.0%} of its characters have no known meaning")
        return document


def _is_pdf(name: str) -> bool:
    return name.lower().endswith(".pdf") and not name.rpartition("/")[2].startswith(".")


def _about(answer: dict[str, Any]) -> dict[str, Any]:
    """title, author, time and the number of pages."""
    about = answer["about"]
    found: dict[str, Any] = {"pages": answer["pages"]}
    if answer["pages"] > len(answer["lines"]):
        found["pages_read"] = len(answer["lines"])
    if answer["broken"]:
        found["broken_pages"] = answer["broken"]
    for ours, theirs in (("title", "Title"), ("author", "Author")):
        if text := " ".join(about.get(theirs, "").split()):
            found[ours] = text
    digits = about.get("CreationDate", "").removeprefix("D:")
    if time := ymd(digits[:4], digits[4:6], digits[6:8]):
        found["time"] = time
    return found


class _Reader:
    """The process that opens files; a new one after it was ended by a file."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.owner, self.lock = os.getpid(), threading.Lock()

    def ask(self, data: bytes, pages: int, permissions: bool, seconds: float) -> dict[str, Any]:
        """The answer of the process; an error if it is ended by time, a crash or by us."""
        task = {"size": len(data), "pages": pages, "permissions": permissions, "seconds": seconds}
        with self.lock:
            process = self._started()
            lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
            threading.Thread(target=_exchange, args=(process, task, data, lines), daemon=True).start()
            try:
                line = lines.get(timeout=20 * seconds + 60)  # waiting for a disk is no computing
            except queue.Empty:
                line = b""
            if line.endswith(b"\n"):
                return dict(json.loads(line))
            timed_out = process.poll() is None
            self.stop()
            code = process.returncode
            if timed_out or code in (-27, -14):  # SIGPROF, SIGALRM
                return {"error": ["time_limit", f"more than {seconds:g} seconds (`seconds` of the source raises it)"]}
            return {"error": ["damaged_pdf", f"the reading process was ended by it (exit code {code})"]}

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                # -P: a file of the user's called json.py must not take the place of Python's
                [sys.executable, "-P", str(_SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )
        return self.process

    def stop(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()


def _exchange(process: subprocess.Popen[bytes], task: dict[str, Any], data: bytes,
              lines: queue.SimpleQueue[bytes]) -> None:
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(json.dumps(task).encode() + b"\n")
        process.stdin.write(data)
        process.stdin.flush()
        line = process.stdout.readline()
    except (OSError, ValueError):
        line = b""
    if not line.endswith(b"\n"):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
    lines.put(line)


_READERS: list[_Reader] = []


def _reader() -> _Reader:
    """The reader of this process; starting one takes as long as a hundred pages."""
    if not _READERS or _READERS[0].owner != os.getpid():
        _READERS[:] = [_Reader()]
        atexit.register(_READERS[0].stop)
    return _READERS[0]
