"""Normal form of text: Unicode, mojibake, control characters, newlines, trailing spaces; and the classic steps for word
counts (lower case, no punctuation, no stop words), which are off: a language model must learn to write all of these."""

from __future__ import annotations

import functools
import re
import string
import sys
import unicodedata
from typing import Literal

from gristmill.core.config import config, require
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
    lower_case: bool = False
    """Everything in lower case. For bags of words, classifiers and models that are to read only; never done to code."""
    punctuation: Literal["keep", "remove"] = "keep"
    """remove: punctuation becomes a space, apostrophes within words nothing (don't -> dont). For bags of words; a model
    that is to write needs it. Never done to code."""
    stop_words: Literal["none", "en"] | list[str] = "none"
    """Words that are left out, in any case: en, a short list of English function words, or your own list. For bags of
    words and topic models; what is left is no language. Never done to code."""

    def __post_init__(self) -> None:
        words = self.stop_words if isinstance(self.stop_words, list) else []
        require(all(word and not any(map(str.isspace, word)) for word in words), "stop_words",
                "must be single words")


STOP_WORDS = frozenset(["a", "about", "after", "all", "also", "an", "and", "any", "are", "as", "at", "be", "because",
                        "been", "before", "being", "between", "both", "but", "by", "can", "could", "did", "do", "does",
                        "doing", "down", "during", "each", "few", "for", "from", "further", "had", "has", "have",
                        "having", "he", "her", "here", "hers", "herself", "him", "himself", "his", "how", "i", "if",
                        "in", "into", "is", "it", "its", "itself", "just", "me", "more", "most", "my", "myself", "no",
                        "nor", "not", "of", "off", "on", "once", "only", "or", "other", "our", "ours", "ourselves",
                        "out", "over", "own", "same", "she", "should", "so", "some", "such", "than", "that", "the",
                        "their", "theirs", "them", "themselves", "then", "there", "these", "they", "this", "those",
                        "through", "to", "too", "under", "until", "up", "very", "was", "we", "were", "what", "when",
                        "where", "which", "while", "who", "whom", "why", "will", "with", "would", "you", "your",
                        "yours", "yourself", "yourselves", "aren't", "can't", "couldn't", "didn't", "doesn't", "don't",
                        "hadn't", "hasn't", "haven't", "he'd", "he'll", "he's", "i'd", "i'll", "i'm", "i've", "isn't",
                        "it's", "let's", "she'd", "she'll", "she's", "shouldn't", "that's", "there's", "they'd",
                        "they'll", "they're", "they've", "wasn't", "we'd", "we'll", "we're", "we've", "weren't",
                        "what's", "won't", "wouldn't", "you'd", "you'll", "you're", "you've"])
"""Function words of English: articles, pronouns, prepositions, conjunctions, auxiliaries, and their contractions."""
_WORD = re.compile(r"\w+(?:['’]\w+)*")


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
    if not code:
        if options.lower_case:
            text = text.lower()
        if options.stop_words != "none":
            text = _without_words(text, options.stop_words)
        if options.punctuation == "remove":
            text = _without_punctuation(text)
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


def _without_words(text: str, words: str | list[str]) -> str:
    """Without these words, and without the space before each (at the start of a line, that behind)."""
    wanted = STOP_WORDS if isinstance(words, str) else _folded(tuple(words))
    parts, last = [], 0
    for match in _WORD.finditer(text):
        if match[0].lower().replace("’", "'") in wanted:
            start, end = match.span()
            if start and text[start - 1] == " ":
                start -= 1
            elif text[end: end + 1] == " ":
                end += 1
            parts.append(text[last: max(start, last)])
            last = max(end, last)
    return "".join((*parts, text[last:])) if parts else text


@functools.lru_cache(maxsize=8)
def _folded(words: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word.lower().replace("’", "'") for word in words)


def _without_punctuation(text: str) -> str:
    within, any_ = _punctuation()
    return any_.sub(" ", within.sub("", text)).replace(" \n", "\n").replace("\n ", "\n").strip(" ")


@functools.cache
def _punctuation() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Apostrophes within words; and runs of punctuation (Unicode category P, and what ASCII has) with their spaces."""
    marks = "".join(sorted({*string.punctuation, *(chr(point) for point in range(0x80, sys.maxunicode + 1)
                                                   if unicodedata.category(chr(point)).startswith("P"))}))
    chosen = f"[{re.escape(marks)}]"
    return re.compile(r"(?<=\w)['’](?=\w)"), re.compile(f" *{chosen}(?:{chosen}| )*")
