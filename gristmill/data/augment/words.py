"""The words of a text that may be changed, and everything else, which stays as it is.

A word is a run of letters with their marks, also with an apostrophe or hyphen inside. Left alone: code (fenced, inline,
`<pre>`, `<code>`), tags and comments, link targets, addresses, mathematics, numbers, and names of programs
(`snake_case`, `camelCase`, `x86`).
"""

from __future__ import annotations

import functools
import itertools
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_PAIRS = {"```": "```", "~~~": "~~~", "$$": "$$", "\\[": "\\]", "<!--": "-->", "<pre": "</pre>", "<code": "</code>",
          "<script": "</script>", "<style": "</style>", "<math": "</math>"}
"""Openers of what may go over lines -> how it ends. One without an end is a sign like any other."""
_OPENER = re.compile("|".join(map(re.escape, _PAIRS)), re.IGNORECASE)


@dataclass(frozen=True)
class Line:
    """A line of a text as words and what stands between them: between[0] words[0] between[1] ... between[-1]."""

    words: tuple[str, ...]
    between: tuple[str, ...]

    def __str__(self) -> str:
        return "".join(part for pair in zip(self.between, (*self.words, ""), strict=True) for part in pair)


def lines_of(text: str) -> list[Line]:
    """The lines of a text; joined as they are (each keeps its newline) they are the text again."""
    found: list[Line] = []
    words: list[str] = []
    between = [""]
    for part, is_word in parts(text):
        if is_word:
            words.append(part)
            between.append("")
            continue
        if "\n" not in part:
            between[-1] += part
            continue
        *whole, rest = re.split(r"(?<=\n)", part)
        for piece in whole:
            between[-1] += piece
            if words:  # what holds no word joins the line after it
                found.append(Line(tuple(words), tuple(between)))
                words, between = [], [""]
        between[-1] += rest
    if words or between[0]:
        found.append(Line(tuple(words), tuple(between)))
    return found


def parts(text: str) -> Iterator[tuple[str, bool]]:
    """(stretch, is it a word?) of a text in order; joined they are the text."""
    begin = 0
    for start, end in _protected(text):
        yield from _inline(text[begin:start])
        yield text[start:end], False
        begin = end
    yield from _inline(text[begin:])


def changeable(text: str) -> list[str]:
    """The words that may be changed."""
    return [part for part, is_word in parts(text) if is_word]


def as_written(word: str, like: str) -> str:
    """`word` in the case of `like`: all capitals, a capital first, or as it is."""
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def _protected(text: str) -> Iterator[tuple[int, int]]:
    """Stretches between paired signs. Linear: an end that was not found once is not looked for again."""
    lower: str | None = None
    missing: set[str] = set()
    place = 0
    while found := _OPENER.search(text, place):
        opener = found[0].lower()
        place, closer = found.end(), _PAIRS[opener]
        if closer in missing:
            continue
        if lower is None:
            lower = text.lower() if len(text.lower()) == len(text) else text
        end = lower.find(closer, place)
        if end < 0:
            missing.add(closer)
            continue
        place = end + len(closer)
        yield found.start(), place


def _inline(text: str) -> Iterator[tuple[str, bool]]:
    pattern = _pattern()
    begin = 0
    for found in pattern.finditer(text):
        if found.lastgroup != "word" or _is_name(word := found[0]):
            continue
        start, end = found.span()
        if start > begin:
            yield text[begin:start], False
        yield word, True
        begin = end
    if begin < len(text):
        yield text[begin:], False


def _is_name(word: str) -> bool:
    """camelCase and the like: a capital after a small letter."""
    if word.islower() or word[1:].islower() or word.isupper():  # nearly all words
        return False
    return any(a.islower() and b.isupper() for a, b in itertools.pairwise(word))


@functools.cache
def _pattern() -> re.Pattern[str]:
    letter = f"(?:[^\\W\\d_][{_marks()}]*)"
    return re.compile("|".join((
        r"`[^`\n]{1,400}`",
        r"\]\([^()\s]{1,2000}\)",
        r"</?[A-Za-z!][^<>\n]{0,2000}>",
        r"\b[A-Za-z][A-Za-z0-9+.-]{1,30}://[^\s<>\"]+|\bwww\.[^\s<>\"]+",
        r"[\w.+-]{1,64}@[\w-]{1,64}\.[\w.-]{1,64}",
        r"\$[^\s$][^$\n]{0,200}\$",
        r"\\[A-Za-z]+",
        r"&[A-Za-z]{2,31};",
        rf"(?P<word>(?<![\w@#/\\]){letter}+(?:['’‑-]{letter}+)*(?![\w/\\(@]|\.\w))",
        rf"(?:\w[{_marks()}]*)+(?:[./\\](?:\w[{_marks()}]*)+)*",
    )))


@functools.cache
def _marks() -> str:
    """The combining marks (category M) as the inside of a character class: `\\w` leaves them out."""
    spans: list[list[int]] = []
    for point in range(0x300, min(0x1F000, sys.maxunicode)):
        if unicodedata.category(chr(point)).startswith("M"):
            if spans and spans[-1][1] == point - 1:
                spans[-1][1] = point
            else:
                spans.append([point, point])
    return "".join(f"{chr(a)}-{chr(b)}" if b > a else chr(a) for a, b in spans)


def joined(lines: Sequence[Line]) -> str:
    """The text of lines."""
    return "".join(map(str, lines))


__all__ = ["Line", "as_written", "changeable", "joined", "lines_of", "parts"]
