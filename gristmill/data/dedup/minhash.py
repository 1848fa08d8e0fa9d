"""MinHash signatures and locality-sensitive hashing: which documents are worth a look.

Broder, "On the resemblance and containment of documents" (1997); banding: Leskovec, Rajaraman, Ullman, "Mining of
Massive Datasets", section 3.4; keeping few bits of each minimum: Li and Koenig, "b-Bit Minwise Hashing" (2010). What
comes out are candidates, never a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gristmill.data.dedup.shingles import SHINGLE, grams
from gristmill.data.dedup.words import Words, mix, split_words

PERMUTATIONS = 128
MISSED = 1e-3
"""Chance, at most, that a pair exactly at the threshold never becomes a candidate."""
MARGIN = 0.2
"""A pair at the threshold whose signatures agree less than this below it is as rare as exp(-2 * 128 * 0.2**2) = 4e-5
(Hoeffding 1963); so the many chance members of a large bucket cost no exact comparison."""
EMPTY = np.uint32(0xFFFFFFFF)
"""What a signature holds everywhere if there is no shingle."""
_MULTIPLIERS = (mix(np.arange(PERMUTATIONS, dtype=np.uint64)) >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
_ROW_FACTORS = mix(np.arange(1 << 10, 2 << 10, dtype=np.uint64)) | np.uint64(1)


def signatures(texts: Sequence[str] | Words, n: int = SHINGLE) -> np.ndarray:
    """(texts, PERMUTATIONS) uint32: the smallest number of each text's shingles under each permutation.

    The permutations are multiplications by odd numbers modulo 2**32 of the upper half of each shingle's number.
    """
    values, offsets = grams(texts if isinstance(texts, Words) else split_words(texts), n)
    return smallest((values >> np.uint64(32)).astype(np.uint32), offsets)


def smallest(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(sets, PERMUTATIONS) uint32, from the sets' numbers (uint32), one set after the other, and their offsets."""
    found = np.full((PERMUTATIONS, len(offsets) - 1), EMPTY)
    filled = np.flatnonzero(np.diff(offsets))
    step = 0
    while step < len(filled):
        # As many sets as fit into the cache, but at least one.
        stop = max(int(np.searchsorted(offsets[filled], offsets[filled[step]] + (1 << 16))), step + 1)
        chosen = filled[step:stop]
        first, last = int(offsets[chosen[0]]), int(offsets[chosen[-1] + 1])
        part, starts = values[first:last], offsets[chosen] - first
        product, rows = np.empty_like(part), np.empty((PERMUTATIONS, len(chosen)), np.uint32)
        for factor, row in zip(_MULTIPLIERS, rows, strict=True):
            np.multiply(part, factor, out=product)
            np.minimum.reduceat(product, starts, out=row)
        found[:, chosen] = rows
        step = stop
    return np.ascontiguousarray(found.T)


def banding(threshold: float) -> tuple[int, int]:
    """(bands, rows): the longest rows, then the fewest bands, that miss a pair at the threshold at most `MISSED`.

    P(missed) = (1 - threshold**rows)**bands, with bands * rows <= PERMUTATIONS.
    """
    best = (PERMUTATIONS, 1)
    for rows in range(1, PERMUTATIONS + 1):
        chance = 1 - threshold**rows
        bands = 1 if chance <= 0 else math.ceil(math.log(MISSED) / math.log(chance)) if chance < 1 else PERMUTATIONS + 1
        if bands * rows > PERMUTATIONS:
            break
        best = (bands, rows)
    return best


def candidate_chance(similarity: float, bands: int, rows: int) -> float:
    """P(two documents of this Jaccard similarity agree in a whole band) = 1 - (1 - similarity**rows)**bands."""
    return 1 - (1 - similarity**rows) ** bands


def band_hashes(minima: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """(bands, documents) uint64: one number for each band of signatures (documents, PERMUTATIONS).

    Band by band, as they are read again. A document without shingles has 0 in all its bands, and nobody else has.
    """
    found = np.zeros((bands, len(minima)), np.uint64)
    for band in range(bands):
        for row in range(rows):
            found[band] += minima[:, band * rows + row] * _ROW_FACTORS[row]
    found = mix(found)
    found[found == 0] = 1
    found[:, (minima == EMPTY).all(axis=1)] = 0
    return found


def sketches(minima: np.ndarray) -> np.ndarray:
    """(documents, PERMUTATIONS) uint8: the lowest byte of each minimum.

    Two documents of similarity J agree in a share of J + (1 - J) / 256 of the places.
    """
    return minima.astype(np.uint8)
