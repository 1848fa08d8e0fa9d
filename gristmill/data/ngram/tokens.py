"""Texts as rows of 64-bit tokens: words, or characters, with a marker at the beginning and at the end of each text.

A text is one row: line breaks are no ends of sentences, because web text and hard-wrapped books put them elsewhere.
Words are those of `dedup/words.py`: one case, no punctuation. Characters are code points, with each run of white space
as one space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gristmill.data.dedup.words import Words, mix, powers, split_words

Unit = Literal["word", "character"]
VERSION = "ngram_tokens_v1"
"""The name of this definition; a stored model says which one it was made with."""
BEGIN, END, UNKNOWN = (np.uint64(value) for value in
                       (0x1B873593CC9E2D51, 0x85EBCA6BC2B2AE35, 0x27D4EB2F165667C5))
"""Tokens that no word or character has (by 2**-64)."""
_CHARACTERS = np.uint64(1) << np.uint64(40)
_BASE = 0xF1357AEA2E62A9C5


@dataclass(frozen=True, slots=True)
class Rows:
    """Texts as tokens end to end, each row with its markers.

    tokens: (tokens,) uint64. edges: (texts + 1,) int64. text_bytes: (texts,) of UTF-8, white space runs as one.
    sizes: (tokens,) characters of each token, 0 for markers.
    """

    tokens: np.ndarray
    edges: np.ndarray
    text_bytes: np.ndarray
    sizes: np.ndarray

    @property
    def places(self) -> np.ndarray:
        """(tokens,) the place of each token in its row, from 0."""
        return np.arange(len(self.tokens)) - np.repeat(self.edges[:-1], np.diff(self.edges))


def rows_of(texts: Sequence[str], unit: Unit, words: Words | None = None) -> Rows:
    """The tokens of each text. words: those of the texts with their places, where they are known already."""
    plain = [" ".join(text.split()) for text in texts]
    text_bytes = np.array([len(text) if text.isascii() else len(text.encode("utf-8", "replace")) for text in plain],
                          np.int64)
    if unit == "word":
        if words is None or words.begins is None or words.ends is None:
            words = split_words(texts, positions=True)
        assert words.begins is not None
        assert words.ends is not None
        values, counts, sizes = words.hashes, words.counts, words.ends - words.begins
    else:
        points = np.frombuffer("".join(plain).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
        values, counts = mix(points + _CHARACTERS), np.array([len(text) for text in plain], np.int64)
        sizes = np.ones(len(values), np.int64)
    edges = np.concatenate(([0], np.cumsum(counts + 2))).astype(np.int64)
    tokens, all_sizes = np.empty(int(edges[-1]), np.uint64), np.zeros(int(edges[-1]), np.int64)
    tokens[edges[:-1]], tokens[edges[1:] - 1] = BEGIN, END
    inner = np.ones(len(tokens), bool)
    inner[edges[:-1]] = inner[edges[1:] - 1] = False
    tokens[inner], all_sizes[inner] = values, sizes
    return Rows(tokens, edges, text_bytes, all_sizes)


class Windows:
    """The number of every n tokens in a row: a polynomial over them modulo 2**64, mixed with n.

    The same whatever stands around them, so rows may be cut and joined at will.
    """

    def __init__(self, tokens: np.ndarray) -> None:
        size = 1 << max(12, len(tokens).bit_length())
        self.tokens = tokens
        self.sums = np.zeros(len(tokens) + 1, np.uint64)
        np.cumsum(tokens * powers(_BASE, size)[: len(tokens)], out=self.sums[1:])
        self.inverse = powers(pow(_BASE, -1, 1 << 64), size)

    def ending(self, at: np.ndarray, n: int) -> np.ndarray:
        """(at,) numbers of the n tokens that end at each of these places; n = 1 gives the tokens."""
        if n == 1:
            return self.tokens[at]
        first = at - (n - 1)
        return mix((self.sums[at + 1] - self.sums[first]) * self.inverse[first] + np.uint64(n))
