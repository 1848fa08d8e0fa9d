"""Long documents in pieces that a model can be asked for, cut between paragraphs where that is possible."""

from __future__ import annotations

import re

_PARAGRAPHS = re.compile(r"\n[ \t]*\n\s*")
_SENTENCES = re.compile(r"(?<=[.!?。！？])\s+|\n")


def cut(text: str, most: int) -> list[str]:
    """Pieces of at most `most` characters, none empty: whole paragraphs together, as many as fit. A paragraph that is
    too long is cut between sentences or lines, one sentence that is too long at a space, or else anywhere."""
    return _packed([part for part in _PARAGRAPHS.split(text.strip()) if part.strip()], most, "\n\n", _sentences)


def _sentences(paragraph: str, most: int) -> list[str]:
    return _packed([part for part in _SENTENCES.split(paragraph) if part.strip()], most, " ", _words)


def _words(sentence: str, most: int) -> list[str]:
    found = []
    while len(sentence) > most:
        end = sentence.rfind(" ", most // 2, most + 1)
        end = end if end > 0 else most
        found.append(sentence[:end].strip())
        sentence = sentence[end:].strip()
    return [*filter(None, found), *([sentence] if sentence else [])]


def _packed(parts: list[str], most: int, glue: str, cut_further) -> list[str]:  # type: ignore[no-untyped-def]
    found: list[str] = []
    whole = False
    """Whether the last piece may take another part."""
    for part in parts:
        if len(part) > most:
            found += cut_further(part, most)
            whole = False
        elif whole and len(found[-1]) + len(glue) + len(part) <= most:
            found[-1] += glue + part
        else:
            found.append(part)
            whole = True
    return found
