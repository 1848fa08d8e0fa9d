"""What a tokenizer does to text: compression, fertility, entries that nothing uses, what does not come back."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np

from gristmill.tokenizer.sample import Sample
from gristmill.tokenizer.tokenizer import Tokenizer

LONGEST_SHOWN = 16
"""Entries that stand for this many bytes or more are counted together."""

GROUPS_SHOWN = 24
"""Languages and domains that are listed, those with most text first; all others are one row."""

COMPRESSION_BYTES = 1_000_000
ROUND_TRIP_DOCUMENTS = 200


def measure(tokenizer: Tokenizer, sample: Sample) -> tuple[dict[str, Any], np.ndarray]:
    """Sizes of the sample, in all and by language and domain, and how often each entry is used (entries,) int64.

    A word is what stands between white space; in scripts without spaces tokens per word mean nothing.
    """
    used = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    # documents, bytes, words, tokens
    groups: dict[str, dict[str, np.ndarray]] = {
        name: defaultdict(lambda: np.zeros(4, dtype=np.int64)) for name in ("all", "languages", "domains")}
    batch: list[tuple[str, str, str]] = []

    def flush() -> None:
        nonlocal used
        ids, lengths = tokenizer.encode_flat([text for text, _, _ in batch])
        used += np.bincount(ids, minlength=len(used))
        for (text, language, domain), tokens in zip(batch, lengths.tolist(), strict=True):
            counts = np.array([1, len(text.encode()), len(text.split()), tokens])
            groups["all"]["all"] += counts
            groups["languages"][language] += counts
            groups["domains"][domain or "none"] += counts
        batch.clear()

    size = 0
    for row in sample.rows():
        batch.append(row)
        size += len(row[0])
        if size > 1 << 20:
            flush()
            size = 0
    if batch:
        flush()
    found = {name: _listed(counts) for name, counts in groups.items()}
    return {**(found["all"].get("all") or {}), "languages": found["languages"], "domains": found["domains"]}, used


def _listed(groups: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    order = sorted(groups, key=lambda name: (-int(groups[name][1]), name))
    shown = {name: groups[name] for name in order[:GROUPS_SHOWN]}
    if rest := order[GROUPS_SHOWN:]:
        shown[f"{len(rest)} others"] = np.sum([groups[name] for name in rest], axis=0)
    result = {}
    for name, counts in shown.items():
        documents, size, words, tokens = map(int, counts)
        result[name] = {"documents": documents, "bytes": size, "words": words, "tokens": tokens,
                        "bytes_per_token": round(size / max(tokens, 1), 4),
                        "tokens_per_word": round(tokens / max(words, 1), 4)}
    return result


def round_trip(tokenizer: Tokenizer, sample: Sample) -> dict[str, Any]:
    """Whether text comes back from its ids: what is promised, and what happened to the first documents."""
    equal = documents = 0
    for text, _, _ in sample.rows():
        equal += tokenizer.decode(tokenizer.encode(text)) == text
        documents += 1
        if documents == ROUND_TRIP_DOCUMENTS:
            break
    return {"guaranteed": not tokenizer.losses, "loses": tokenizer.losses, "documents": documents, "equal": equal}


def compression(tokenizer: Tokenizer, sample: Sample) -> list[dict[str, float]]:
    """Bytes per token with only the first entries of a BPE vocabulary: what a smaller one would have done."""
    specification = json.loads(tokenizer.specification)
    model = specification["model"]
    if model.get("type") != "BPE" or not model["merges"]:
        return []
    texts, size = [], 0
    for text, _, _ in sample.rows():
        texts.append(text)
        size += len(text.encode())
        if size > COMPRESSION_BYTES:
            break
    if not size:
        return []
    fixed = tokenizer.vocab_size - len(model["merges"])
    sizes = sorted({*(2**k for k in range(9, 20) if fixed < 2**k < tokenizer.vocab_size), tokenizer.vocab_size})
    points = []
    for entries in sizes:
        kept = {piece: i for piece, i in model["vocab"].items() if i < entries}
        smaller = {**specification, "model": {**model, "vocab": kept, "merges": model["merges"][:entries - fixed]}}
        whole = entries == tokenizer.vocab_size
        one = tokenizer if whole else Tokenizer(json.dumps(smaller, ensure_ascii=False), tokenizer.config)
        tokens = len(one.encode_flat(texts)[0])
        points.append({"vocab_size": entries, "bytes_per_token": round(size / max(tokens, 1), 4)})
    return points


def entry_lengths(tokenizer: Tokenizer) -> list[int]:
    """How many entries stand for 1, 2, 3, ... bytes, special tokens aside; the last number is of all longer ones."""
    counts = [0] * LONGEST_SHOWN
    for i in range(tokenizer.vocab_size):
        if size := len(tokenizer.token_bytes(i)):
            counts[min(size, LONGEST_SHOWN) - 1] += 1
    return counts


def longest_tokens(tokenizer: Tokenizer, count: int) -> list[dict[str, Any]]:
    """The tokens that stand for most bytes: where a vocabulary has swallowed rubbish, it shows here."""
    sizes = sorted(range(tokenizer.vocab_size), key=lambda i: (-len(tokenizer.token_bytes(i)), i))
    return [{"id": i, "bytes": len(tokenizer.token_bytes(i)),
             "text": tokenizer.token_bytes(i).decode("utf-8", errors="replace")} for i in sizes[:count]]
