"""Texts split once into lines and words, as flat arrays that all signals share.

Words are what stands between white space (`str.split`), lines are split at newlines only, stripped, and do not count
if they are blank. White space is what `str.isspace` says: U+2028, U+0085 and U+00A0 separate words, but no lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import numpy as np

BATCH_TEXTS, BATCH_CHARACTERS = 512, 1 << 21
"""Texts and characters in a batch: many enough that the cost of a numpy call does not count, few enough that the
arrays (about 100 bytes a word) stay small. A longer text is a batch of its own."""


class _Numbers(dict[str, int]):
    """Gives every new word the next number."""

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number


class Batch:
    """Some texts with their lines and words; what a signal asks for is computed once.

    texts: the documents. lines: stripped, not blank, of all texts in order; those of text i lie between
    `line_bounds[i]` and `line_bounds[i + 1]`. words: (words,) number of each word in `vocabulary`, of all texts in
    order, bounded by `word_bounds`; `line_words` (lines,) is the number of words of each line.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = list(texts)
        raw = [text.split("\n") for text in self.texts]
        every = list(chain.from_iterable(raw))
        stripped = list(map(str.strip, every))
        full = _sizes(stripped) > 0
        self.lines = list(filter(None, stripped))
        self.line_bounds = bounds(sums(full, bounds(_sizes(raw))))
        self.line_sizes = _sizes(every)[full]
        """(lines,) characters of each line before it was stripped."""
        split = list(map(str.split, self.lines))
        self.line_words = _sizes(split)
        self.word_bounds = bounds(sums(self.line_words, self.line_bounds))
        numbers = _Numbers()
        self.words = np.fromiter(
            map(numbers.__getitem__, chain.from_iterable(split)), np.int64, int(self.word_bounds[-1])
        )
        self.vocabulary: list[str] = list(numbers)
        self.notes: dict[str, Any] = {}
        """What signals keep for each other, by name."""

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def characters(self) -> np.ndarray:
        """(texts,) characters of each text."""
        return _sizes(self.texts)

    @cached_property
    def word_counts(self) -> np.ndarray:
        """(texts,)"""
        return np.diff(self.word_bounds)

    @cached_property
    def line_counts(self) -> np.ndarray:
        """(texts,)"""
        return np.diff(self.line_bounds)

    @cached_property
    def word_texts(self) -> np.ndarray:
        """(words,) the text that each word belongs to."""
        return np.repeat(np.arange(len(self)), self.word_counts)

    @cached_property
    def word_sizes(self) -> np.ndarray:
        """(words,) characters of each word."""
        return _sizes(self.vocabulary)[self.words]

    @cached_property
    def word_characters(self) -> np.ndarray:
        """(texts,) characters in words."""
        return sums(self.word_sizes, self.word_bounds)

    def per_word(self, measure: Callable[[Sequence[str]], Sequence[float] | Sequence[int]]) -> np.ndarray:
        """(words,) what `measure` says of each word; it is asked once for every different one."""
        return np.asarray(measure(self.vocabulary) or np.empty(0, np.int64))[self.words]

    def lines_of(self) -> Iterator[list[str]]:
        """The lines of each text."""
        edges = self.line_bounds.tolist()
        return (self.lines[first:last] for first, last in pairwise(edges))


def batches(texts: Sequence[str]) -> Iterator[Batch]:
    """The texts in order, in batches of a size that suits."""
    chosen: list[str] = []
    held = 0
    for text in texts:
        if chosen and (len(chosen) >= BATCH_TEXTS or held + len(text) > BATCH_CHARACTERS):
            yield Batch(chosen)
            chosen, held = [], 0
        chosen.append(text)
        held += len(text)
    if chosen:
        yield Batch(chosen)


def bounds(counts: np.ndarray) -> np.ndarray:
    """(n + 1,) where each of n stretches of these lengths begins, and where the last one ends."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)))


def sums(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(n,) sum of the whole numbers or truth values in each of the n stretches between `edges` (n + 1,)."""
    total = bounds(values)
    return total[edges[1:]] - total[edges[:-1]]


def maxima(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(n,) the largest value of each stretch; 0 for an empty one."""
    found = np.zeros(len(edges) - 1, values.dtype)
    full = edges[1:] > edges[:-1]
    if full.any():
        found[full] = np.maximum.reduceat(values, edges[:-1][full])
    return found


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole; 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=np.asarray(whole) > 0)


def _sizes(parts: Sequence[Sequence[object]]) -> np.ndarray:
    return np.fromiter(map(len, parts), np.int64, len(parts))
