"""The taggers of dolma 1.2.1 as signals: `gopher_v1`, `gopher_v2`, `c4_v1`, `c4_v2` by their own definitions.

Source: the taggers' behaviour, and Soldaini et al., "Dolma" (2024), section 3.1. Values that dolma leaves out (n-grams
of a text with too few words) are 0 here. What differs from ours stands in docs/data/rules.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from gristmill.data.signals.batch import Batch, bounds, share, sums
from gristmill.data.signals.compat.ngrams import most_common, occurrences
from gristmill.data.signals.repetition import TOP, repeated_ngrams
from gristmill.data.signals.signal import Signal, signal
from gristmill.data.signals.symbols import STOP_WORDS, alphabetic

_BULLETS = ("*", "-")
_ENDS = (".", "?", "!", '"')
_STOP_WORDS = frozenset(STOP_WORDS)
_MIN_WORDS = 3


@signal
def dolma_gopher_v1(batch: Batch) -> dict[str, np.ndarray]:
    """dolma's tagger `gopher_v1`: lines are split at newlines, blank ones count; the median word length; symbols are
    words that hold `#` or `…`; stop words are counted with repeats, as they stand; all of several equal lines are
    duplicates; the shares of characters leave white space out below the line only, so they can pass 1."""
    return _gopher(batch, [text.split("\n") if text else [] for text in batch.texts])


@signal
def dolma_gopher_v2(batch: Batch) -> dict[str, np.ndarray]:
    """dolma's tagger `gopher_v2`: as v1, but lines are split at runs of newlines."""
    return _gopher(batch, [re.split(r"\n+", text) if text else [] for text in batch.texts])


def _gopher(batch: Batch, lines: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    number = np.array([len(some) for some in lines], np.int64)
    shape = np.array([_lines(some) for some in lines], np.int64).reshape(-1, 4)
    edges, words = batch.word_bounds, batch.word_counts
    return {
        "character_count": batch.characters,
        "word_count": words,
        "median_word_length": _medians(batch),
        "symbol_to_word_ratio": share(sums(batch.per_word(_symbols), edges), words),
        "fraction_of_words_with_alpha_character": share(sums(batch.per_word(alphabetic), edges), words),
        "required_word_count": sums(batch.per_word(_required), edges),
        "fraction_of_lines_starting_with_bullet_point": share(shape[:, 0], number),
        "fraction_of_lines_ending_with_ellipsis": share(shape[:, 1], number),
        "fraction_of_duplicate_lines": share(shape[:, 2], number),
        "fraction_of_characters_in_duplicate_lines": shape[:, 3] / np.maximum(batch.word_characters, 1),
        **_ngrams(batch),
    }


def _ngrams(batch: Batch) -> dict[str, np.ndarray]:
    values = {}
    ends = bounds(batch.word_sizes)
    texts = batch.word_texts
    for n, positions, groups in repeated_ngrams(batch.words, texts, len(batch.vocabulary)):
        if n in TOP:
            times, where = most_common(positions, groups, texts, batch, n)
            sizes = ends[np.minimum(where + n, len(batch.words))] - ends[where]
            values[f"fraction_of_characters_in_most_common_{n}grams"] = share(times * sizes, batch.word_characters)
        else:
            repeated = np.zeros(len(batch), np.int64)
            np.add.at(repeated, texts[positions], ends[positions + n] - ends[positions])
            values[f"fraction_of_characters_in_duplicate_{n}grams"] = share(repeated, occurrences(ends, batch, n))
    return values


def _lines(lines: Sequence[str]) -> tuple[int, int, int, int]:
    """How many begin with a bullet, end in an ellipsis, have an equal one; characters of the latter."""
    repeated = [(line, times) for line, times in Counter(lines).items() if times > 1]
    return (
        sum(line.startswith(_BULLETS) for line in lines), sum(line.endswith("…") for line in lines),
        sum(times for _, times in repeated), sum(len(line) * times for line, times in repeated),
    )


def _medians(batch: Batch) -> np.ndarray:
    sizes, edges = batch.word_sizes, batch.word_bounds.tolist()
    return np.array([np.median(sizes[a:b]) if b > a else 0.0 for a, b in pairwise(edges)])


def _symbols(words: Sequence[str]) -> list[bool]:
    return ["#" in word or "…" in word for word in words]


def _required(words: Sequence[str]) -> list[bool]:
    return [word in _STOP_WORDS for word in words]


def dolma_c4(version: int, bad_words: Iterable[str] = ()) -> Signal:
    """dolma's tagger `c4_v1` or `c4_v2`: line_count (blank lines count), lines_with_no_ending_punctuation and
    lines_with_too_few_words (counts); has_javascript, has_lorem_ipsum, has_curly_brace, has_naughty_word (0 or 1).

    In v1 `javascript` must be a word of its own between white space, in v2 it may be part of one; phrases of the list
    must lie within one line in v1. Entries are compared as they stand with text in lower case.
    """
    entries = set(bad_words)
    phrases = {entry for entry in entries if " " in entry}
    single = entries - phrases

    def columns(batch: Batch) -> dict[str, np.ndarray]:
        rows = [_c4(text, version, single, phrases) for text in batch.texts]
        return {name: np.array([row[name] for row in rows], np.int64) for name in _C4_VALUES}

    return Signal(f"dolma_c4_v{version}", columns, dolma_c4.__doc__)


_C4_VALUES = ("line_count", "lines_with_no_ending_punctuation", "lines_with_too_few_words", "has_javascript",
              "has_lorem_ipsum", "has_curly_brace", "has_naughty_word")


def _c4(text: str, version: int, single: set[str], phrases: set[str]) -> dict[str, int]:
    lower = text.lower()
    lines = [line.strip() for line in lower.split("\n")]
    words = lower.split()
    places = lines if version == 1 else [lower]
    return {
        "line_count": len(lines),
        "lines_with_no_ending_punctuation": sum(not line.endswith(_ENDS) for line in lines),
        "lines_with_too_few_words": sum(len(line.split(None, _MIN_WORDS)) < _MIN_WORDS for line in lines),
        "has_javascript": "javascript" in lower and (version == 2 or "javascript" in words),
        "has_lorem_ipsum": "lorem ipsum" in lower,
        "has_curly_brace": "{" in lower,
        "has_naughty_word": not single.isdisjoint(words) or any(p in place for p in phrases for place in places),
    }
