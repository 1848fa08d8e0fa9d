"""Normal form of text: Unicode, mojibake, control characters, newlines, trailing spaces."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from gristmill.core.config import config
from gristmill.data.programming import PROGRAMMING

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
_ASCII_CONTROLS = bytes([*range(0x09), *range(0x0B, 0x20), 0x7F])
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_MANY_BLANK = re.compile(r"\n{4,}")


@config
class Normalise:
    """Which parts of the normal form are applied."""

    unicode: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normalisation form."""
    mojibake: bool = True
    """Repair text that was decoded with the wrong encoding (`schÃ¶n` -> `schön`); never done to code."""
    whitespace: bool = True
    """One kind of newline, no control characters, no spaces at line ends, no long runs of blank lines."""


def is_code(language: str) -> bool:
    """Is this the language of a program rather than of people?"""
    return language in PROGRAMMING


def normalise(text: str, options: Normalise | None = None, *, code: bool = False) -> str:
    """The normal form of a text; doing it twice changes nothing more."""
    options = options or Normalise()
    for _ in range(10):  # a repaired line may hold what an earlier step removes; two rounds are the rule
        before = text
        text = _once(text, options, code)
        if text == before:
            break
    return text


def _once(text: str, options: Normalise, code: bool) -> str:
    if options.whitespace:
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        if text.isascii():  # the same, several times as fast
            text = text.encode().translate(None, _ASCII_CONTROLS).decode()
        else:
            text = _CONTROLS.sub("", text.replace("\x85", "\n"))
    if not text.isascii():
        if options.mojibake and not code:
            text = "\n".join(map(_repair, text.split("\n")))
        if options.unicode != "none":
            text = unicodedata.normalize(options.unicode, text)
    if options.whitespace:
        if " \n" in text or "\t\n" in text or text.endswith((" ", "\t")):
            text = _TRAILING.sub("", text)
        text = _MANY_BLANK.sub("\n\n\n", text)
        text = text.strip("\n")
        text = f"{text}\n" if text else ""
    return text


def _repair(line: str) -> str:
    """One line with its mojibake undone; clean lines are passed by quickly."""
    if line.isascii():
        return line
    import ftfy
    from ftfy.badness import is_bad

    return ftfy.fix_encoding(line) if is_bad(line) else line
