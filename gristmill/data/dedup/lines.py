"""Lines and paragraphs that a source repeats in many documents: menus, notices, signatures.

Counting is exact: 8 bytes for each different line of each document, in files, grouped by `grouping.py`. Two lines share
a number with a probability of 2**-64; no filter with false positives is involved.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import xxhash

from gristmill.core.config import require
from gristmill.data.dedup.grouping import MEMORY, equal_groups

LEAST_WORDS = 3
"""Shorter lines are left alone: "Thank you." is no boilerplate, however often it is said."""
_PIECES = {"line": re.compile(r"\n"), "paragraph": re.compile(r"\n[^\S\n]*\n\s*")}


def line_keys(
    texts: Sequence[str], sources: Sequence[str], *, unit: str = "line", least: int = LEAST_WORDS
) -> np.ndarray:
    """uint64 keys of the different lines of each document, all documents after one another, to be counted together.

    sources: the source of each text; the same line of another source has another key. unit: "line" or "paragraph".
    least: words that a line must have.
    """
    found: list[int] = []
    for text, source in zip(texts, sources, strict=True):
        keys = {_key(piece, source, least) for piece in _PIECES[unit].split(text)}
        found += sorted(keys - {0})
    return np.array(found, np.uint64)


def frequent_keys(parts: Sequence[np.ndarray], more_than: int, *, memory: int = MEMORY) -> np.ndarray:
    """Sorted uint64: the keys that occur in more than `more_than` documents of their source.

    parts: what `line_keys` gave, for each file. more_than: at least 1.
    """
    require(more_than >= 1, "more_than", "must be at least 1")
    found = [np.empty(0, np.uint64)]
    starts_of = np.concatenate(([0], np.cumsum([len(part) for part in parts]))).astype(np.int64)
    for items, starts in equal_groups(parts, memory=memory):
        often = np.diff(np.append(starts, len(items))) > more_than
        leads = items[starts[often]]
        file = np.searchsorted(starts_of, leads, side="right") - 1
        for one in np.unique(file).tolist():
            found.append(np.asarray(parts[one])[leads[file == one] - starts_of[one]])
    return np.sort(np.concatenate(found))


def remove_lines(
    text: str, source: str, frequent: np.ndarray, *, unit: str = "line", least: int = LEAST_WORDS
) -> tuple[str, list[str]]:
    """The text without its frequent lines (or paragraphs), and those that went.

    What is left is joined as it was; an empty stretch that a removal leaves shrinks to one empty line.
    """
    pieces = _PIECES[unit].split(text)
    keys = np.array([_key(piece, source, least) for piece in pieces], np.uint64)
    at = np.minimum(np.searchsorted(frequent, keys), max(len(frequent) - 1, 0))
    gone = (frequent[at] == keys) & (keys > 0) if len(frequent) else np.zeros(len(keys), bool)
    if not gone.any():
        return text, []
    kept = [piece for piece, leaves in zip(pieces, gone.tolist(), strict=True) if not leaves]
    left = "\n".join(kept) if unit == "line" else "\n\n".join(kept)
    removed = [pieces[number].strip() for number in np.flatnonzero(gone).tolist()]
    return re.sub(r"\n(\s*\n){2,}", "\n\n", left).strip("\n"), removed


def _key(piece: str, source: str, least: int) -> int:
    """64-bit number of a line of a source; 0 if it has too few words to count."""
    words = piece.split()
    if len(words) < least or not any(word[0].isalnum() or word[-1].isalnum() for word in words):
        return 0
    normal = f"{source}\x1f{' '.join(words)}".encode("utf-8", "surrogatepass")
    return xxhash.xxh3_64_intdigest(normal) or 1
