"""A trained n-gram model: sorted hashes with two numbers each, as memory-mappable arrays; and what it says of texts.

A lookup an order and token, all tokens of a batch at once. Bits are added up as whole numbers, so a text gets the same
result whatever batch it is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gristmill.core.errors import UserError
from gristmill.core.files import read_json, write_json
from gristmill.data.dedup.words import Words
from gristmill.data.ngram.table import HashTable
from gristmill.data.ngram.tokens import BEGIN, UNKNOWN, VERSION, Rows, Unit, Windows, rows_of

ABOUT, ARRAYS = "ngram.json", ("keys", "starts", "bits", "weights")
FORMAT = 1
CODE_POINTS = 0x110000
_PARTS = 1 << 20
"""Bits are rounded to so many parts before they are added up."""


@dataclass(frozen=True)
class Order:
    """The n-grams of one length. bits: (grams,) float32, -log2 p(last token | those before it). weights: (grams,)
    float32, -log2 of what the n-gram leaves, as a context, to shorter ones; empty for the longest order."""

    table: HashTable
    bits: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Perplexity:
    """What a model says of some texts. tokens: (texts,) that were predicted, the end of the text included. bits:
    (texts,) for them. unknown: (texts,) tokens that the model does not know. spelled: (texts,) bits to spell those."""

    tokens: np.ndarray
    bits: np.ndarray
    unknown: np.ndarray
    spelled: np.ndarray
    text_bytes: np.ndarray

    @property
    def perplexity(self) -> np.ndarray:
        """(texts,) per token: 2 ** (bits / tokens)."""
        return np.exp2(self.bits / np.maximum(self.tokens, 1))

    @property
    def bits_per_byte(self) -> np.ndarray:
        """(texts,) with unknown tokens spelled out."""
        return (self.bits + self.spelled) / np.maximum(self.text_bytes, 1)


@dataclass(frozen=True)
class NgramModel:
    """unit: what its tokens are. orders: the n-grams of length 1, 2, ... seen: different tokens that it knows, the
    end of a text and the unknown token included."""

    unit: Unit
    orders: tuple[Order, ...]
    seen: int

    @classmethod
    def open(cls, folder: Path | str) -> NgramModel:
        """The model in a folder, memory-mapped; a UserError if there is none or it is damaged."""
        folder = Path(folder)
        about = read_json(folder / ABOUT)
        if about.get("format") != FORMAT or about.get("tokens_version") != VERSION:
            raise UserError("this n-gram model was written by another version", where=str(folder), fix="train it again")
        try:
            keys, starts, bits, weights = (np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                                           for name in ARRAYS)
        except (OSError, ValueError) as error:
            raise UserError(f"the n-gram model cannot be read ({error})", where=str(folder),
                            fix="train it again") from error
        sizes, buckets = about["ngrams"], about["buckets"]
        if len(keys) != sum(sizes) or len(bits) != sum(sizes) or len(starts) != sum(buckets) or len(weights) != sum(
                sizes[:-1]):
            raise UserError("the n-gram model is damaged: its files do not fit together", where=str(folder),
                            fix="train it again")
        orders, first, bucket = [], 0, 0
        for n, (size, width) in enumerate(zip(sizes, buckets, strict=True), 1):
            row = slice(first, first + size)
            orders.append(Order(HashTable(keys[row], starts[bucket : bucket + width]), bits[row],
                                weights[row] if n < len(sizes) else np.empty(0, np.float32)))
            first, bucket = first + size, bucket + width
        return cls(about["unit"], tuple(orders), about["seen"])

    def save(self, folder: Path) -> None:
        """Write the arrays and, last, what they are."""
        parts = {"keys": [one.table.keys for one in self.orders], "starts": [one.table.starts for one in self.orders],
                 "bits": [one.bits for one in self.orders], "weights": [one.weights for one in self.orders]}
        for name, arrays in parts.items():
            target = folder / f"{name}.npy"
            part = folder / f".{name}.part.npy"
            np.save(part, np.concatenate(arrays), allow_pickle=False)
            part.replace(target)
        write_json(folder / ABOUT, {
            "format": FORMAT, "tokens_version": VERSION, "unit": self.unit, "order": len(self.orders),
            "seen": self.seen, "ngrams": [len(one.table) for one in self.orders],
            "buckets": [len(one.table.starts) for one in self.orders]})

    def measure(self, texts: Sequence[str], words: Words | None = None) -> Perplexity:
        """Bits, tokens and unknown tokens of each text. words: of the texts with places, where known already."""
        rows = rows_of(texts, self.unit, words)
        bits, unknown = self.token_bits(rows)
        whole = np.rint(bits * _PARTS).astype(np.int64)
        whole[rows.edges[:-1]] = 0
        if self.unit == "word":
            spelled = 8.0 * _row_sums(np.where(unknown, rows.sizes, 0), rows)
        else:
            spelled = np.log2(max(CODE_POINTS - self.seen, 1)) * _row_sums(unknown, rows)
        return Perplexity(np.diff(rows.edges) - 1, _row_sums(whole, rows) / _PARTS, _row_sums(unknown, rows), spelled,
                          rows.text_bytes)

    def token_bits(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """(tokens,) float64 -log2 p of each token after those before it in its row (0 for the markers of beginnings),
        and (tokens,) bool: is it unknown?"""
        first = self.orders[0]
        found = first.table.find(rows.tokens)
        unknown = found < 0
        tokens = np.where(unknown, UNKNOWN, rows.tokens)
        found[unknown] = first.table.find(np.array([UNKNOWN]))[0]
        bits = first.bits[found].astype(np.float64)
        places, windows = rows.places, Windows(tokens)
        for n in range(2, len(self.orders) + 1):
            order, shorter = self.orders[n - 1], self.orders[n - 2]
            after = np.full(len(tokens), -1, np.int64)
            after[1:] = found[:-1]
            after[places < n - 1] = -1
            at = np.flatnonzero(after >= 0)  # the context is known; the n-gram can be only if its ending is, too
            asked = at[found[at] >= 0]
            here = np.full(len(tokens), -1, np.int64)
            here[asked] = order.table.find(windows.ending(asked, n))
            bits[at] += shorter.weights[after[at]]
            hit = np.flatnonzero(here >= 0)
            bits[hit] = order.bits[here[hit]]
            found = here
        bits[tokens == BEGIN] = 0.0
        return bits, unknown


def _row_sums(values: np.ndarray, rows: Rows) -> np.ndarray:
    total = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, dtype=np.int64, out=total[1:])
    return total[rows.edges[1:]] - total[rows.edges[:-1]]
