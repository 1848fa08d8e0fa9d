"""Signal `gopher_repetition_v1`: how much of a text is said again.

Source: Rae et al., "Gopher" (2021), appendix A.1.1, table A1. Implementations of it differ; ours is exactly this:
words are split at white space, lines at newlines and stripped, paragraphs at blank lines and stripped; blank lines
and paragraphs do not count.

duplicate_lines, duplicate_paragraphs: (number - number of different ones) / number: the first is no duplicate.
duplicate_line_characters, duplicate_paragraph_characters: the same, weighted by characters.
top_ngram for n = 2, 3, 4: over all n-grams that occur at least twice, the largest share of word characters that the
    words of its occurrences cover; a word inside two overlapping occurrences counts once.
duplicate_ngram for n = 5..10: share of the word characters covered by n-grams that occurred before (every
    occurrence but the first, each word once).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_PARAGRAPHS = re.compile(r"\n\s*\n")
TOP = (2, 3, 4)
DUPLICATE = (5, 6, 7, 8, 9, 10)


def gopher_repetition_v1(text: str) -> dict[str, float]:
    """All repetition signals of a text, each a share between 0 and 1; 0 for empty text."""
    lines = [line.strip() for line in text.split("\n") if line and not line.isspace()]
    paragraphs = [part.strip() for part in _PARAGRAPHS.split(text) if part and not part.isspace()]
    words = text.split()
    values = {
        "duplicate_lines": _repeated(lines), "duplicate_line_characters": _repeated_characters(lines),
        "duplicate_paragraphs": _repeated(paragraphs),
        "duplicate_paragraph_characters": _repeated_characters(paragraphs),
    }
    vocabulary: dict[str, int] = {}
    ids = np.fromiter((vocabulary.setdefault(word, len(vocabulary)) for word in words), np.int64, len(words))
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    grams = ids
    for n in range(2, max(DUPLICATE) + 1):
        grams, first, occurrences = _extend(grams, ids, n)
        if n in TOP:
            values[f"top_{n}gram"] = _top(grams, occurrences, lengths, n)
        elif n in DUPLICATE:
            again = np.ones(len(grams), bool)
            again[first] = False
            values[f"duplicate_{n}gram"] = _covered(again, lengths, n) if len(grams) else 0.0
    return values


def _repeated(parts: Sequence[str]) -> float:
    return (len(parts) - len(set(parts))) / len(parts) if parts else 0.0


def _repeated_characters(parts: Sequence[str]) -> float:
    total = sum(map(len, parts))
    return (total - sum(map(len, set(parts)))) / total if total else 0.0


def _extend(grams: np.ndarray, ids: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of the n-grams at each position from those of the (n-1)-grams; where each number occurs first, and how
    often."""
    count = len(ids) - n + 1
    if count <= 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
    pairs = grams[:count] * (int(ids.max()) + 1) + ids[n - 1 :]
    _, first, numbers, occurrences = np.unique(pairs, return_index=True, return_inverse=True, return_counts=True)
    return numbers, first, occurrences


def _covered(marked: np.ndarray, lengths: np.ndarray, n: int) -> float:
    """Share of the characters in words covered by the marked n-grams (marked: (positions,) of truth values)."""
    steps = np.zeros(len(lengths) + 1, np.int64)
    steps[: len(marked)] += marked
    steps[n : n + len(marked)] -= marked
    return float(lengths[np.cumsum(steps[:-1]) > 0].sum() / lengths.sum())


def _top(grams: np.ndarray, occurrences: np.ndarray, lengths: np.ndarray, n: int) -> float:
    if not len(grams) or occurrences.max() < 2:
        return 0.0
    ends = np.concatenate(([0], np.cumsum(lengths)))
    sizes = ends[n:] - ends[:-n]  # characters of the n-gram at each position
    ceiling = np.bincount(grams, weights=sizes) * (occurrences > 1)  # coverage if no two occurrences overlapped
    best = 0.0
    for gram in np.argsort(-ceiling, kind="stable"):
        if ceiling[gram] <= best * lengths.sum():
            break
        best = max(best, _covered(grams == gram, lengths, n))
    return best
