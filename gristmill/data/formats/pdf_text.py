"""The lines of PDF pages as running text: columns in reading order, heads and feet of pages removed, words that were
hyphenated at a line's end joined, lines joined to paragraphs. Pure functions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

EDGE = 3
"""Lines at the top and at the bottom of a page that may be a running head or foot."""
_HYPHENS = ("-", "\u00ad", "\u2010", "\ufffe", "\x02")
_DIGITS = re.compile(r"\d+")
_ROMAN = re.compile(r"^[ivxlc]{1,7}$")
_COMPOUND = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)+")
_WORD_END = re.compile(r"[^\W\d_]{2,}$")
_WORD_START = re.compile(r"^([^\W\d_]+)")


class Line(NamedTuple):
    """A line and its box in points, y upwards; a box without width says that it is not known."""

    text: str
    x0: float
    y0: float
    x1: float
    y1: float


Page = Sequence[Line]


def in_reading_order(lines: Page, width: float) -> list[Line]:
    """The lines of a page, left column before right one where there are two.

    Two columns are there if at least a third of the lines lies left of a gutter near the middle, a third right of it,
    and at most a fifth crosses it. Lines that cross it part the page; above and below each is read by itself. The
    order of the file stays on other pages: programs that make PDFs mostly write in reading order.
    """
    known = [line for line in lines if line.x1 > line.x0]
    if len(known) < 8 or len(known) < len(lines):
        return list(lines)
    for share in (0.5, 0.48, 0.52, 0.46, 0.54, 0.44, 0.56):
        gutter = share * width
        left = sum(line.x1 <= gutter for line in known)
        right = sum(line.x0 >= gutter for line in known)
        if min(left, right) * 3 >= len(known) and (len(known) - left - right) * 5 <= len(known):
            break
    else:
        return list(lines)
    ordered: list[Line] = []
    columns: tuple[list[Line], list[Line]] = ([], [])
    for line in sorted(known, key=lambda line: -line.y1):
        if line.x1 <= gutter:
            columns[0].append(line)
        elif line.x0 >= gutter:
            columns[1].append(line)
        else:
            ordered += [*columns[0], *columns[1], line]
            columns = ([], [])
    return [*ordered, *columns[0], *columns[1]]


def without_running(pages: Sequence[Page]) -> list[list[Line]]:
    """The pages without lines that stand at the top or bottom of at least three pages, with nothing but such lines
    between them and the edge; numbers in them are not compared, so page numbers go too."""
    counts: Counter[tuple[str, str]] = Counter()
    for page in pages:
        counts.update({pattern for edge in _edges(page) for _, pattern in edge})
    kept = []
    for page in pages:
        gone = set()
        for edge in _edges(page):
            for number, pattern in edge:
                if counts[pattern] < 3:
                    break
                gone.add(number)
        kept.append([line for number, line in enumerate(page) if number not in gone])
    return kept


def _edges(page: Page) -> list[list[tuple[int, tuple[str, str]]]]:
    """(place, (edge, pattern)) of the lines at the top and at the bottom of a page, the outermost first. Patterns: the
    text with # for numbers."""
    order = sorted(range(len(page)), key=lambda number: -page[number].y1)
    if all(line.x1 <= line.x0 for line in page):
        order = list(range(len(page)))
    edges = []
    for name, numbers in (("top", order[:EDGE]), ("bottom", order[::-1][:EDGE])):
        edge = []
        for number in numbers:
            text = " ".join(page[number].text.lower().split())[:150]
            edge.append((number, (name, _DIGITS.sub("#", "#" if _ROMAN.match(text) else text))))
        edges.append(edge)
    return edges


def running_text(pages: Sequence[Page]) -> str:
    """Pages (without running heads, in reading order) as paragraphs with a blank line between them."""
    compounds = {word.lower() for page in pages for line in page for word in _COMPOUND.findall(line.text)}
    gaps = [above.y1 - below.y1 for page in pages for above, below in pairwise(page)
            if 0 < above.y1 - below.y1 < 40 and above.x1 > above.x0]
    step = median(gaps) if gaps else 0.0
    paragraphs: list[str] = []
    for page in pages:
        widest = _right_edges(page)
        last: Line | None = None
        for line in page:
            text = " ".join(line.text.split())
            if paragraphs and not _breaks(paragraphs[-1], last, line, step, widest):
                paragraphs[-1] = join(paragraphs[-1], text, compounds)
            else:
                paragraphs.append(text)
            last = line
    return "\n\n".join(paragraph.replace("\u00ad", "") for paragraph in paragraphs)


def _right_edges(page: Page) -> dict[int, float]:
    """How far to the right the lines that begin near each place go."""
    edges: dict[int, float] = {}
    for line in page:
        key = round(line.x0 / 60)
        edges[key] = max(edges.get(key, 0.0), line.x1)
    return edges


def _breaks(before: str, last: Line | None, line: Line, step: float, widest: dict[int, float]) -> bool:
    """Does a paragraph end before this line?"""
    if before.endswith(_HYPHENS) and line.text[:1].islower():
        return False
    ended = before.endswith((".", "!", "?", ":", '"', "”", "’", ")"))
    if last is None:  # a new page
        return ended or not (line.text[:1].islower() or before.endswith((",", ";")))
    if line.x1 <= line.x0 or last.x1 <= last.x0:
        return ended and len(last.text) < 50
    down = last.y1 - line.y1
    if down < -step:  # the next column
        return ended
    height, before_height = line.y1 - line.y0, last.y1 - last.y0
    if step and down > 1.45 * step:
        return True
    if max(height, before_height) > 1.6 * max(min(height, before_height), 1.0) and abs(len(line.text) - len(
            last.text)) > 20 and max(height, before_height) > 16:
        return True
    indented = 6 < line.x0 - last.x0 < 60
    edge = max(widest.get(round(last.x0 / 60), last.x1), widest.get(round(line.x0 / 60), line.x1))
    short = last.x1 < edge - 0.15 * max(edge - last.x0, 1.0)
    very_short = last.x1 < edge - 0.4 * max(edge - last.x0, 1.0)
    return (ended and (indented or short)) or (indented and short) or very_short


def join(before: str, after: str, compounds: set[str]) -> str:
    """Two lines as one; a hyphen between them goes unless the word is written with it elsewhere in the text."""
    if before.endswith(_HYPHENS) and after:
        stem = before[:-1]
        start, end = _WORD_START.match(after), _WORD_END.search(stem)
        if before[-1] not in "-\ufffe" and start:
            return stem + after
        if start and end and start[1].islower():
            known = f"{end[0]}-{start[1]}".lower() in compounds
            return f"{stem}-{after}" if known else stem + after
        if end and start:
            return f"{stem}-{after}"
        before = before.replace("\ufffe", "-")
    return f"{before} {after}"
