"""Signal `characters_v1`: which kinds of characters a text is made of, and how evenly.

Definitions of ours for statistics that many tools have (e.g. the digit, upper-case and punctuation shares of the
RedPajama-v2 quality signals, Weber et al. 2024, section 4.2). Entropy: Shannon (1948), section 6.
"""

from __future__ import annotations

import functools
import unicodedata

import numpy as np

from gristmill.data.signals.batch import Batch, share
from gristmill.data.signals.signal import signal

_CLASSES = ("alphabetic", "digits", "upper_case", "white_space", "symbols")


@signal
def characters_v1(batch: Batch) -> dict[str, np.ndarray]:
    """Shares of all characters (code points): alphabetic (letters), digits (decimal digits), white_space, symbols (what
    is neither letter, digit, other number, mark nor white space). upper_case: share of the letters. entropy: of the
    distribution of the characters, in bits a character. 0 for empty text."""
    counts = np.zeros((len(batch), len(_CLASSES)), np.int64)
    entropies = np.zeros(len(batch))
    for row, text in enumerate(batch.texts):
        points, times = _histogram(text)
        counts[row] = times @ (_ascii_kinds()[points] if text.isascii() else _kinds_of(points))
        entropies[row] = entropy(times)
    columns = dict(zip(_CLASSES, counts.T, strict=True))
    upper = share(columns.pop("upper_case"), columns["alphabetic"])
    shares = {name: share(column, batch.characters) for name, column in columns.items()}
    return {**shares, "upper_case": upper, "entropy": entropies}


def entropy(times: np.ndarray) -> float:
    """Bits of a distribution in which outcomes were seen so many times (none of them 0); 0 if there are none."""
    total = times.sum()
    return float(np.log2(total) - (times * np.log2(times)).sum() / total) if len(times) > 1 else 0.0


def _histogram(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The different characters of a text as code points, ascending, and how often each occurs."""
    if text.isascii():
        counts = np.bincount(np.frombuffer(text.encode(), np.uint8), minlength=1)
        points = np.flatnonzero(counts)
        return points, counts[points]
    return np.unique(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32), return_counts=True)


@functools.cache
def _ascii_kinds() -> np.ndarray:
    return _kinds_of(np.arange(128))


def _kinds_of(points: np.ndarray) -> np.ndarray:
    """(points, classes) 0 or 1."""
    return np.array([_kinds(point) for point in points.tolist()], np.int64).reshape(-1, len(_CLASSES))


@functools.cache
def _kinds(point: int) -> tuple[int, ...]:
    character = chr(point)
    category = unicodedata.category(character)
    space = character.isspace()
    symbol = not space and category[0] not in "LNM"
    return character.isalpha(), character.isdecimal(), character.isalpha() and character.isupper(), space, symbol
