"""Parts of other tools' n-gram definitions, over all texts of a batch."""

from __future__ import annotations

import numpy as np

from gristmill.data.signals.batch import Batch, sums


def most_common(positions: np.ndarray, groups: np.ndarray, texts: np.ndarray, batch: Batch, n: int
                ) -> tuple[np.ndarray, np.ndarray]:
    """(texts,) how often the most common n-gram of each text occurs, and where it begins; of equally common ones the
    first, as `collections.Counter` has it: an n-gram that occurs once is the most common one of a text without
    repeats. 0 for texts with fewer than n words. positions, groups: from `repeated_ngrams`."""
    begins = batch.word_bounds[:-1]
    counts = (batch.word_counts >= n).astype(np.int64)
    if not len(positions):
        return counts, begins
    first = np.flatnonzero(np.diff(groups, prepend=-1))
    times = np.diff(np.append(first, len(groups)))
    total = len(batch.words)
    best = np.full(len(batch), -1)
    # more often beats earlier, earlier beats later
    np.maximum.at(best, texts[positions[first]], times * (total + 1) + total - positions[first])
    some = best >= 0
    return np.where(some, best // (total + 1), counts), np.where(some, total - best % (total + 1), begins)


def occurrences(ends: np.ndarray, batch: Batch, n: int) -> np.ndarray:
    """(texts,) characters of the words of all n-grams of each text, a word counted with every n-gram that holds it.
    ends: (words + 1,) characters before each word."""
    sizes = np.zeros(len(batch.words), np.int64)
    if len(sizes) >= n:
        sizes[: len(sizes) - n + 1] = ends[n:] - ends[:-n]
    inside = np.arange(len(sizes)) + n <= np.repeat(batch.word_bounds[1:], batch.word_counts)
    return sums(sizes * inside, batch.word_bounds)
