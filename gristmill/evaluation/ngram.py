"""An interpolated modified Kneser-Ney model over token ids: the honest baseline of a small language model.

Sorting does the counting: an n-gram's number is the rank of (number of its first n-1 tokens, last token) among all
that occur, so that counting is one sort an order and looking up is one binary search an order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class _Order:
    """The n-grams of one length, by number: sorted keys, discounted counts; and what a context adds up to."""

    keys: np.ndarray
    """(grams,) int64: number of the context x vocabulary + last token, ascending."""
    discounted: np.ndarray
    """(grams,) float64: count - discount, at least 0."""
    total: np.ndarray
    """(contexts,) float64: sum of counts after a context."""
    left: np.ndarray
    """(contexts,) float64: what the discounts took away, shared out by the next shorter context."""


class KneserNey:
    """p(token | up to n-1 tokens before it), interpolated modified Kneser-Ney (Chen and Goodman 1998, section 3).

    The longest order counts occurrences; a shorter one counts the distinct tokens to the left of an n-gram, and
    every start of a segment is a left neighbour of its own. Discounts are estimated from counts of counts for each
    order. The unigrams are interpolated with the uniform distribution, so that no token has probability 0.
    """

    def __init__(self, vocab_size: int, order: int) -> None:
        if vocab_size < 1 or order < 1:
            raise ValueError("vocabulary and order must be at least 1")
        self.vocab_size, self.order = vocab_size, order
        self.unigram = np.full(vocab_size, 1 / vocab_size)
        self._orders: list[_Order] = []

    @classmethod
    def train(cls, segments: Sequence[np.ndarray], vocab_size: int, order: int = 5) -> KneserNey:
        """Count n-grams of length 1 to `order` within segments, each (tokens,) of ids; none crosses their borders.

        The first token of a segment is context only: it is never predicted, by this model or by the other.
        """
        model = cls(vocab_size, order)
        tokens, places = _lay_out(segments)
        if not len(tokens):
            return model
        numbers, tables, firsts = [tokens], [np.arange(vocab_size)], [np.empty(0, np.int64)]
        for n in range(2, order + 1):
            at = np.flatnonzero(places >= n - 1)
            keys = numbers[-1][at - 1] * vocab_size + tokens[at]
            unique, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
            number = np.full(len(tokens), -1, dtype=np.int64)
            number[at] = inverse
            numbers.append(number)
            tables.append(unique)
            firsts.append(at[first])
        for n in range(1, order + 1):
            counts = model._counts(n, numbers, places, len(tables[n - 1]), firsts)
            if n == 1:
                model._add_unigrams(counts)
            else:
                contexts = vocab_size if n == 2 else len(tables[n - 2])
                model._orders.append(_table(tables[n - 1], counts, contexts, vocab_size))
        return model

    def _counts(self, n: int, numbers: list[np.ndarray], places: np.ndarray, grams: int,
                firsts: list[np.ndarray]) -> np.ndarray:
        """Occurrences for the longest order, distinct left neighbours for the others."""
        number = numbers[n - 1]
        if n == self.order:
            occurring = number[places >= max(n - 1, 1)]
        else:
            occurring = number[firsts[n]]  # one place for each distinct n-gram that is one token longer
            if n > 1:
                occurring = np.concatenate([occurring, number[places == n - 1]])
        return np.bincount(occurring, minlength=grams)

    def _add_unigrams(self, counts: np.ndarray) -> None:
        discount = discounts(counts)[np.minimum(counts, 3)]
        total = counts.sum()
        if total:
            self.unigram = (counts - discount) / total + discount.sum() / total / self.vocab_size

    def log_probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """Natural log of p(token | tokens before it) for all but the first of `tokens` (n,): (n - 1,) float64."""
        probabilities, _ = self._walk(np.asarray(tokens, dtype=np.int64))
        return np.log(probabilities[1:])

    def distribution(self, context: Sequence[int]) -> np.ndarray:
        """p(. | context) over the whole vocabulary, (vocab,): the slow form, which tests add up to 1."""
        p = self.unigram.copy()
        known = np.asarray(context, dtype=np.int64)
        for n, table in enumerate(self._orders, 2):
            if len(known) < n - 1:
                break
            _, numbers = self._walk(known[len(known) - (n - 1):])
            number = int(numbers[-1])
            if number < 0 or table.total[number] == 0:
                break
            start, stop = np.searchsorted(table.keys, [number * self.vocab_size, (number + 1) * self.vocab_size])
            p *= table.left[number] / table.total[number]
            p[table.keys[start:stop] % self.vocab_size] += table.discounted[start:stop] / table.total[number]
        return p

    def _walk(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (n,) given what stands before, and the number of the longest n-gram from the start that
        ends at each place: for a row of at most order - 1 tokens its last one is that of the whole row, or -1."""
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise ValueError(f"token ids outside the vocabulary of {self.vocab_size}")
        p = self.unigram[tokens]
        numbers = tokens
        longest = tokens.copy()
        for n, table in enumerate(self._orders, 2):
            context = np.full(len(tokens), -1, dtype=np.int64)
            context[n - 1:] = numbers[n - 2:-1]
            at = np.flatnonzero(context >= 0)
            keys = context[at] * self.vocab_size + tokens[at]
            found = np.minimum(np.searchsorted(table.keys, keys), max(len(table.keys) - 1, 0))
            hit = table.keys[found] == keys if len(table.keys) else np.zeros(len(at), dtype=bool)
            total, left = table.total[context[at]], table.left[context[at]]
            seen = total > 0
            gained = np.where(hit, table.discounted[found], 0.0) if len(table.keys) else 0.0
            here = np.where(seen, (gained + left * p[at]) / np.where(seen, total, 1.0), p[at])
            p[at] = here
            numbers = np.full(len(tokens), -1, dtype=np.int64)
            numbers[at[hit]] = found[hit]
            longest[n - 1:] = numbers[n - 1:]
        return p, longest


def discounts(counts: np.ndarray) -> np.ndarray:
    """(0, D1, D2, D3+) from the counts of one order (Chen and Goodman 1998, eq. 26): Y = n1 / (n1 + 2 n2),
    Dk = k - (k+1) Y n(k+1) / nk. Where a count of counts is 0 the usual 0.5, 1, 1.5 stand in."""
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    result = np.array([0.0, 0.5, 1.0, 1.5])
    if n1 and n2:
        y = n1 / (n1 + 2 * n2)
        estimates = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3 if n3 else 1.5)
        for k, estimate in enumerate(estimates, 1):
            if 0 < estimate <= k:
                result[k] = estimate
    return result


def _table(keys: np.ndarray, counts: np.ndarray, contexts: int, vocab_size: int) -> _Order:
    discount = discounts(counts)[np.minimum(counts, 3)]
    context = keys // vocab_size
    return _Order(keys, counts - discount, np.bincount(context, weights=counts, minlength=contexts),
                  np.bincount(context, weights=discount, minlength=contexts))


def _lay_out(segments: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All tokens end to end, int64, and the place of each within its segment."""
    kept = [s for s in segments if len(s)]
    if not kept:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    lengths = np.array([len(s) for s in kept])
    tokens = np.concatenate(kept).astype(np.int64)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return tokens, np.arange(len(tokens)) - starts
