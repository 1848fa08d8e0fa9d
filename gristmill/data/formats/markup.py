"""Markdown and reStructuredText as plain text: what a reader would see, without the signs for it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

_UNDERLINE = re.compile(r"^([!-/:-@\[-`{-~])\1{2,}\s*$")
_DIRECTIVE = re.compile(r"^(\s*)\.\. ")
_SHOWN = re.compile(r"^(\s*)\.\. (?:\w+:)?(?:note|warning|tip|hint|important|caution|danger|attention|seealso"
                    r"|admonition|epigraph|topic|code|code-block|sourcecode|rubric|versionadded|versionchanged|deprecated"
                    r")::\s*(.*)$")
_ROLE = re.compile(r":[a-zA-Z][\w+.:-]*:`([^`<]*?)(?:\s*<[^`>]*>)?`")
_LINK = re.compile(r"`([^`<]+?)\s*(?:<[^`>]*>)?`__?")
_INLINE = re.compile(r"(\*\*|\*|``|`)(?=\S)(.+?)(?<=\S)\1")
_FIELD = re.compile(r"^\s*:[\w -]+:.*$")


@cache
def _markdown() -> Any:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table")


def plain_markdown(text: str) -> str:
    """CommonMark (with tables) to plain text: headings, paragraphs, list items and code stay, one blank line between
    blocks; addresses of links, pictures and raw HTML go."""
    blocks: list[str] = []
    marker = ""
    row: list[str] = []
    in_row = False
    for token in _markdown().parse(text):
        if token.type == "list_item_open":
            marker = f"{token.info}{token.markup} " if token.info else "- "
        elif token.type == "tr_open":
            in_row, row = True, []
        elif token.type == "tr_close":
            in_row = False
            blocks.append("\t".join(row) + "\n")
        elif token.type == "inline":
            inside = "".join(map(_inline, token.children or ()))
            if in_row:
                row.append(inside)
            elif inside.strip():
                tight = token.level > 2 and marker
                blocks.append(marker + inside + ("\n" if tight else "\n\n"))
                marker = ""
        elif token.type in ("fence", "code_block"):
            blocks.append(token.content.rstrip("\n") + "\n\n")
        elif token.type.endswith(("_list_close", "table_close")) and blocks:
            blocks[-1] = blocks[-1].rstrip("\n") + "\n\n"
    return "".join(blocks).rstrip("\n") + "\n" if blocks else ""


def _inline(token: Any) -> str:
    if token.type in ("text", "code_inline"):
        return str(token.content)
    return "\n" if token.type in ("softbreak", "hardbreak") else ""


def plain_rst(text: str) -> str:
    """The usual signs of reStructuredText taken away: underlines of headings, roles, links, emphasis, comments,
    options of directives, targets; the bodies of notes and examples stay. By lines, no full parser."""
    kept: list[str] = []
    skipped = -1  # the indentation of a directive whose body goes
    options = False
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if skipped >= 0 and (not line.strip() or indent > skipped):
            continue
        skipped = -1
        if shown := _SHOWN.match(line):
            options = True
            if shown[2] and "code" not in line:
                kept.append(shown[1] + _plain_line(shown[2]))
            continue
        if _DIRECTIVE.match(line) or line.strip() == "..":
            skipped = indent
            continue
        if options and _FIELD.match(line):
            continue
        options = options and not line.strip()
        if _UNDERLINE.match(line) and (not kept or kept[-1].strip() or len(line.strip()) > 3):
            continue
        line = _plain_line(line)
        kept.append(re.sub(r"::\s*$", ":", line) if line.strip() != "::" else "")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n") + "\n" if kept else ""


def _plain_line(line: str) -> str:
    return _INLINE.sub(r"\2", _LINK.sub(r"\1", _ROLE.sub(r"\1", line)))
