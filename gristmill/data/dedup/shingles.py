"""Shingles: the sets of word n-grams by which texts are compared.

A text with fewer than n words has one shingle, all its words; a text without words has none. Two different n-grams get
the same number with a probability of about 2**-64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gristmill.data.dedup.words import Words, is_word_character, mix, split_words, windows, word_hashes

SHINGLE = 5
"""Words in a shingle. Characters instead of words join what only looks alike."""
_BASE = 0xA0761D6478BD642F


def grams(words: Words, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Every n words in a row of every text of a batch, with repeats.

    Returns (grams,) uint64 and (texts + 1,) int64 offsets: text i has the grams offsets[i] to offsets[i + 1], the j-th
    of them starting at its j-th word.
    """
    count = words.counts
    each = np.where(count >= n, count - n + 1, np.minimum(count, 1))
    offsets = np.concatenate(([0], np.cumsum(each)))
    starts = np.arange(offsets[-1]) + np.repeat(words.offsets[:-1] - offsets[:-1], each)
    ends = starts + n
    if (count < n).any():
        np.minimum(ends, np.repeat(words.offsets[1:], each), out=ends)
    return mix(windows(words.hashes, starts, ends, _BASE)), offsets


def ngram_hashes(words: np.ndarray, n: int) -> np.ndarray:
    """One uint64 for every n words in a row of one text (in order, with repeats); one for all if there are fewer."""
    return grams(Words(words, np.array([0, len(words)])), n)[0]


def shingle_sets(texts: Sequence[str], n: int = SHINGLE) -> tuple[np.ndarray, np.ndarray]:
    """The sets of many texts: (shingles,) uint64, sorted and different within each text, and (texts + 1,) offsets."""
    values, edges = grams(split_words(texts), n)
    sets = [distinct(values[a:b]) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    offsets = np.concatenate(([0], np.cumsum([len(s) for s in sets]))).astype(np.int64)
    return np.concatenate([*sets, np.empty(0, np.uint64)]), offsets


def shingles(text: str, n: int = SHINGLE) -> np.ndarray:
    """The set of a text's word n-grams: sorted, different uint64 numbers."""
    return distinct(ngram_hashes(word_hashes(text), n))


def distinct(values: np.ndarray) -> np.ndarray:
    """Sorted and without repeats (`numpy.unique` takes five times as long for a few hundred)."""
    ordered = np.sort(values)
    leads = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=leads[1:])
    return ordered[leads]


def overlap(a: np.ndarray, b: np.ndarray) -> int:
    """|a and b| of two sorted sets."""
    both = np.concatenate((a, b))
    both.sort(kind="stable")  # merges two sorted runs in one go
    return int(np.count_nonzero(both[1:] == both[:-1]))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """|a and b| / |a or b| of two sorted sets; 0 if both are empty."""
    if not len(a) or not len(b):
        return 0.0
    shared = overlap(a, b)
    return shared / (len(a) + len(b) - shared)


__all__ = [
    "SHINGLE", "Words", "distinct", "grams", "is_word_character", "jaccard", "mix", "ngram_hashes", "overlap",
    "shingle_sets", "shingles", "split_words", "word_hashes",
]
