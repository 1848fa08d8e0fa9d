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
from collections.abc import Iterator, Sequence

import numpy as np

from gristmill.core.errors import InternalError
from gristmill.data.signals.batch import Batch, bounds, share
from gristmill.data.signals.signal import signal

_PARAGRAPHS = re.compile(r"\n\s*\n")
TOP = (2, 3, 4)
DUPLICATE = (5, 6, 7, 8, 9, 10)


@signal
def gopher_repetition_v1(batch: Batch) -> dict[str, np.ndarray]:
    """All repetition signals of a text, each a share between 0 and 1; 0 for empty text."""
    lines = np.array([_repeated(lines) for lines in batch.lines_of()]).reshape(-1, 2)
    paragraphs = np.array([_repeated(_paragraphs(text)) for text in batch.texts]).reshape(-1, 2)
    values = {
        "duplicate_lines": lines[:, 0], "duplicate_line_characters": lines[:, 1],
        "duplicate_paragraphs": paragraphs[:, 0], "duplicate_paragraph_characters": paragraphs[:, 1],
    }
    ends = bounds(batch.word_sizes)
    for n, positions, groups in repeated_ngrams(batch.words, batch.word_texts, len(batch.vocabulary)):
        again = np.zeros(len(groups), bool)
        again[1:] = groups[1:] == groups[:-1]
        covered = np.zeros(len(batch), np.int64)
        if n in TOP and len(positions):
            sizes = _covered(positions, again, ends, n)
            first = np.flatnonzero(~again)
            np.maximum.at(covered, batch.word_texts[positions[first]], np.add.reduceat(sizes, first))
        elif n in DUPLICATE and len(positions):
            marked = np.sort(positions[again])
            follows = np.ones(len(marked), bool)
            follows[0] = False
            np.add.at(covered, batch.word_texts[marked], _covered(marked, follows, ends, n))
        values[f"top_{n}gram" if n in TOP else f"duplicate_{n}gram"] = share(covered, batch.word_characters)
    return values


def repeated_ngrams(
    words: np.ndarray, texts: np.ndarray, vocabulary: int, longest: int = DUPLICATE[-1]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """For n = 2 to `longest`, the n-grams that occur at least twice in their text: (n, positions, groups).

    words, texts: (words,) numbers of the words, and of the texts in which they stand, ascending. positions: where the
    n-grams begin, sorted by n-gram and then by position; groups: (positions,) ascending, the same for the same n-gram
    of the same text; groups of a text lie together.

    An n-gram can only be repeated if both of its (n-1)-grams are, so little is left to compare after the first step.
    Numbers stand for n-grams without collisions.
    """
    count = len(words)
    if max(vocabulary, 1) ** 2 * (int(texts[-1]) + 1 if count else 1) >= 1 << 63:
        raise InternalError("too many words for one batch", where="repeated_ngrams")
    positions = np.flatnonzero(texts[1:] == texts[:-1])
    keys = (texts[positions] * vocabulary + words[positions]) * vocabulary + words[positions + 1]
    number = np.empty(count + 1, np.int64)
    for n in range(2, longest + 1):
        positions, groups = _repeats(keys, positions, count)
        yield n, positions, groups
        number.fill(-1)
        number[positions] = groups
        longer = number[positions + 1] >= 0
        positions, groups = positions[longer], groups[longer]
        keys = groups * vocabulary + words[positions + n]


def _repeats(keys: np.ndarray, positions: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Those positions (all below `count`) whose key another position has too, sorted by key and then by position; and
    the number of each key."""
    order = np.argsort(keys)
    keys = keys[order]
    same = keys[1:] == keys[:-1]
    member = np.zeros(len(keys), bool)
    member[1:] = same
    member[:-1] |= same
    where = np.flatnonzero(member)
    if not len(where):
        return where, where
    starts = np.ones(len(where), bool)
    starts[1:] = ~same[where[1:] - 1]
    bits = max(count - 1, 1).bit_length()
    packed = (np.cumsum(starts) - 1) << bits | positions[order[where]]
    packed.sort()
    return packed & ((1 << bits) - 1), packed >> bits


def _covered(positions: np.ndarray, follows: np.ndarray, ends: np.ndarray, n: int) -> np.ndarray:
    """Characters of the words of the n-gram at each position up to where the next one begins, if that `follows` (is
    to be counted together with the one before it). ends: characters before each word."""
    stops = positions + n
    stops[:-1] = np.where(follows[1:], np.minimum(stops[:-1], positions[1:]), stops[:-1])
    return ends[stops] - ends[positions]


def _paragraphs(text: str) -> list[str]:
    return list(filter(None, map(str.strip, _PARAGRAPHS.split(text))))


def _repeated(parts: Sequence[str]) -> tuple[float, float]:
    """Shares of parts, and of their characters, that were there before."""
    different = set(parts)
    if len(different) == len(parts):
        return 0.0, 0.0
    characters = sum(map(len, parts))
    return (len(parts) - len(different)) / len(parts), (characters - sum(map(len, different))) / characters
