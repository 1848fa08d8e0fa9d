"""What a classifier sees of a text: hashed n-grams of words and, if wanted, of characters.

Words are those of `dedup/words.py` (runs of letters, digits and marks, in one case); a character n-gram is any n
characters in a row, in lower case, with each run of white space as one space. An n-gram's number modulo the number of
buckets is its feature (Weinberger et al. 2009, without signs: with enough buckets collisions hardly matter).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import field

import numpy as np

from gristmill.core.config import config, require
from gristmill.data.dedup.shingles import grams
from gristmill.data.dedup.words import Words, mix, split_words, windows

VERSION = "hashed_ngrams_v1"
"""The name of this definition; a stored model says which one it was made with."""
_BASE = 0x9FB21C651E98DF25
_SPACE = re.compile(r"\s+")


@config
class Features:
    """What a classifier sees of a text."""

    words: int = 2
    """N-grams of 1 to so many words (0 to 4); 0 uses none."""
    characters: list[int] = field(default_factory=list)
    """Also n-grams of so many characters, e.g. [3, 4]: for short texts, misspellings and languages with many forms of
    a word. They take several times as long."""
    buckets: int = 1 << 20
    """Numbers that n-grams are hashed to (a power of two, 1,024 to 16,777,216); 2 bytes each for every label."""

    def __post_init__(self) -> None:
        require(0 <= self.words <= 4, "words", "must be 0 to 4")
        require(all(1 <= n <= 8 for n in self.characters), "characters", "each must be 1 to 8")
        require(self.words > 0 or bool(self.characters), "words", "0 needs `characters`: there is nothing to see")
        require(1 << 10 <= self.buckets <= 1 << 24 and self.buckets & (self.buckets - 1) == 0, "buckets",
                "must be a power of two from 1,024 to 16,777,216")


def features(texts: Sequence[str], options: Features, words: Words | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The features of each text, with repeats: (features,) int64 below `buckets`, and (texts + 1,) offsets.

    words: those of the texts, where they are known already.
    """
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    if options.words:
        words = split_words(texts) if words is None else words
        parts.append((words.hashes, words.offsets))
        parts += [_full_grams(words, n) for n in range(2, options.words + 1)]
    if options.characters:
        parts += character_grams(texts, options.characters)
    mask = np.uint64(options.buckets - 1)
    values, offsets = parts[0] if len(parts) == 1 else _merged(parts)
    return (values & mask).astype(np.int64), offsets


def _full_grams(words: Words, n: int) -> tuple[np.ndarray, np.ndarray]:
    """`grams` without those of texts of fewer than n words."""
    values, offsets = grams(words, n)
    short = (words.counts < n) & (words.counts > 0)
    if short.any():
        keep = np.ones(len(values), bool)
        keep[offsets[:-1][short]] = False
        values = values[keep]
        offsets = np.concatenate(([0], np.cumsum(np.diff(offsets) - short)))
    return values, offsets


def character_grams(texts: Sequence[str], sizes: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each size n: every n characters in a row as one number, and where those of each text begin."""
    plain = [_SPACE.sub(" ", text).strip().lower() for text in texts]
    points = np.frombuffer("".join(plain).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    values, lengths = mix(points), np.array([len(text) for text in plain], np.int64)
    edges = np.concatenate(([0], np.cumsum(lengths)))
    found = []
    for n in sizes:
        each = np.maximum(lengths - n + 1, 0)
        offsets = np.concatenate(([0], np.cumsum(each)))
        starts = np.arange(offsets[-1]) + np.repeat(edges[:-1] - offsets[:-1], each)
        found.append((mix(windows(values, starts, starts + n, _BASE) + np.uint64(n)), offsets))
    return found


def _merged(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Several kinds of features as one: those of a text side by side."""
    counts = [np.diff(offsets) for _, offsets in parts]
    offsets = np.concatenate(([0], np.cumsum(np.sum(counts, axis=0))))
    values, start = np.empty(int(offsets[-1]), np.uint64), offsets[:-1].copy()
    for (part, places), count in zip(parts, counts, strict=True):
        values[np.arange(len(part)) + np.repeat(start - places[:-1], count)] = part
        start += count
    return values, offsets


__all__ = ["VERSION", "Features", "character_grams", "features"]
