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

from gristmill.data.extract.tags import (
    ADDRESS,
    ANCHOR,
    BLOCK,
    BREAK,
    CODE,
    DROP,
    FREQUENT,
    HEADINGS,
    INLINE,
    LINK,
    NOTHING,
    PRE,
    RAW,
    RULE,
    TEXT,
    Tags,
    inline_tag,
)

# A line break inside a block while its white space is still to be collapsed; a character that pages do not hold.
NEWLINE = "\x0b"
_CODE_LANGUAGE = re.compile(r"\b(?:language|lang|brush)[-:]\s*([\w+#-]+)", re.I)
_HREF = re.compile(r"""\bhref\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.I)

LISTS = frozenset(["ul", "ol", "dl", "menu", "dir"])
# Boxes that take over the kind of their surroundings: a div in a cell is a cell's text.
TRANSPARENT = frozenset(["div", "section", "center", "details", "form", "fieldset"])
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
    # The open elements: name, number in the page (INLINE_FRAME for what opens no element), kind of its text, and what
    # to restore when it closes. `open_names` counts names inside the current table cell, `slots` says where the
    # innermost li, dd, td, tr and table stand on the stack.
    stack_name, stack_element, stack_kind = [""], [0], [0]
    stack_saved: list[tuple[dict[str, int], list[int]] | None] = [None]
    open_names: dict[str, int] = {}
    slots = [-1] * 5
    # Depths of the stack above which text is dropped, verbatim, or in a link; 0 when it is not.
    hidden_depth = pre_depth = link_depth = 0
    pieces: list[str] = []
    inked = False
    link_count = link_chars = 0
    href = ""
    tags = Tags(html)
    parts, known = tags.parts, tags.known
    length = len(parts)
    steps = length
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
        if at < length:
            part = parts[at]
            at += 1
            head, closed, text = part.partition(">")
            tag = known.get(head)
            if tag is None and closed and head[:4] in FREQUENT and not (
                    "'" in head or "hidden" in head or "none" in head or head.count('"') & 1):
                # What most unseen tags are; `Tags.read` says the same of them.
                tag = NOTHING if head[1] != " " or head[0] != "a" else ADDRESS if "href" in head else ANCHOR
            elif tag is None or not closed:
                before = at
                tag, head, text, at = tags.read(part, at)
                steps += at - before
            if tag is NOTHING:
                if not hidden_depth or stack_element[hidden_depth - 1] != INLINE_FRAME:
                    continue
                # Inside a hidden part of a line: its own end tag must be found.
                tag = inline_tag(head)
            kind, start, name, bits, hidden, slot, own_kind = tag
        else:
            # The end of the page closes everything.
            if at > length:
                break
            at += 1
            kind, start, name, bits, hidden, text = RULE, False, "", 0, False, ""
            slot = own_kind = -1

        if kind != BLOCK:
            if kind == INLINE:
                if not hidden and not open_names.get(name):
                    continue
            elif kind == LINK:
                if start and not hidden:
                    if bits and not hidden_depth:
                        link_depth = len(stack_name)
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
            elif kind == TEXT:
                continue
            elif kind == CODE:
                if code and not pre_depth and not hidden_depth:
                    pieces.append("`")
                continue
            elif kind == RAW:
                before = at
                text, at = tags.skip(name, at)
                steps += at - before
                continue

        # How much of the stack this tag closes.
        target = 0
        if kind in (RULE, BREAK):
            start = False
        elif start:
            if kind == BLOCK:
                if stack_name[-1] == "p" or (name in HEADINGS and stack_name[-1] in HEADINGS):
                    target = len(stack_name) - 1
                if 0 <= slot < 4 and slots[slot] >= 0:
                    target = slots[slot]
        else:
            if slot >= 0:
                target = slots[slot]
            elif open_names.get(name):
                target = len(stack_name) - 1
                while stack_name[target] != name:
                    target -= 1

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
                    kinds.append(stack_kind[-1])
                    top = -1
                    while stack_element[top] < 0:
                        top -= 1
                    element.append(stack_element[top])
                    linked.append(link_chars)
                    linking.append(link_count)
                inked = False
                link_chars = 0
                link_count = 1 if link_depth else 0
            pieces = []

        if target > 0:
            count = len(texts)
            steps += len(stack_name) - target
            while len(stack_name) > target:
                number = stack_element.pop()
                if number >= 0:
                    last[number] = count
                stack_kind.pop()
                saved = stack_saved.pop()
                if saved is not None:
                    open_names, slots = saved
                open_names[stack_name.pop()] -= 1
            if hidden_depth > target:
                hidden_depth = 0
            if pre_depth > target:
                pre_depth = 0
            if link_depth > target:
                link_depth = 0
        if not start:
            continue

        depth = len(stack_name)
        stack_name.append(name)
        open_names[name] = open_names.get(name, 0) + 1
        if hidden and not hidden_depth:
            hidden_depth = depth + 1
        if kind != BLOCK:
            stack_element.append(INLINE_FRAME)
            stack_kind.append(stack_kind[-1])
            stack_saved.append(None)
            continue
        top = -1
        while stack_element[top] < 0:
            top -= 1
        outer = stack_element[top]
        stack_element.append(len(parent))
        stack_kind.append(own_kind or (stack_kind[-1] if name in TRANSPARENT else 0))
        parent.append(outer)
        own.append(bits)
        flags.append(flags[outer] | bits)
        first.append(len(texts))
        last.append(0)
        names.append(name)
        if slot >= 0 or name in LISTS:
            stack_saved.append((open_names, slots))
            slots = list(slots)
            if slot < 0:
                slots[1 if name == "dl" else 0] = -1
            else:
                slots[slot] = depth
                if slot == 2:
                    open_names = {}
                elif slot == 3:
                    slots[2] = -1
                elif slot == 4:
                    slots[0] = slots[1] = slots[2] = slots[3] = -1
        else:
            stack_saved.append(None)
        if own_kind == PRE:
            pre_depth = depth + 1
            if code:
                page.code[len(texts)] = _code_language(head)
    for number in stack_element:
        if number >= 0:
            last[number] = len(texts)
    page.steps = steps + tags.steps
    return page


def verbatim(raw: str) -> str:
    """The text of a pre: its lines as they are, without empty lines around them."""
    return raw.replace("\r\n", "\n").replace("\r", "\n").strip("\n").rstrip()


def _target(head: str) -> str:
    found = _HREF.search(head)
    return unescape(found[1] or found[2] or found[3] or "").strip() if found else ""


def _code_language(head: str) -> str:
    found = _CODE_LANGUAGE.search(head)
    return found[1].lower() if found else ""
