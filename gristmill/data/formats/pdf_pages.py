"""The process that opens PDF files for the source `pdf`: run as a script of its own, because a hostile file may hang
or crash the library. It reads `{size, pages, permissions, seconds}` and a file from its input, and answers with one
line of JSON, the lines of each page with their boxes or an error, until the input ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import sys
from typing import Any

MEMORY = 4 << 30
"""Bytes of address space of this process."""
MOST_TEXT = 64 << 20
"""Characters of one file; a book of 1,000 pages has 3 million."""
HYPHEN = "\ufffe"
"""What the library writes for a hyphen at the end of a line, without the end of the line."""
_PIECES = re.compile(f"([^\n{HYPHEN}]*)([\n{HYPHEN}]?)")
_LOCKED, _COPY = 4, 1 << 4
_WIDE_GAP = 1.8
"""Times the height of a line: a gap this wide in a line that crosses the page separates two columns."""


def read(data: bytes, pages: int, permissions: bool) -> dict[str, Any]:
    """{"lines": per page [text, x0, y0, x1, y1], "widths", "pages", "about"} of a PDF, or {"error": [reason, detail]}.
    Coordinates are in points, y upwards."""
    import pypdfium2
    import pypdfium2.raw as raw

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == _LOCKED or "password" in str(error).lower():
            return {"error": ["locked", "it needs a password"]}
        return {"error": ["damaged_pdf", str(error)]}
    if permissions and not raw.FPDF_GetDocPermissions(document) & _COPY:
        return {"error": ["copying_forbidden", "its owner forbids it (`ignore_permissions: true` reads it)"]}
    number = len(document)
    about: dict[str, str] = {}
    with contextlib.suppress(Exception):  # a title in a broken encoding
        about = {key: value[:1000] for key, value in document.get_metadata_dict(skip_empty=True).items()}
    result: dict[str, Any] = {"lines": [], "widths": [], "pages": number, "about": about, "broken": 0}
    held = 0
    for index in range(min(number, pages)):
        try:
            page = document[index]
            text_page = page.get_textpage()
            lines = _lines(raw, text_page, page.get_width())
            result["widths"].append(page.get_width())
            text_page.close()
            page.close()
        except (pypdfium2.PdfiumError, ValueError, OverflowError):
            result["broken"] += 1
            result["widths"].append(0.0)
            lines = []
        held += sum(len(line[0]) for line in lines)
        if held > MOST_TEXT:
            return {"error": ["too_large", f"more than {MOST_TEXT >> 20} million characters"]}
        result["lines"].append(lines)
    document.close()
    return result


def _lines(raw: Any, page: Any, width: float) -> list[list[Any]]:
    """The lines of a page in the order in which the file draws them."""
    number = raw.FPDFText_CountChars(page)
    if number <= 0:
        return []
    buffer = (ctypes.c_ushort * (number + 1))()
    written = raw.FPDFText_GetText(page, 0, number, buffer)
    units = bytes(buffer)[: 2 * max(0, written - 1)]
    text = units.decode("utf-16-le", "surrogatepass")
    astral = len(text) * 2 != len(units)  # then places in the text are not those of the buffer
    found = []
    at = 0
    for piece, end in _PIECES.findall(text):
        line = piece.rstrip("\r")
        for start, stop in _parts(raw, page, line, at, width) if not astral else [(0, len(line))]:
            words = line[start:stop].strip()
            if words:
                first = at + start + len(line[start:stop]) - len(line[start:stop].lstrip())
                box = _box(raw, page, first, first + len(words) - 1) if not astral else None
                words += end if end == HYPHEN and stop == len(line) else ""
                found.append([words.encode("utf-8", "replace").decode(), *(box or (0.0, 0.0, 0.0, 0.0))])
        at += len(piece) + 1
    return found


def _parts(raw: Any, page: Any, line: str, at: int, width: float) -> list[tuple[int, int]]:
    """Where to cut a line that runs across two columns."""
    whole = [(0, len(line))]
    if len(line) < 20 or (box := _box(raw, page, at, at + len(line) - 1)) is None or box[2] - box[0] < 0.55 * width:
        return whole
    height = max(box[3] - box[1], 4.0)
    cuts = []
    for place in range(1, len(line) - 1):
        if line[place] == " ":
            before, after = _char(raw, page, at + place - 1), _char(raw, page, at + place + 1)
            if before is None or after is None or after[0] - before[2] <= _WIDE_GAP * height:
                continue
            if 0.35 * width < (before[2] + after[0]) / 2 < 0.65 * width:
                cuts.append(place)
    return [(0, cuts[0]), (cuts[0], len(line))] if len(cuts) == 1 else whole


def _box(raw: Any, page: Any, first: int, last: int) -> tuple[float, float, float, float] | None:
    start, end = _char(raw, page, first), _char(raw, page, last)
    if start is None or end is None:
        return None
    return min(start[0], end[0]), min(start[1], end[1]), max(start[2], end[2]), max(start[3], end[3])


def _char(raw: Any, page: Any, text_index: int) -> tuple[float, float, float, float] | None:
    """(left, bottom, right, top) of a character of the page's text."""
    index = raw.FPDFText_GetCharIndexFromTextIndex(page, text_index)
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    if index < 0 or not raw.FPDFText_GetCharBox(page, index, left, right, bottom, top):
        return None
    return left.value, bottom.value, right.value, top.value


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what the library prints must not be taken for an answer
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while line := sys.stdin.buffer.readline():
        task = json.loads(line)
        data = sys.stdin.buffer.read(task["size"])
        _alarm(task["seconds"])
        try:
            answer = read(data, task["pages"], task["permissions"])
        except MemoryError:
            answer = {"error": ["too_large", f"it needs more than {MEMORY >> 30} GiB of memory"]}
        except Exception as error:  # whatever the library raises is the file's fault
            answer = {"error": ["damaged_pdf", f"{type(error).__name__}: {error}"]}
        _alarm(0)
        answers.write(json.dumps(answer).encode() + b"\n")


def _alarm(seconds: float) -> None:
    """End this process after so many seconds of computing, also inside the library: the same file on a busy machine
    gets the same time. Elsewhere than on POSIX only the clock of the reader counts."""
    with contextlib.suppress(ImportError, AttributeError):
        import signal

        signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main()
