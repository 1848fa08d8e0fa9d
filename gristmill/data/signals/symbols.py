"""Signals `gopher_symbols_v1` (for prose) and `code_symbols_v1` (for programs): what a text is written with.

Source of the first: Rae et al., "Scaling Language Models: Methods, Analysis & Insights from Training Gopher"
(2021), appendix A.1.1. Source of the second: the filters described in Li et al., "StarCoder" (2023), section 3.
"""

from __future__ import annotations

import re

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
_BULLETS = ("-", "*", "•", "‣", "◦", "▪", "·", "–")
_NUMBER = re.compile(
    r"[\\0-9](?:(?<=\\)(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3})"
    r"|(?<=\b[0-9])(?:[xX][0-9a-fA-F]+|[0-9.eE+-]*))"
)
"""Escapes in strings, and numbers that begin at a word's edge: the ink of data tables."""
_RUN_LENGTH = 60
_RUN = re.compile(r"[A-Za-z0-9+/]{60,}={0,2}")
"""Runs that look like base64 or hexadecimal data."""
_ALPHANUMERIC = bytes(b for b in range(128) if chr(b).isalnum())


def gopher_symbols_v1(text: str) -> dict[str, float]:
    """Shares over words (split at white space) and over lines that are not blank; 0 for empty text.

    symbol_words: the count of `#` plus that of `...` and `…`, over words. alphabetic_words: words with at least one
    letter. bullet_lines: lines that begin with a bullet. ellipsis_lines: lines that end in an ellipsis.
    stop_words: how many different ones of eight common English words occur (a count).
    """
    words = text.split()
    lines = [line.strip() for line in text.split("\n") if line and not line.isspace()]
    symbols = text.count("#") + text.count("...") + text.count("…")
    lower = {word.lower().strip(".,;:!?\"'()") for word in words} & STOP_WORDS if words else set()
    return {
        "symbol_words": symbols / max(len(words), 1),
        "alphabetic_words": sum(any(map(str.isalpha, word)) for word in words) / max(len(words), 1),
        "bullet_lines": sum(line.startswith(_BULLETS) for line in lines) / max(len(lines), 1),
        "ellipsis_lines": sum(line.endswith(("...", "…")) for line in lines) / max(len(lines), 1),
        "stop_words": len(lower),
    }


def code_symbols_v1(text: str) -> dict[str, float]:
    """alphanumeric: share of the characters that are letters or digits. encoded: share of the characters outside
    white space that lie in escapes, numbers or runs like base64 (a data table has much of it). 0 for empty text."""
    visible = len(text) - sum(map(text.count, " \t\n\r\f"))
    ascii_text = text.encode("ascii", "ignore")
    letters = len(ascii_text) - len(ascii_text.translate(None, _ALPHANUMERIC))
    if not text.isascii():
        letters += sum(map(str.isalnum, filter(lambda c: c > "\x7f", text)))
    runs = [run for line in text.split("\n") if len(line) >= _RUN_LENGTH for run in _RUN.findall(line)]
    rest = _RUN.sub(" ", text) if runs else text
    encoded = sum(map(len, runs)) + sum(map(len, _NUMBER.findall(rest)))
    return {"alphanumeric": letters / max(len(text), 1), "encoded": encoded / max(visible, 1)}
