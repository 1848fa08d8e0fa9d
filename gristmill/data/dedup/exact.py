"""Exact duplicates: documents whose 128-bit hashes are equal, of their words or of their address."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import xxhash

from gristmill.data.dedup.grouping import MEMORY, equal_groups


def content_hash(text: str) -> bytes:
    """16 bytes (XXH3-128) of the words of a text joined by single spaces."""
    return xxhash.xxh3_128_digest(" ".join(text.split()).encode("utf-8", "surrogatepass"))


def hash_columns(digests: Iterable[bytes]) -> np.ndarray:
    """(documents, 2) uint64 from 16-byte hashes; b"" (nothing to compare) becomes (0, 0)."""
    return np.frombuffer(b"".join(digest or bytes(16) for digest in digests), np.uint64).reshape(-1, 2)


def equal_documents(parts: Sequence[np.ndarray], order: np.ndarray, *, memory: int = MEMORY) -> np.ndarray:
    """(documents,) int64: the best document with the same hash, or -1 for the best itself and for those without equals.

    parts: (documents of a file, 2) uint64 for each file, see `hash_columns`; documents with (0, 0) equal nobody. order:
    numbers of the documents that take part, the best first. memory: bytes that grouping may use. 24 bytes a document.
    """
    total = sum(len(part) for part in parts)
    place = np.full(total, -1, np.int64)
    place[order] = np.arange(len(order))
    second = np.concatenate([np.empty(0, np.uint64), *(part[:, 1] for part in parts)])
    best_of = np.full(total, -1, np.int64)
    for items, starts in equal_groups([part[:, 0] for part in parts], memory=memory, skip=0):
        group = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(items))))
        group, items = group[place[items] >= 0], items[place[items] >= 0]
        sort = np.lexsort((place[items], second[items], group))
        group, items = group[sort], items[sort]
        lead = np.ones(len(items), bool)
        lead[1:] = (group[1:] != group[:-1]) | (second[items[1:]] != second[items[:-1]])
        best = items[lead][np.cumsum(lead) - 1]
        best_of[items[~lead]] = best[~lead]
    return best_of
