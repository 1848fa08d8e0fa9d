"""Signals `gopher_symbols_v2` (for prose) and `code_symbols_v1` (for programs): what a text is written with.

Source of the first: Rae et al., "Scaling Language Models: Methods, Analysis & Insights from Training Gopher"
(2021), appendix A.1.1. Source of the second: the filters described in Li et al., "StarCoder" (2023), section 3.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from gristmill.data.signals.batch import Batch, share, sums
from gristmill.data.signals.signal import signal

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_STOP_BITS = {word: 1 << place for place, word in enumerate(STOP_WORDS)}
BULLETS = ("-", "*", "•", "‣", "◦", "▪", "·", "–")
ELLIPSES = ("...", "…")
_NUMBER = re.compile(
    r"[\\0-9](?:(?<=\\)(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3})"
    r"|(?<=\b[0-9])(?:[xX][0-9a-fA-F]+|[0-9.eE+-]*))"
)
"""Escapes in strings, and numbers that begin at a word's edge: the ink of data tables."""
_RUN_LENGTH = 60
_RUN = re.compile(r"[A-Za-z0-9+/]{60,}={0,2}")
"""Runs that look like base64 or hexadecimal data."""
_ALPHANUMERIC = bytes(b for b in range(128) if chr(b).isalnum())


@signal
def gopher_symbols_v2(batch: Batch) -> dict[str, np.ndarray]:
    """Shares over words (split at white space) and over lines that are not blank; 0 for empty text.

    hash_words: the count of `#`, over words. ellipsis_words: the count of `...` and `…`, over words.
    alphabetic_words: words with at least one letter. bullet_lines: lines that begin with a bullet. ellipsis_lines:
    lines that end in an ellipsis. stop_words: how many different ones of eight common English words occur (a count;
    in any case, with punctuation at their edges).
    """
    found = np.zeros(len(batch), np.int64)
    stops = batch.per_word(stop_words)
    there = np.flatnonzero(stops)
    np.bitwise_or.at(found, batch.word_texts[there], stops[there])
    bullets = np.fromiter((line.startswith(BULLETS) for line in batch.lines), bool, len(batch.lines))
    ellipses = np.fromiter((line.endswith(ELLIPSES) for line in batch.lines), bool, len(batch.lines))
    return {
        "hash_words": share(_count(batch, "#"), batch.word_counts),
        "ellipsis_words": share(_count(batch, "...") + _count(batch, "…"), batch.word_counts),
        "alphabetic_words": share(sums(batch.per_word(alphabetic), batch.word_bounds), batch.word_counts),
        "bullet_lines": share(sums(bullets, batch.line_bounds), batch.line_counts),
        "ellipsis_lines": share(sums(ellipses, batch.line_bounds), batch.line_counts),
        "stop_words": np.bitwise_count(found),
    }


@signal
def gopher_symbols_v1(batch: Batch) -> dict[str, np.ndarray]:
    """As `gopher_symbols_v2`, but hashes and ellipses in one sum: symbol_words. The paper bounds either, so v2 does."""
    symbols = _count(batch, "#") + _count(batch, "...") + _count(batch, "…")
    rest = {name: column for name, column in gopher_symbols_v2.columns(batch).items()
            if name not in ("hash_words", "ellipsis_words")}
    return {"symbol_words": share(symbols, batch.word_counts), **rest}


@signal
def code_symbols_v1(batch: Batch) -> dict[str, np.ndarray]:
    """alphanumeric: share of the characters that are letters or digits. encoded: share of the characters outside
    white space that lie in escapes, numbers or runs like base64 (a data table has much of it). 0 for empty text."""
    values = np.array([_code_symbols(text) for text in batch.texts]).reshape(-1, 2)
    return {"alphanumeric": values[:, 0], "encoded": values[:, 1]}


def _code_symbols(text: str) -> tuple[float, float]:
    visible = len(text) - sum(map(text.count, " \t\n\r\f"))
    ascii_text = text.encode("ascii", "ignore")
    letters = len(ascii_text) - len(ascii_text.translate(None, _ALPHANUMERIC))
    if not text.isascii():
        letters += sum(map(str.isalnum, filter(lambda c: c > "\x7f", text)))
    runs = [run for line in text.split("\n") if len(line) >= _RUN_LENGTH for run in _RUN.findall(line)]
    rest = _RUN.sub(" ", text) if runs else text
    encoded = sum(map(len, runs)) + sum(map(len, _NUMBER.findall(rest)))
    return letters / max(len(text), 1), encoded / max(visible, 1)


def alphabetic(words: Sequence[str]) -> list[bool]:
    """Has each word a letter?"""
    return [word.isalpha() or any(map(str.isalpha, word)) for word in words]


def stop_words(words: Sequence[str]) -> list[int]:
    """For each word 0, or a bit that says which stop word it is (in any case, with punctuation at its edges)."""
    return [_STOP_BITS.get(word.lower().strip(".,;:!?\"'()"), 0) for word in words]


def _count(batch: Batch, symbol: str) -> np.ndarray:
    return np.fromiter((text.count(symbol) for text in batch.texts), np.int64, len(batch))
