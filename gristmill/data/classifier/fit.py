"""Fitting: logistic regression over hashed n-grams, by stochastic gradient descent with AdaGrad.

The model is that of fastText (Joulin et al. 2017) without its hidden layer, which is linear and so adds nothing for a
few labels. What differs: a text's features are divided by the square root of their number, not by their number, so that
a long text may speak louder; and each weight has a step of its own (Duchi et al. 2011), so that rare n-grams learn. How
bold the steps are is chosen by the texts that are watched (`STEPS`). One thread, a fixed order and sums over fixed
batches: the same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gristmill.core.seeds import derive_seed

BATCH = 16
"""Texts in a step. Larger batches are faster and end lower in quality."""
PATIENCE = 2
"""So many passes without a better loss on the watched texts end the fitting."""
STEPS = ((0.2, 1e-8), (1.0, 1e-2))
"""(rate, damping) that are tried: the first lets an n-gram seen once learn as fast as any, which is best for few texts
and clean labels; the second makes it wait, which is best for many texts and doubtful labels (decisions by measurement:
docs/data/learned.md)."""


@dataclass(frozen=True)
class Bags:
    """Features of many texts, which may lie on disk, and what they are to be.

    ids: (features,) unsigned numbers below `buckets`. offsets: (texts + 1,). targets: (texts, labels) float32; 1 where
    the text has the label. multi: may a text have several labels, or none?
    """

    ids: np.ndarray
    offsets: np.ndarray
    targets: np.ndarray
    multi: bool

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The features of some texts side by side, and (rows + 1,) offsets."""
        parts = [self.ids[self.offsets[row] : self.offsets[row + 1]] for row in rows.tolist()]
        edges = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=edges[1:])
        return np.concatenate([np.empty(0, self.ids.dtype), *parts]).astype(np.int64), edges


@dataclass(frozen=True)
class Fitted:
    """weights: (labels, buckets) float32. bias: (labels,). losses: of the watched texts, after each pass; the weights
    are those of the pass with the lowest. rate, damping: the steps that were taken."""

    weights: np.ndarray
    bias: np.ndarray
    losses: list[float]
    rate: float = STEPS[0][0]
    damping: float = STEPS[0][1]


def best_fit(bags: Bags, train: np.ndarray, watched: np.ndarray, *, buckets: int, balance: float, passes: int,
             seed: int, advance: Callable[[int], None] = lambda _: None) -> Fitted:
    """The fit with the lowest loss on the texts `watched`, of those with the steps `STEPS`; arguments as of `fit`."""
    tried = [fit(bags, train, watched, buckets=buckets, balance=balance, passes=passes, seed=seed, rate=rate,
                 damping=damping, advance=advance) for rate, damping in STEPS]
    return min(tried, key=lambda one: min(one.losses))


def fit(bags: Bags, train: np.ndarray, watched: np.ndarray, *, buckets: int, balance: float, passes: int, seed: int,
        rate: float = STEPS[0][0], damping: float = STEPS[0][1],
        advance: Callable[[int], None] = lambda _: None) -> Fitted:
    """Fit weights on the texts `train`; the pass is chosen by the loss of the texts `watched` (none: the last one).

    balance: a text counts by its label's share to the power of -balance: 0 as they come, 1 every label the same.
    rate: size of AdaGrad's steps. damping: what each weight's sum of squared gradients begins with.
    advance: is told the number of texts after each step.
    """
    labels = bags.targets.shape[1]
    counts = text_weights(bags, train, balance)
    weights = np.zeros((labels, buckets), np.float32)
    squares = np.full((labels, buckets), damping, np.float32)
    gradient = np.zeros(buckets, np.float32)
    bias, bias_squares = np.zeros(labels), np.full(labels, damping)
    losses: list[float] = []
    best: tuple[np.ndarray, np.ndarray] | None = None
    for number in range(passes):
        order = np.random.default_rng(derive_seed(seed, "pass", number)).permutation(train)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            ids, edges = bags.of(rows)
            sizes = np.diff(edges)
            scale = scales(sizes)
            scores = np.stack([_sums(column.take(ids), edges) for column in weights], axis=1) * scale[:, None] + bias
            error = (probabilities(scores, bags.multi) - bags.targets[rows]) * (counts[rows] / len(rows))[:, None]
            for label in range(labels):
                np.add.at(gradient, ids, np.repeat((error[:, label] * scale).astype(np.float32), sizes))
                step = gradient.take(ids)
                # A feature that occurs twice is written twice with the same number.
                square = squares[label].take(ids) + step * step
                squares[label][ids] = square
                weights[label][ids] = weights[label].take(ids) - np.float32(rate) * step / np.sqrt(square)
                gradient[ids] = 0
            slope = error.sum(axis=0)
            bias_squares += slope * slope
            bias = bias - 0.1 * rate * slope / np.sqrt(bias_squares)
            advance(len(rows))
        if len(watched):
            losses.append(loss(bags, watched, weights, bias, text_weights(bags, watched, balance, like=train)))
            if losses[-1] <= min(losses):
                best = weights.copy(), bias.copy()
            elif len(losses) - 1 - int(np.argmin(losses)) >= PATIENCE:
                break
    weights, bias = best or (weights, bias)
    return Fitted(weights, bias, losses, rate, damping)


def text_weights(bags: Bags, rows: np.ndarray, balance: float, like: np.ndarray | None = None) -> np.ndarray:
    """(texts,) what each text counts; 1 on average over the rows. like: the rows that say how frequent labels are."""
    found = np.ones(len(bags.targets))
    share = np.maximum(bags.targets[rows if like is None else like].mean(axis=0, dtype=np.float64), 1e-9)
    if bags.multi:  # by its rarest label
        rarest = np.where(bags.targets > 0, 1 / share, 0).max(axis=1)
        rarity = np.where(rarest > 0, rarest, 1.0)
    else:
        rarity = 1 / share[bags.targets.argmax(axis=1)]
    if balance:
        found = rarity**balance
        found /= found[rows].mean() if len(rows) else 1.0
    return found


def loss(bags: Bags, rows: np.ndarray, weights: np.ndarray, bias: np.ndarray, counts: np.ndarray) -> float:
    """Mean cross-entropy of some texts, in nats a text."""
    total = 0.0
    for start in range(0, len(rows), 256):
        some = rows[start : start + 256]
        p = probabilities(raw_scores(bags, some, weights, bias), bags.multi).clip(1e-12, 1 - 1e-12)
        target = bags.targets[some]
        each = -(target * np.log(p)).sum(axis=1)
        if bags.multi:
            each -= ((1 - target) * np.log1p(-p)).sum(axis=1)
        total += float((each * counts[some]).sum())
    return total / float(counts[rows].sum())


def raw_scores(bags: Bags, rows: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(rows, labels) float64: scores before any link function."""
    ids, edges = bags.of(rows)
    return np.stack([_sums(column.take(ids), edges) for column in weights], axis=1) * scales(
        np.diff(edges))[:, None] + bias


def scales(sizes: np.ndarray) -> np.ndarray:
    """What a text's features are multiplied with: 1 / sqrt(how many there are)."""
    return 1 / np.sqrt(np.maximum(sizes, 1))


def probabilities(scores: np.ndarray, multi: bool) -> np.ndarray:
    """Softmax over the labels of each text, or with `multi` the logistic function of each score."""
    if multi:
        return 0.5 * (1 + np.tanh(0.5 * scores))
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _sums(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    total = np.zeros(len(values) + 1)
    np.cumsum(values, dtype=np.float64, out=total[1:])
    return total[edges[1:]] - total[edges[:-1]]
