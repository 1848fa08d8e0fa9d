"""The main content of a page: segment, judge every block, keep what is content, write it down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gristmill.data.extract.classifier import Classifier, load
from gristmill.data.extract.features import features
from gristmill.data.extract.markup import Page, segment
from gristmill.data.extract.metadata import metadata
from gristmill.data.extract.render import render
from gristmill.data.extract.tags import HEADINGS, KIND, WORD_FLAGS

_HEADING_KINDS = frozenset(KIND[name] for name in HEADINGS)
_COMMENT = WORD_FLAGS["comment"]
_SAID = 40
_FRAGMENT = 4
# Blocks that are judged at once: about 1.5 kB of memory each. Longer pages are judged as several.
SLICE = 100_000


@dataclass(frozen=True, slots=True)
class Extracted:
    """The main content of a page, and what the page says of itself (empty where it does not)."""

    text: str
    title: str = ""
    language: str = ""
    date: str = ""


def main_text(html: str, *, markdown: bool = False, links: bool = False, comments: bool = False,
              classifier: Classifier | None = None) -> str:
    """The main content of `html` without navigation, notices, related links and whatever is hidden.

    Paragraphs stand between empty lines, list items on lines with "- ", cells of a row between tabs, code as it is.
    `markdown` writes headings, numbered lists, tables and fenced code as Markdown, with `links` also the addresses of
    links. `comments` keeps what readers wrote below. Never raises; a page without text gives "".
    """
    if "<" not in html:
        return html.strip()
    page = segment(html, code=markdown, links=markdown and links)
    if not page.texts:
        return ""
    return render(page, content_blocks(page, comments=comments, classifier=classifier), markdown=markdown)


def extract(html: str, *, markdown: bool = False, links: bool = False, comments: bool = False,
            classifier: Classifier | None = None) -> Extracted:
    """`main_text` with the title, the language and the date of publication that the page states."""
    title, language, date = metadata(html)
    return Extracted(main_text(html, markdown=markdown, links=links, comments=comments, classifier=classifier),
                     title, language, date)


def content_blocks(page: Page, *, comments: bool = False, classifier: Classifier | None = None) -> list[int]:
    """The numbers of the blocks that are main content, in reading order."""
    if not page.texts:
        return []
    chosen = classifier or load()
    chars = list(map(len, page.texts))
    count = len(chars)
    chances = np.concatenate([chosen(features(part, chars[at:at + SLICE])) for at in range(0, count, SLICE)
                              for part in (page if count <= SLICE else _slice(page, at),)])
    kept: list[int] = np.flatnonzero(chances >= chosen.threshold).tolist()
    if count <= _FRAGMENT:
        # No site around it: a fragment.
        kept = [block for block, size in enumerate(chars) if 2 * page.linked[block] < size]
    if not kept:
        # A page that says anything says something: what comes nearest to content, unless it is all links.
        free = [block for block, size in enumerate(chars) if 2 * page.linked[block] < size]
        if not free:
            return []
        best = max(float(chances[block]) for block in free)
        kept = [block for block in free if 2 * float(chances[block]) >= best]
    if comments:
        # What readers wrote is known by the element around it; names, dates and buttons are shorter than sentences.
        kept = sorted({*kept, *(block for block, size in enumerate(chars)
                                if page.flags[page.element[block]] & _COMMENT and size >= _SAID
                                and 2 * page.linked[block] < size)})
    # A heading is content by what follows it.
    while len(kept) > 1 and page.kinds[kept[-1]] in _HEADING_KINDS:
        kept.pop()
    return kept


def _slice(page: Page, begin: int) -> Page:
    """`SLICE` blocks of a page with the elements around them."""
    end = min(begin + SLICE, len(page.texts))
    return Page(page.texts[begin:end], page.kinds[begin:end], page.element[begin:end], page.linked[begin:end],
                page.links[begin:end], page.parent, [min(max(at, begin), end) - begin for at in page.first],
                [min(max(at, begin), end) - begin for at in page.last], page.own, page.flags, page.names)
