"""Signal `length_v1`: how much text there is, and the shape of its lines."""

from __future__ import annotations


def length_v1(text: str) -> dict[str, float]:
    """characters; words (split at white space); lines (that are not blank); mean and longest line in characters;
    mean_word_length in characters. All are 0 for empty text."""
    lines = [len(line) for line in text.split("\n") if line and not line.isspace()]
    words = text.split()
    return {
        "characters": len(text),
        "words": len(words),
        "lines": len(lines),
        "mean_line_length": sum(lines) / len(lines) if lines else 0.0,
        "max_line_length": max(lines, default=0),
        "mean_word_length": sum(map(len, words)) / len(words) if words else 0.0,
    }
