"""Word n-grams of a text as 64-bit numbers, by numpy over whole texts.

A word is a maximal run of letters, digits, marks (Unicode category M) and `_`, in lower case; a character of a script
that is written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) is a word of its own. A text with fewer
than n words has one shingle, all its words; a text without words has none.

Two different n-grams get the same number with a probability of about 2**-64.
"""

from __future__ import annotations

import functools
import unicodedata

import numpy as np

SHINGLE = 5
"""Words in a shingle. Characters instead of words join what only looks alike."""

_UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x3FFFF),
)
_WORD, _ALONE = 1, 2
_BASE = np.uint64(0x9E3779B97F4A7C15)


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al. 2014): a bijection of uint64 that leaves no visible pattern."""
    values = values + _BASE
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def is_word_character(character: str) -> bool:
    """Does this character belong into a word?"""
    return character == "_" or character.isalnum() or unicodedata.category(character).startswith("M")


@functools.cache
def _tables(size: int) -> tuple[np.ndarray, np.ndarray]:
    """(class, random number) of every code point below `size`."""
    classes = np.fromiter((is_word_character(chr(point)) for point in range(size)), np.uint8, size)
    for first, last in _UNSPACED:
        block = classes[first : last + 1]
        block[block > 0] = _ALONE
    return classes, mix(np.arange(size, dtype=np.uint64))


@functools.cache
def _powers(base: int, size: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.cumprod(np.concatenate(([1], np.full(size - 1, base))).astype(np.uint64), dtype=np.uint64)


def word_hashes(text: str) -> np.ndarray:
    """One uint64 a word, in order."""
    text = text.lower()
    if text.isascii():
        points, (classes, numbers) = np.frombuffer(text.encode(), np.uint8), _tables(128)
    else:
        points, (classes, numbers) = np.frombuffer(text.encode("utf-32-le"), np.uint32), _tables(0x110000)
    kinds = classes[points]
    inside = kinds > 0
    starts = inside.copy()
    starts[1:] &= (kinds[1:] == _ALONE) | (kinds[:-1] != _WORD)
    begin = np.flatnonzero(starts)
    if not len(begin):
        return np.empty(0, np.uint64)
    letters = np.flatnonzero(inside)
    first = np.searchsorted(letters, begin)  # number of each word's first letter among all the letters
    lengths = np.diff(np.append(first, len(letters)))
    position = np.arange(len(letters)) - np.repeat(first, lengths)
    powers = _powers(0xD6E8FEB86659FD93, 1 << max(6, int(lengths.max()).bit_length()))
    sums = np.add.reduceat(numbers[points[letters]] * powers[position], first)
    return mix(sums + lengths.astype(np.uint64))


def ngram_hashes(words: np.ndarray, n: int) -> np.ndarray:
    """One uint64 for every n words in a row (in order, with repeats); one for all the words if there are fewer."""
    n = min(n, len(words))
    if n == 0:
        return words
    total = np.zeros(len(words) - n + 1, np.uint64)
    for place in range(n):
        total = mix(total + words[place : place + len(total)])
    return total


def shingles(text: str, n: int = SHINGLE) -> np.ndarray:
    """The set of a text's word n-grams: sorted, different uint64 numbers."""
    return np.unique(ngram_hashes(word_hashes(text), n))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """|a and b| / |a or b| of two sorted sets; 0 if both are empty."""
    if len(a) > len(b):
        a, b = b, a
    if not len(a):
        return 0.0
    place = np.searchsorted(b, a)
    place[place == len(b)] = 0
    shared = int((b[place] == a).sum())
    return shared / (len(a) + len(b) - shared)
