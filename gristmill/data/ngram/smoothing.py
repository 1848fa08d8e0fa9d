"""Interpolated modified Kneser-Ney smoothing: from counts of n-grams to probabilities.

Chen and Goodman (1999), section 3: p(w | h) = (a - D(a)) / S(h) + g(h) p(w | shorter h), with three discounts for each
order, estimated from counts of counts; lower orders count the different words to the left (Kneser and Ney 1995). The
layout, probabilities with everything shorter already mixed in and a weight for each context, is that of Heafield
(2011).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

USUAL = (0.0, 0.5, 1.0, 1.5)
"""Discounts of counts 0, 1, 2 and 3 or more, where they cannot be estimated."""


def discounts(counts_of_counts: Sequence[int]) -> np.ndarray:
    """(4,) discounts of counts 0, 1, 2 and 3 or more, from how many n-grams have the counts 1, 2, 3 and 4.

    Y = n1 / (n1 + 2 n2), Dk = k - (k + 1) Y n(k+1) / nk; where one is not within (0, k], that of `USUAL`.
    """
    n = [float(count) for count in counts_of_counts]
    found = np.array(USUAL)
    if n[0] and n[1]:
        share = n[0] / (n[0] + 2 * n[1])
        for k in (1, 2, 3):
            estimate = k - (k + 1) * share * n[k] / n[k - 1] if n[k - 1] else 0.0
            if 0 < estimate <= k:
                found[k] = estimate
    return found


def count_of_counts(counts: np.ndarray) -> list[int]:
    """How many of the counts are 1, 2, 3 and 4."""
    return np.bincount(np.minimum(counts, 5), minlength=6)[1:5].tolist()


def smoothed(counts: np.ndarray, contexts: np.ndarray, context_count: int, lower: np.ndarray, keep: np.ndarray,
             discount: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the n-grams of one order, and what each context leaves to shorter ones.

    counts: (grams,) adjusted. contexts: (grams,) the number of each n-gram's context. lower: (grams,) probability of
    the last word after the context that is one shorter. keep: (grams,) bool; the mass of the others goes to shorter
    contexts. Returns (grams,) and (context_count,) float64.
    """
    total = np.bincount(contexts, weights=counts, minlength=context_count)
    own = (counts - discount[np.minimum(counts, 3)]) / total[contexts]
    left = 1.0 - np.bincount(contexts[keep], weights=own[keep], minlength=context_count)
    # What is left is a difference of numbers near 1: it is never below the smallest discount of one count.
    left = np.maximum(left, 1e-12)
    return own + left[contexts] * lower, left
