"""How good a classifier is on texts that it has not seen: precision, recall, F1 and AUC of each label, with intervals.

Intervals are the 2.5th and 97.5th percentile of a bootstrap over groups of texts (Efron 1979): texts of one group (a
source document, an author) are drawn together, because they are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gristmill.core.seeds import derive_seed
from gristmill.data.classifier.calibrate import expected_calibration_error

RESAMPLES, LEAST_RESAMPLES = 200, 20
_ROOM = 20_000_000
"""Numbers in the table of draws: for very many texts, whose intervals are narrow, fewer are drawn."""


def measures(p: np.ndarray, targets: np.ndarray, labels: Sequence[str], *, multi: bool, thresholds: np.ndarray,
             groups: np.ndarray | None = None, seed: int = 0) -> dict[str, Any]:
    """What is measured on held-out texts, JSON-ready.

    p, targets: (texts, labels). A text is given its likeliest label, or with `multi` every label of at least one half;
    `at_threshold` gives each label alone where its probability reaches `thresholds` (labels,). groups: (texts,)
    """
    count, classes = p.shape
    decided = p >= 0.5 if multi else np.arange(classes) == p.argmax(axis=1)[:, None]
    draws = _draws(np.arange(count) if groups is None else groups, seed)
    truth, found = targets > 0, {}
    for number, label in enumerate(labels):
        yes, said = truth[:, number], p[:, number]
        error, bins = expected_calibration_error(said, yes)
        found[label] = {
            "texts": int(yes.sum()), **confusion(decided[:, number], yes, draws),
            "auc": _interval(_areas(said, yes, draws)),
            "threshold": float(thresholds[number]),
            "at_threshold": confusion(said >= thresholds[number], yes, draws),
            "calibration_error": error, "reliability": bins,
        }
    top = p.max(axis=1) if not multi else p.ravel()
    hit = truth[np.arange(count), p.argmax(axis=1)] if not multi else truth.ravel()
    right = (decided == truth).all(axis=1)
    return {
        "texts": count, "labels": found,
        "accuracy": _interval([_mean(right, draw) for draw in draws]),
        "macro_f1": float(np.mean([one["f1"]["value"] or 0.0 for one in found.values()])),
        "calibration_error": expected_calibration_error(top, hit)[0],
    }


def confusion(decided: np.ndarray, truth: np.ndarray, draws: np.ndarray) -> dict[str, Any]:
    """Precision, recall and F1 of one label, each {value, low, high}; None where there is nothing to divide by.

    decided, truth: (texts,) bool. draws: (1 + resamples, texts) what each text counts; the first row are ones.
    """
    both, said, real = ((draws @ mask).astype(float) for mask in (decided & truth, decided, truth))
    pairs = {"precision": (both, said), "recall": (both, real), "f1": (2 * both, said + real)}
    return {name: _interval(np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0))
            for name, (a, b) in pairs.items()}


def area_under_curve(p: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Area under the ROC curve: how often a text with the label scores above one without; equal scores count half
    (Mann and Whitney 1947). NaN if one of the two sides is empty."""
    return _areas(p, truth, np.ones((1, len(p))) if weights is None else weights[None])[0]


def _areas(p: np.ndarray, truth: np.ndarray, draws: np.ndarray) -> list[float]:
    """The area for each row of weights."""
    _, rank = np.unique(p, return_inverse=True)
    size = int(rank.max(initial=-1)) + 1
    found = []
    for weights in draws:
        yes = np.bincount(rank, weights=weights * truth, minlength=size)
        no = np.bincount(rank, weights=weights * ~truth, minlength=size)
        pairs = yes.sum() * no.sum()
        found.append(float((yes * (np.cumsum(no) - 0.5 * no)).sum() / pairs) if pairs else float("nan"))
    return found


def best_thresholds(p: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(labels,) the probability from which on calling it the label has the highest F1; 0.5 where no text has it."""
    found = np.full(p.shape[1], 0.5)
    for label in range(p.shape[1]):
        order = np.argsort(-p[:, label], kind="stable")
        said, truth = p[order, label], targets[order, label] > 0
        if truth.any():
            f1 = 2 * np.cumsum(truth) / (np.arange(1, len(order) + 1) + truth.sum())
            f1[:-1][said[1:] == said[:-1]] = -1  # equal scores go together
            found[label] = said[int(np.argmax(f1))]
    return found


def _draws(groups: np.ndarray, seed: int) -> np.ndarray:
    """(1 + resamples, texts) float32: how often each text is drawn; the first row are ones."""
    names, place = np.unique(groups, return_inverse=True)
    chosen = np.random.default_rng(derive_seed(seed, "bootstrap"))
    rows = [np.ones(len(place), np.float32)]
    wanted = min(RESAMPLES, max(LEAST_RESAMPLES, _ROOM // max(len(place), 1)))
    for _ in range(wanted if len(names) > 1 else 0):
        times = np.bincount(chosen.integers(0, len(names), len(names)), minlength=len(names))
        rows.append(times[place].astype(np.float32))
    return np.stack(rows)


def _interval(values: Sequence[float] | np.ndarray) -> Mapping[str, float | None]:
    """{value, low, high} of the value itself and of its resamples; None where it is not defined."""
    known = np.asarray(values[1:], float)
    known = known[np.isfinite(known)]
    first = float(values[0])
    low, high = np.quantile(known, (0.025, 0.975)).tolist() if len(known) else (None, None)
    return {"value": first if np.isfinite(first) else None, "low": low, "high": high}


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    return float((values * weights).sum() / max(weights.sum(), 1e-12))
