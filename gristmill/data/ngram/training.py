"""From texts to an n-gram model: tokens on disk, counts by sorting, Kneser-Ney order by order.

Memory: about 600 MB for counting, whatever the size of the text, and about 80 bytes for each different n-gram of the
order that is being smoothed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gristmill.core.errors import UserError
from gristmill.data.ngram.counts import Grams, TokenFile
from gristmill.data.ngram.model import NgramModel, Order
from gristmill.data.ngram.smoothing import count_of_counts, discounts, smoothed
from gristmill.data.ngram.table import HashTable
from gristmill.data.ngram.tokens import BEGIN, END, UNKNOWN, Unit, rows_of


def train(batches: Iterable[Sequence[str]], unit: Unit, order: int, *, min_count: int, keep_count: int,
          scratch: Path) -> NgramModel:
    """A model of some texts. min_count, keep_count: see the stage. The same texts in any batches give the same model.

    Raises UserError if there is not one token.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    file = TokenFile(scratch)
    for texts in batches:
        rows = rows_of(texts, unit)
        file.add(rows.tokens, rows.places)
    file.close()
    if not file.count:
        raise UserError("there is no text to train on", where="texts", fix="name files or a corpus with text in it")
    file.replace_rare(min_count)
    orders: list[Order] = []
    grams = file.grams(1)
    for n in range(1, order + 1):
        longer = file.grams(n + 1) if n < order else None
        if n == 1:
            first, probabilities = _unigrams(grams, longer)
            orders.append(first)
        else:
            probabilities = _order(n, grams, longer, orders, probabilities, keep_count)
        if longer is not None:
            grams = longer
    orders[-1] = Order(orders[-1].table, orders[-1].bits, np.empty(0, np.float32))  # no context of anything
    return NgramModel(unit, tuple(orders), len(orders[0].table) - 1)


def adjusted(grams: Grams, longer: Grams | None) -> np.ndarray:
    """(grams,) int64: how many different tokens stand to the left of each; how often it occurs where nothing can (the
    longest order, and n-grams that begin a text)."""
    if longer is None:
        return np.asarray(grams.raw)
    table, found = HashTable.of(np.asarray(grams.keys)), np.zeros(len(grams.keys), np.int64)
    for start in range(0, len(longer.keys), 1 << 20):
        place = table.find(np.asarray(longer.endings[start : start + (1 << 20)]))
        np.add.at(found, place, 1)
    return np.where(found > 0, found, grams.raw)


def _unigrams(grams: Grams, longer: Grams | None) -> tuple[Order, np.ndarray]:
    """Mixed with the uniform distribution over all tokens, the unknown one included, so that none has probability 0."""
    missing = [token for token in (BEGIN, END, UNKNOWN) if token not in grams.keys]
    counts = np.concatenate((adjusted(grams, longer), np.zeros(len(missing), np.int64)))
    keys = np.concatenate((grams.keys, np.array(missing, np.uint64)))
    order = np.argsort(keys)
    keys, counts = keys[order], counts[order]
    counts[keys == BEGIN] = 0  # a context only
    p, _ = smoothed(counts, np.zeros(len(keys), np.int64), 1, np.full(len(keys), 1 / (len(keys) - 1)),
                    np.ones(len(keys), bool), discounts(count_of_counts(counts)))
    return Order(HashTable.of(keys), (-np.log2(p)).astype(np.float32), np.zeros(len(keys), np.float32)), p


def _order(n: int, grams: Grams, longer: Grams | None, orders: list[Order], lower: np.ndarray,
           keep_count: int) -> np.ndarray:
    """Add the n-grams of length n to `orders`; gives their probabilities. lower: those of the order before.

    An n-gram whose context or ending was left out is left out, too: it occurs no more often than they.
    """
    shorter = orders[-1]
    counts = adjusted(grams, longer)
    discount = discounts(count_of_counts(counts))
    contexts = shorter.table.find(np.asarray(grams.contexts))
    counted = contexts >= 0
    endings = shorter.table.find(np.asarray(grams.endings)[counted])
    keep = endings >= 0
    if n > 2:
        keep &= np.asarray(grams.raw)[counted] >= keep_count
    p, left = smoothed(counts[counted], contexts[counted], len(shorter.table), lower[endings], keep, discount)
    orders[-1] = Order(shorter.table, shorter.bits, (-np.log2(left)).astype(np.float32))
    table = HashTable.of(np.asarray(grams.keys)[counted][keep])
    orders.append(Order(table, (-np.log2(p[keep])).astype(np.float32), np.zeros(len(table), np.float32)))
    return p[keep]
