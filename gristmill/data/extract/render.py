"""Kept blocks as plain text or Markdown: paragraphs, headings, lists, rows of tables, code."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gristmill.data.extract.markup import LISTS, Page
from gristmill.data.extract.tags import HEADINGS, KIND, PRE, TAG_FLAGS

_STRUCTURED = TAG_FLAGS["list"] | TAG_FLAGS["table"]
_LEVEL = {KIND[name]: int(name[1]) for name in HEADINGS}
_BACKTICKS = re.compile("`+")
_NUMBERS = re.compile(r"[\d\s]+")
# Deeper lists are written at this depth; a line never starts with more white space than text.
_DEEPEST = 8


@dataclass(slots=True)
class Place:
    """Where an element stands: depth of lists, the number of its item, row and cell (0: none), ordered, quoted."""

    lists: int = 0
    item: int = 0
    row: int = 0
    cell: int = 0
    ordered: bool = False
    quoted: bool = False


def places(page: Page, elements: Iterable[int]) -> dict[int, Place]:
    """The places of `elements` and of all that they stand in; every element is visited once."""
    needed = {0}
    for number in elements:
        while number not in needed:
            needed.add(number)
            number = page.parent[number]
    found = {0: Place()}
    for number in sorted(needed)[1:]:
        # Parents come before their children.
        outer, name = found[page.parent[number]], page.names[number]
        place = found[number] = Place(outer.lists, outer.item, outer.row, outer.cell, outer.ordered, outer.quoted)
        if name in LISTS:
            place.lists, place.item, place.ordered = outer.lists + 1, 0, name == "ol"
        elif name == "li":
            place.item = number
        elif name == "table":
            place.lists = place.item = place.row = place.cell = 0
        elif name == "tr":
            place.row, place.cell = number, 0
        elif name == "td" or name == "th":
            place.cell = number
        elif name == "blockquote":
            place.quoted = True
    return found


def render(page: Page, kept: Sequence[int], *, markdown: bool = False) -> str:
    """The text of the blocks `kept` (numbers in reading order); empty where nothing is kept."""
    texts, element = page.texts, page.element
    flags = 0
    for block in kept:
        flags |= page.flags[element[block]]
    if not markdown and not flags & _STRUCTURED:
        return "\n\n".join([texts[block] for block in kept if page.kinds[block] != PRE or not _gutter(texts[block])])
    where_is = places(page, [element[block] for block in kept])
    rows = _data_rows(page, kept, where_is)
    out: list[str] = []
    numbers: dict[int, int] = {}
    previous_group, previous_item, previous_row = ("", 0), 0, 0
    for block in kept:
        place, kind, text = where_is[element[block]], page.kinds[block], texts[block]
        group = ("", 0)
        row, item = place.row, place.item
        if kind == PRE:
            if _gutter(text):
                continue
            if markdown:
                text = _fenced(text, page.code.get(block, ""))
        elif row in rows:
            text = text.replace("\n", " ")
            if markdown:
                text = text.replace("|", "\\|")
            if row == previous_row:
                out[-1] = f"{out[-1]} {text} |" if markdown else f"{out[-1]}\t{text}"
                continue
            group = ("table", page.parent[row])
            if markdown:
                text = f"| {text} |"
        elif kind in _LEVEL:
            text = text.replace("\n", " ")
            if markdown:
                text = "#" * _LEVEL[kind] + " " + text
        elif item:
            depth = min(place.lists, _DEEPEST)
            pad = "  " * max(depth - 1, 0)
            bullet = "- "
            if item == previous_item:
                text = pad + "  " + text.replace("\n", "\n" + pad + "  ")
            else:
                if markdown and place.ordered:
                    numbers[page.parent[item]] = numbers.get(page.parent[item], 0) + 1
                    bullet = f"{numbers[page.parent[item]]}. "
                text = pad + bullet + text.replace("\n", "\n" + pad + "  ")
            group = ("list", 0)
        elif markdown and place.quoted:
            text = "> " + text.replace("\n", "\n> ")
        if out:
            out.append("\n" if group[0] and group == previous_group else "\n\n")
        out.append(text)
        previous_group, previous_item = group, item
        previous_row = row if row in rows and kind != PRE else 0
    if markdown:
        _rule_tables(out)
    return "".join(out)


def _rule_tables(out: list[str]) -> None:
    """Markdown wants a line of dashes under the first row of a table."""
    for number, text in enumerate(out):
        first = number == 0 or out[number - 1] != "\n" or not out[number - 2].startswith("| ")
        if first and text.startswith("| ") and text.endswith(" |"):
            out[number] = text + "\n|" + " --- |" * (len(re.findall(r"(?<!\\)\|", text)) - 1)


def _data_rows(page: Page, kept: Iterable[int], where_is: dict[int, Place]) -> set[int]:
    """Rows that hold data: two cells or more are kept, each with one block. Others only lay the page out."""
    cells: Counter[tuple[int, int]] = Counter()
    for block in kept:
        place = where_is[page.element[block]]
        if place.row and page.kinds[block] != PRE:
            cells[place.row, place.cell] += 1
    wide = Counter(row for row, _ in cells)
    layout = {row for (row, _), blocks in cells.items() if blocks > 1}
    return {row for row, count in wide.items() if count > 1 and row not in layout}


def _gutter(text: str) -> bool:
    """Line numbers beside code."""
    return "\n" in text and _NUMBERS.fullmatch(text) is not None


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in _BACKTICKS.findall(text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"
