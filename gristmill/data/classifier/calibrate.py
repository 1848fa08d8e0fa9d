"""Calibration: scores become probabilities that come true as often as they say.

One label a text: softmax(a * scores + b), one slope and a shift for each label (bias-corrected temperature scaling,
Alexandari et al. 2020; with b = 0 temperature scaling, Guo et al. 2017). Several labels: a slope and a shift for each
(Platt 1999). Both are fitted by Newton's method on texts that the weights were not fitted on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gristmill.data.classifier.fit import probabilities

_PULL = 1.0
"""Strength of the pull towards slope 1 and shift 0, in texts: a handful of texts cannot bend the scores."""


@dataclass(frozen=True)
class Calibration:
    """slope, shift: (labels,) float64; the scores are multiplied and moved by them."""

    slope: np.ndarray
    shift: np.ndarray

    @classmethod
    def none(cls, labels: int) -> Calibration:
        """Leaves scores as they are."""
        return cls(np.ones(labels), np.zeros(labels))

    def __call__(self, scores: np.ndarray, multi: bool) -> np.ndarray:
        """(texts, labels) probabilities."""
        return probabilities(scores * self.slope + self.shift, multi)


def calibrate(scores: np.ndarray, targets: np.ndarray, multi: bool) -> Calibration:
    """The calibration that makes the targets likeliest. scores, targets: (texts, labels)."""
    labels = scores.shape[1]
    if not len(scores):
        return Calibration.none(labels)
    if multi:
        pairs = [_newton(scores[:, [label]], targets[:, [label]], multi=True) for label in range(labels)]
        return Calibration(np.array([slope for slope, _ in pairs]), np.array([float(shift[0]) for _, shift in pairs]))
    slope, shift = _newton(scores, targets, multi=False)
    return Calibration(np.full(labels, slope), shift)


def _newton(scores: np.ndarray, targets: np.ndarray, *, multi: bool) -> tuple[float, np.ndarray]:
    """Slope and shifts of the least cross-entropy: convex, so Newton's steps with halving end at it."""
    labels = scores.shape[1]
    at = np.concatenate(([1.0], np.zeros(labels)))
    start = at.copy()

    def cost(point: np.ndarray) -> float:
        z = scores * point[0] + point[1:]
        if multi:
            each = np.logaddexp(0, z) - targets * z
        else:
            top = z.max(axis=1, keepdims=True)
            each = (top[:, 0] + np.log(np.exp(z - top).sum(axis=1)) - (targets * z).sum(axis=1))[:, None]
        return float(each.sum() + 0.5 * _PULL * ((point - start) ** 2).sum())

    here = cost(at)
    for _ in range(50):
        p = probabilities(scores * at[0] + at[1:], multi)
        error = p - targets
        slope = np.concatenate(([(error * scores).sum()], error.sum(axis=0))) + _PULL * (at - start)
        # d z / d (slope, shifts) is (scores, identity); the curvature in z is diag(p) - p p', or diag(p (1 - p)).
        spread = p * (1 - p) if multi else p
        moved = spread * scores if multi else p * (scores - (p * scores).sum(axis=1, keepdims=True))
        curve = np.empty((labels + 1, labels + 1))
        curve[0, 0] = (moved * scores).sum()
        curve[0, 1:] = curve[1:, 0] = moved.sum(axis=0)
        # Not p.T @ p: a product by threads may differ in its last bits with their number.
        curve[1:, 1:] = np.diag(spread.sum(axis=0)) - (0 if multi else np.einsum("ti,tj->ij", p, p))
        move = np.linalg.solve(curve + _PULL * np.eye(labels + 1), slope)
        size = 1.0
        while size > 1e-6 and cost(at - size * move) > here:
            size /= 2
        at, before = at - size * move, here
        here = cost(at)
        if before - here < 1e-10 * max(1.0, abs(here)):
            break
    return (float(at[0]), at[1:]) if at[0] > 0 else (1.0, np.zeros(labels))


def expected_calibration_error(p: np.ndarray, hit: np.ndarray, bins: int = 15) -> tuple[float, list[list[float]]]:
    """How far probabilities lie from what happens (Guo et al. 2017, eq. 3, with bins of equal numbers of texts, so that
    none is empty), and the bins: [mean probability, share that came true, texts].

    p: (texts,) probabilities; hit: (texts,) did it come true?
    """
    if not len(p):
        return 0.0, []
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    table = [[float(p[part].mean()), float(np.mean(hit[part])), len(part)] for part in parts]
    return sum(abs(said - came) * count for said, came, count in table) / len(p), table
