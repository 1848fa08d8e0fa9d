"""Signal `words_v1`: how varied the words of a text are.

Definitions of ours for statistics that many tools have (e.g. the share of unique words and the unigram entropy of the
RedPajama-v2 quality signals, Weber et al. 2024, section 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gristmill.data.signals.batch import Batch, bounds, maxima, share, sums
from gristmill.data.signals.signal import signal
from gristmill.data.signals.symbols import stop_words

_UNIT = 1 << 28
"""Logarithms are added as whole multiples of 1 / _UNIT: the sum does not depend on the order."""


@signal
def words_v1(batch: Batch) -> dict[str, np.ndarray]:
    """Words are split at white space and compared as they stand. unique: different words, over words. entropy: of the
    distribution of the words, in bits a word. stop_words: share of the words that are one of the eight of
    `gopher_symbols_v2`. upper_case: share of the words with at least two letters and no lower-case one. longest: the
    longest word in characters. 0 for empty text."""
    keys = np.sort(batch.word_texts * max(len(batch.vocabulary), 1) + batch.words)
    starts = np.ones(len(keys), bool)
    starts[1:] = keys[1:] != keys[:-1]
    first = np.flatnonzero(starts)
    times = np.diff(np.append(first, len(keys)))
    edges = bounds(sums(starts, batch.word_bounds))
    logs = np.rint(times * np.log2(times) * _UNIT).astype(np.int64)
    total = batch.word_counts
    mean = share(sums(logs, edges), total * _UNIT)
    different = np.diff(edges)
    return {
        "unique": share(different, total),
        "entropy": np.where(different > 1, np.log2(np.maximum(total, 1)) - mean, 0.0),
        "stop_words": share(sums(batch.per_word(stop_words) > 0, batch.word_bounds), total),
        "upper_case": share(sums(batch.per_word(_upper_case), batch.word_bounds), total),
        "longest": maxima(batch.word_sizes, batch.word_bounds),
    }


def _upper_case(words: Sequence[str]) -> list[bool]:
    return [word.isupper() and sum(map(str.isalpha, word)) > 1 for word in words]
