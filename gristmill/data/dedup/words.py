"""The words of many texts as 64-bit numbers, in few numpy passes over all of them.

A word is a maximal run of letters, digits, marks (Unicode category M) and `_`; upper and lower case are one (by the
one-to-one case folding of each character). A character of a script that is written without spaces (Chinese, Japanese,
Thai, Lao, Khmer, Burmese) is a word of its own. A run longer than `LONGEST` characters is no word (base64, minified
code, DNA): it is cut where two neighbouring characters have a certain hash, every 8 characters on average, so an edit
moves the cuts near it only.

A word's number is a polynomial over its characters' random numbers modulo 2**64 (Karp and Rabin 1987), taken from one
running sum over the whole batch, and then mixed. Two different words share a number with a probability of about 2**-64.
"""

from __future__ import annotations

import functools
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

LONGEST = 64
"""Characters of the longest run that counts as one word."""
BLOCK = 1 << 17
"""Characters that are worked on at once: the arrays of a block (8 bytes a character) stay in the cache."""

_UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x3FFFF),
)
_ASSIGNED = ((0, 0x323B0), (0xE0100, 0xE01F0))
"""Where Unicode has letters, digits and marks at all; the tables are not filled elsewhere."""
_WORD, _ALONE = 1, 2
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_BASE = 0xD6E8FEB86659FD93


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al. 2014): a bijection of uint64 that leaves no visible pattern."""
    values = values + _GOLDEN
    high = values >> np.uint64(30)
    for shift, factor in ((27, 0xBF58476D1CE4E5B9), (31, 0x94D049BB133111EB)):
        values ^= high
        values *= np.uint64(factor)
        np.right_shift(values, np.uint64(shift), out=high)
    values ^= high
    return values


def is_word_character(character: str) -> bool:
    """Does this character belong into a word?"""
    return character == "_" or character.isalnum() or unicodedata.category(character).startswith("M")


def fold(character: str) -> str:
    """The character that stands for all its cases; characters that fold to several are left as they are."""
    for folded in (character.casefold(), character.lower()):
        if len(folded) == 1:
            return folded
    return character


@functools.cache
def _tables(size: int) -> tuple[np.ndarray, np.ndarray]:
    """(class, random number) of every code point below `size`; both are 0 for what is not in a word."""
    classes, folded = np.zeros(size, np.uint8), np.arange(size, dtype=np.uint64)
    for first, last in _ASSIGNED:
        for point in range(first, min(last, size)):
            character = chr(point)
            if is_word_character(character):
                classes[point], folded[point] = _WORD, ord(fold(character))
    for first, end in _UNSPACED:
        block = classes[first : end + 1]
        block[block > 0] = _ALONE
    return classes, np.where(classes > 0, mix(folded), np.uint64(0))


@functools.cache
def powers(base: int, size: int) -> np.ndarray:
    """(size,) uint64: base**0, base**1, ... modulo 2**64."""
    factors = np.full(size, base, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


def windows(values: np.ndarray, starts: np.ndarray, ends: np.ndarray, base: int) -> np.ndarray:
    """One number for each stretch values[start:end]: sum over i of values[start + i] * base**i, modulo 2**64.

    values: (n,) uint64. starts, ends: indices. base: odd, so that it has an inverse modulo 2**64.
    """
    size = 1 << max(12, len(values).bit_length())
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * powers(base, size)[: len(values)], out=sums[1:])
    found = sums[ends]
    found -= sums[starts]
    found *= powers(pow(base, -1, 1 << 64), size)[starts]
    return found


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a batch of texts.

    hashes: (words,) uint64, in order. offsets: (texts + 1,) int64; text i has the words offsets[i] to offsets[i + 1].
    begins, ends: (words,) int64, in characters from the beginning of each text; None if they were not asked for.
    """

    hashes: np.ndarray
    offsets: np.ndarray
    begins: np.ndarray | None = None
    ends: np.ndarray | None = None

    @property
    def counts(self) -> np.ndarray:
        """(texts,) number of words of each text."""
        return np.diff(self.offsets)


def split_words(texts: Sequence[str], *, positions: bool = False) -> Words:
    """The words of each text; with their places if `positions`."""
    hashes, begins, ends, counts = [], [], [], []
    for block, edges in _blocks(texts):
        values, alone = _values(block)
        inside = values != 0
        starts = _starts(values, inside, alone)
        bounds = np.append(starts, len(values))
        hashes.append(mix(windows(values, bounds[:-1], bounds[1:], _BASE)))
        first = np.searchsorted(starts, edges)  # each text's first word; words never straddle texts
        counts.append(np.diff(first))
        if positions:
            shift = np.repeat(edges[:-1], counts[-1])
            begins.append(starts - shift)
            ends.append(_ends(inside, starts, bounds) - shift)
    offsets = np.concatenate(([0], np.cumsum(np.concatenate([*counts, np.empty(0, np.int64)])))).astype(np.int64)
    return Words(
        _join(hashes, np.uint64), offsets, _join(begins, np.int64) if positions else None,
        _join(ends, np.int64) if positions else None,
    )


def word_hashes(text: str) -> np.ndarray:
    """One uint64 a word of one text, in order."""
    return split_words([text]).hashes


def _join(parts: list[np.ndarray], kind: type) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty(0, kind)])


def _blocks(texts: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Texts joined by a line feed into blocks of about `BLOCK` characters, with the place where each begins."""
    start = size = 0
    for number, text in enumerate(texts):
        size += len(text) + 1
        if size >= BLOCK or number == len(texts) - 1:
            group = texts[start : number + 1]
            edges = np.zeros(len(group) + 1, np.int64)
            np.cumsum([len(t) + 1 for t in group], out=edges[1:])
            yield "\n".join(group) + "\n", edges
            start, size = number + 1, 0


def _values(block: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The random number of every character, 0 for those in no word; and which ones are words alone, if any is."""
    if block.isascii():
        return _tables(128)[1].take(np.frombuffer(block.encode(), np.uint8).astype(np.intp)), None
    points = np.frombuffer(block.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.intp)
    classes, numbers = _tables(sys.maxunicode + 1)
    alone = classes.take(points) == _ALONE if points.max() >= _UNSPACED[0][0] else None
    return numbers.take(points), alone


def _starts(values: np.ndarray, inside: np.ndarray, alone: np.ndarray | None) -> np.ndarray:
    """Indices where a word starts."""
    begins = inside.copy()
    begins[1:] &= ~inside[:-1] if alone is None else alone[1:] | alone[:-1] | ~inside[:-1]
    starts = np.flatnonzero(begins)
    wide = np.flatnonzero(np.diff(starts, append=len(values)) > LONGEST)
    if not len(wide):
        return starts
    bounds = np.append(starts, len(values))
    more = []
    for begin, end in zip(starts[wide].tolist(), bounds[wide + 1].tolist(), strict=True):
        run = values[begin:end]
        run = run[: len(run) if run.all() else int(np.argmin(run != 0))]
        if len(run) > LONGEST:
            cuts = mix(run[1:] + run[:-1] * np.uint64(_BASE)) & np.uint64(7)
            more.append(begin + 1 + np.flatnonzero(cuts == 0))
    return np.sort(np.concatenate([starts, *more]))


def _ends(inside: np.ndarray, starts: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Index after the last character of each word: the first that is in no word, or where the next word starts."""
    outside = np.flatnonzero(~inside)
    return np.minimum(outside[np.searchsorted(outside, starts)], bounds[1:]) if len(starts) else starts
