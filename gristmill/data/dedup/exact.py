"""Exact duplicates: texts that are equal once white space is."""

from __future__ import annotations

import xxhash


def content_hash(text: str) -> bytes:
    """16 bytes (XXH3-128) of the words of a text joined by single spaces."""
    return xxhash.xxh3_128_digest(" ".join(text.split()).encode("utf-8"))
