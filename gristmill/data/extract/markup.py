"""HTML as a flat list of text blocks, each with the element that holds it.

One pass over the pieces between `<` signs; nothing recurses, and every piece is looked at a bounded number of times, so
that time grows with the length of the page however it is nested or broken. The rules are those of the HTML standard
(13.2.6) as far as they decide which text belongs together: implied ends of p, li, dd, td, tr; end tags that reach no
further than their table cell; raw text up to its own end tag; quoted attributes that hold `>`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import unescape

from gristmill.data.extract.lexer import (
    ADDRESS,
    ANCHOR,
    BLOCK,
    BREAK,
    CODE,
    DROP,
    END,
    FREQUENT,
    INHERITED,
    INLINE,
    LINK,
    NOTHING,
    RAW,
    RULE,
    TEXT,
    Tags,
    inline_tag,
)
from gristmill.data.extract.tags import HEADINGS, PRE

# A line break inside a block while its white space is still to be collapsed; a character that pages do not hold.
NEWLINE = "\x0b"
_CODE_LANGUAGE = re.compile(r"\b(?:language|lang|brush)[-:]\s*([\w+#-]+)", re.I)
_HREF = re.compile(r"""\bhref\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.I)

LISTS = frozenset(["ul", "ol", "dl", "menu", "dir"])
_ENDED_BY_START = HEADINGS | {"p"}
INLINE_FRAME = -1


@dataclass(slots=True)
class Page:
    """The blocks of a page in reading order, and its elements in the order of their start tags.

    `texts[i]` is a block's text with white space collapsed (verbatim in `pre`); `element[i]` the element that holds it,
    `kinds[i]` one of `tags.KINDS`, `linked[i]` how many of its raw characters stand in links, `links[i]` how many
    links.
    `parent`, `first`, `last`, `own`, `flags`: for each element its parent, the range of blocks inside it, the bits of
    `tags.FLAGS` that it carries itself, and those with all of its ancestors'. Element 0 is the page. `code`: the
    language of the pre that block i may be. `steps` counts the pieces and elements looked at, for tests of linear time.
    """

    texts: list[str] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    element: list[int] = field(default_factory=list)
    linked: list[int] = field(default_factory=list)
    links: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=lambda: [0])
    first: list[int] = field(default_factory=lambda: [0])
    last: list[int] = field(default_factory=lambda: [0])
    own: list[int] = field(default_factory=lambda: [0])
    flags: list[int] = field(default_factory=lambda: [0])
    names: list[str] = field(default_factory=lambda: [""])
    code: dict[int, str] = field(default_factory=dict)
    steps: int = 0


def segment(html: str, *, code: bool = False, links: bool = False) -> Page:
    """The blocks of `html`; with `code` and `links`, inline code and links keep their Markdown signs.

    One long function on purpose: it runs for every tag of every page, and a call inside costs more than its work.
    """
    page = Page()
    texts, kinds, element, linked, linking = page.texts, page.kinds, page.element, page.linked, page.links
    parent, first, last, own, flags, names = page.parent, page.first, page.last, page.own, page.flags, page.names
    # The innermost open element: its name, its number in the page (INLINE_FRAME for what opens no element), the number
    # of the element that holds its text, and the kind of that text. `stack` holds those around it. `open_names` counts
    # names inside the current table cell, `slots` says how deep the innermost li, dd, td, tr and table stand.
    top_name, top_frame, top_element, top_kind = "", 0, 0, 0
    stack: list[tuple[str, int, int, int, dict[str, int], list[int]]] = []
    open_names: dict[str, int] = {}
    slots = [-1] * 5
    # Depths above which text is dropped, verbatim, or in a link; 0 when it is not.
    hidden_depth = pre_depth = link_depth = 0
    # Whether the hidden part is one of a line: its own end tag must be found.
    hidden_inline = False
    pieces: list[str] = []
    inked = False
    link_count = link_chars = 0
    href = ""
    tags = Tags(html)
    parts, known, quick = tags.parts, tags.known.get, tags.quick
    steps = len(parts)
    text = parts[0]
    at = 1
    while True:
        if text and not hidden_depth:
            if pre_depth:
                pieces.append(text)
                inked = inked or not text.isspace()
            elif not text.isspace():
                pieces.append(text)
                inked = True
                if link_depth:
                    link_chars += len(text)
            elif pieces:
                pieces.append(" ")
        part = parts[at]
        at += 1
        head, closed, text = part.partition(">")
        tag = known(head)
        if tag is None and closed:
            if head[:4] in FREQUENT and not (
                    "'" in head or "hidden" in (lower := head.lower()) or "none" in lower or head.count('"') & 1):
                # What most unseen tags are; `quick` says the same of them.
                tag = NOTHING if head[1] != " " or head[0] != "a" else ADDRESS if "href" in lower else ANCHOR
            else:
                tag = quick(head)
        if tag is None or not closed:
            before = at
            tag, head, text, at = tags.read(part, at)
            steps += at - before
        if tag is NOTHING:
            if not hidden_inline:
                continue
            tag = inline_tag(head)
        if tag is ADDRESS and not links:
            if not hidden_depth:
                link_depth = len(stack) + 1
                link_count += 1
            continue
        kind, start, name, bits, hidden, slot, own_kind = tag
        if kind == BLOCK and name == top_name and not (start or pieces or pre_depth):
            # Nearly every end tag: it ends the innermost element, and nothing stands before it. As below, in short.
            if hidden_depth > len(stack):
                hidden_depth = 0
            if link_depth > len(stack):
                link_depth = 0
            last[top_frame] = len(texts)
            top_name, top_frame, top_element, top_kind, open_names, slots = stack.pop()
            open_names[name] -= 1
            continue

        # `target`: down to which depth this tag closes the stack; 0 where it does not.
        target = 0
        if kind == BLOCK:
            if start:
                if top_name in _ENDED_BY_START and (top_name == "p" or name in HEADINGS):
                    target = len(stack)
                if 0 <= slot < 4 and slots[slot] >= 0:
                    target = slots[slot]
            elif name == top_name and not pre_depth:
                target = len(stack)
            elif slot >= 0:
                target = slots[slot]
            elif open_names.get(name):
                target = _depth(stack, top_name, name)
        elif kind == LINK:
            if start and not hidden:
                if bits and not hidden_depth:
                    link_depth = len(stack) + 1
                    link_count += 1
                    if links and not pre_depth:
                        href = _target(head)
                        if href:
                            pieces.append("[")
                continue
            if not start:
                if href:
                    if not hidden_depth:
                        pieces.append(f"]({href})")
                    href = ""
                link_depth = 0
                if not open_names.get(name):
                    continue
                target = _depth(stack, top_name, name)
        elif kind == RAW:
            before = at
            text, at = tags.skip(name, at)
            steps += at - before
            continue
        elif kind == BREAK:
            if hidden_depth or not (pieces or pre_depth):
                continue
            if pre_depth:
                pieces.append("\n")
                continue
            # Two line breaks in a row are how old pages write paragraphs.
            if pieces[-1] != NEWLINE and (pieces[-1] != " " or len(pieces) < 2 or pieces[-2] != NEWLINE):
                pieces.append(NEWLINE)
                continue
            start = False
        elif kind == RULE:
            start = False
        elif kind == TEXT:
            continue
        elif kind == CODE:
            if code and not pre_depth and not hidden_depth:
                pieces.append("`")
            continue
        elif kind != END:
            # DROP, or INLINE where it is hidden or an end tag must be found.
            if open_names.get(name):
                if not start:
                    target = _depth(stack, top_name, name)
            elif kind == INLINE and not hidden:
                continue

        if pre_depth and kind == BLOCK and (start or target >= pre_depth):
            # Inside pre a tag that would start a block ends a line; what stands outside of it stays open.
            target = target if target >= pre_depth else 0
            if pieces and not pieces[-1].endswith("\n"):
                pieces.append("\n")
            kind = INLINE
        elif pieces and kind != INLINE and kind != LINK and kind != DROP:
            # What was collected becomes a block.
            if inked:
                raw = "".join(pieces)
                if "&" in raw:
                    raw = unescape(raw)
                if pre_depth:
                    raw = verbatim(raw)
                elif NEWLINE in raw:
                    raw = "\n".join([" ".join(line.split()) for line in raw.split(NEWLINE)]).strip("\n")
                else:
                    raw = " ".join(raw.split())
                if raw:
                    texts.append(raw)
                    kinds.append(top_kind)
                    element.append(top_element)
                    linked.append(link_chars)
                    linking.append(link_count)
                inked = False
                link_chars = 0
                link_count = 1 if link_depth else 0
            pieces = []

        if target > 0:
            count = len(texts)
            depth = len(stack)
            steps += depth - target
            while depth >= target:
                if top_frame >= 0:
                    last[top_frame] = count
                name_closed = top_name
                top_name, top_frame, top_element, top_kind, open_names, slots = stack.pop()
                open_names[name_closed] -= 1
                depth -= 1
            if hidden_depth > target:
                hidden_depth = 0
                hidden_inline = False
            if pre_depth > target:
                pre_depth = 0
            if link_depth > target:
                link_depth = 0
        if not start:
            if kind == END:
                break
            continue

        stack.append((top_name, top_frame, top_element, top_kind, open_names, slots))
        open_names[name] = open_names.get(name, 0) + 1
        top_name = name
        if hidden and not hidden_depth:
            hidden_depth = len(stack) + 1
            hidden_inline = kind != BLOCK
        if kind != BLOCK:
            top_frame = INLINE_FRAME
            continue
        top_frame = len(parent)
        parent.append(top_element)
        own.append(bits)
        flags.append(flags[top_element] | bits)
        first.append(len(texts))
        last.append(0)
        names.append(name)
        top_element = top_frame
        if own_kind != INHERITED:
            top_kind = own_kind
        if slot >= 0:
            slots = slots.copy()
            slots[slot] = len(stack)
            if slot == 2:
                open_names = {}
            elif slot == 3:
                slots[2] = -1
            elif slot == 4:
                slots[0] = slots[1] = slots[2] = slots[3] = -1
        elif name in LISTS:
            slots = slots.copy()
            slots[1 if name == "dl" else 0] = -1
        if own_kind == PRE:
            pre_depth = len(stack) + 1
            if code:
                page.code[len(texts)] = _code_language(head)
    count = len(texts)
    last[0] = count
    if top_frame >= 0:
        last[top_frame] = count
    for frame in stack:
        if frame[1] >= 0:
            last[frame[1]] = count
    page.steps = steps + tags.steps
    return page


def _depth(stack: list[tuple[str, int, int, int, dict[str, int], list[int]]], top_name: str, name: str) -> int:
    """How deep the innermost open element of this name stands; there is one."""
    depth = len(stack)
    if top_name != name:
        depth -= 1
        while stack[depth][0] != name:
            depth -= 1
    return depth


def verbatim(raw: str) -> str:
    """The text of a pre: its lines as they are, without empty lines around them."""
    return raw.replace("\r\n", "\n").replace("\r", "\n").strip("\n").rstrip()


def _target(head: str) -> str:
    found = _HREF.search(head)
    return unescape(found[1] or found[2] or found[3] or "").strip() if found else ""


def _code_language(head: str) -> str:
    found = _CODE_LANGUAGE.search(head)
    return found[1].lower() if found else ""
