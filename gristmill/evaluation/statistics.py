"""Intervals and tests: how sure a number is, and whether two models differ.

The unit of everything here is the cluster (a document, a module, a prompt): values of one cluster are not
independent, so they are summed within it first (Miller 2024, "Adding error bars to evals", arXiv:2411.00640).
All functions are vectorised, take numpy arrays, and are pure functions of their arguments and `seed`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95
RESAMPLES = 10_000
CHUNK = 4_000_000
"""Random numbers drawn at once: what bounds the memory."""
EXACT_CLUSTERS = 14
"""Up to here all sign flips are enumerated."""


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and an interval; n clusters."""

    value: float
    low: float
    high: float
    stderr: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """after - before on the same clusters: the difference, its interval, and the p-value of "no difference"."""

    difference: float
    low: float
    high: float
    stderr: float
    p_value: float
    n: int
    test: str


def normal_quantile(level: float) -> float:
    """z with P(|Z| <= z) = level for a standard normal Z: 1.96 for 0.95."""
    return NormalDist().inv_cdf(0.5 + level / 2)


def mean_interval(values: ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Mean of independent values with the interval of the central limit theorem, mean ± z s/sqrt(n).

    values: (n,). With one value the standard error is unknown: 0, and an interval of no width.
    """
    x = _values(values)
    error = float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else 0.0
    z, mean = normal_quantile(level), float(x.mean())
    return Estimate(mean, mean - z * error, mean + z * error, error, len(x))


def ratio_stderr(numerators: ArrayLike, denominators: ArrayLike | None = None) -> float:
    """Standard error of sum(numerators) / sum(denominators) over clusters, by linearisation.

    sqrt(n/(n-1) sum (a_i - r b_i)^2) / sum b (Cochran 1977, "Sampling techniques", eq. 6.13). With b_i the size of
    cluster i and a_i the sum of its values this is the clustered standard error of their mean (Miller 2024, eq. 4,
    with the small-sample factor).
    """
    a, b = _pair(numerators, denominators)
    n = len(a)
    if n < 2:
        return 0.0
    rest = a - a.sum() / b.sum() * b
    return float(math.sqrt(n / (n - 1) * (rest @ rest)) / b.sum())


def clustered_mean(values: ArrayLike, clusters: ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Mean of values (n,) whose equal `clusters` (n,) are not independent, with the clustered standard error."""
    a, b = cluster_sums(values, clusters)
    error, mean = ratio_stderr(a, b), float(a.sum() / b.sum())
    z = normal_quantile(level)
    return Estimate(mean, mean - z * error, mean + z * error, error, len(a))


def cluster_sums(values: ArrayLike, clusters: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Sum and count of values (n,) for each distinct cluster, in the clusters' sorted order."""
    x = _values(values)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    return np.bincount(index, weights=x), np.bincount(index).astype(float)


def bootstrap(
    numerators: ArrayLike, denominators: ArrayLike | None = None, *, seed: int, resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """sum(numerators) / sum(denominators) with the percentile interval of resampled clusters (Efron 1979).

    Both (n,), one entry a cluster, e.g. nats and bytes of each document; without denominators the mean.
    """
    a, b = _pair(numerators, denominators)
    drawn = _resampled(a, b, seed, resamples)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    error = float(drawn.std(ddof=1)) if len(a) > 1 else 0.0
    return Estimate(float(a.sum() / b.sum()), float(low), float(high), error, len(a))


def _resampled(a: np.ndarray, b: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """The ratio in each of `resamples` resamples (resamples,)."""
    generator, n = np.random.default_rng(seed), len(a)
    equal = np.full(n, 1 / n)
    rows = max(1, CHUNK // n)
    parts = []
    for start in range(0, resamples, rows):
        counts = generator.multinomial(n, equal, size=min(rows, resamples - start)).astype(float)
        parts.append((counts @ a) / (counts @ b))
    return np.concatenate(parts)


def wilson(successes: float, n: float, *, level: float = LEVEL) -> Estimate:
    """A share with the score interval of Wilson (1927), which stays inside [0, 1] and holds near its ends.

    n may be an effective sample size (not whole) for clustered samples.
    """
    if not 0 <= successes <= n or n <= 0:
        raise ValueError(f"{successes} successes of {n}")
    z, p = normal_quantile(level), successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Estimate(p, low, high, math.sqrt(p * (1 - p) / n), int(n))


def clustered_share(successes: ArrayLike, counts: ArrayLike, *, level: float = LEVEL) -> Estimate:
    """A share from clusters (n,), successes of counts in each: Wilson's interval at the effective sample size.

    The effective size is p(1-p) / clustered variance (Korn and Graubard 1998; Dean and Pagano 2015), kept between
    the number of clusters and the number of samples; where all clusters agree it is the number of clusters.
    """
    a, b = _pair(successes, counts)
    p, error, total = float(a.sum() / b.sum()), ratio_stderr(a, b), float(b.sum())
    effective = p * (1 - p) / error**2 if error > 0 else float(len(a))
    effective = min(max(effective, min(float(len(a)), total)), total)
    inner = wilson(p * effective, effective, level=level) if 0 < p < 1 else wilson(round(p) * effective, effective,
                                                                                   level=level)
    return Estimate(p, inner.low, inner.high, error, len(a))


def paired_test(
    before: ArrayLike, after: ArrayLike, weights: ArrayLike | None = None, *, seed: int, resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Comparison:
    """sum(after - before) / sum(weights) over the same clusters (n,), with a sign-flip test and a bootstrap interval.

    If the models do not differ, every cluster's difference is as likely with the other sign (Fisher 1935): the
    p-value is the share of sign flips whose sum is at least as far from 0, counting the observed one. All flips
    are enumerated for up to 14 clusters.
    """
    a, w = _pair(np.asarray(after, float) - np.asarray(before, float), weights)
    if np.shape(before) != np.shape(after):
        raise ValueError("a paired test needs the same clusters on both sides")
    interval = bootstrap(a, w, seed=seed, resamples=resamples, level=level)
    p_value, name = _sign_flips(a, seed, resamples)
    return Comparison(interval.value, interval.low, interval.high, interval.stderr, p_value, len(a), name)


def _sign_flips(a: np.ndarray, seed: int, resamples: int) -> tuple[float, str]:
    a = a[a != 0]
    n, observed = len(a), abs(a.sum())
    threshold = observed * (1 - 1e-12)
    if n == 0:
        return 1.0, "sign-flip"
    if n <= EXACT_CLUSTERS:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ a) >= threshold).mean()), "sign-flip, exact"
    generator, extreme = np.random.default_rng(seed), 0
    rows = max(1, CHUNK // n)
    for start in range(0, resamples, rows):
        flips = generator.integers(0, 2, size=(min(rows, resamples - start), n), dtype=np.int8)
        extreme += int((np.abs(a.sum() - 2 * (flips @ a)) >= threshold).sum())
    return (extreme + 1) / (resamples + 1), "sign-flip"


def mcnemar(before: ArrayLike, after: ArrayLike, *, seed: int, level: float = LEVEL) -> Comparison:
    """Exact test of two shares on the same items (n,) of 0 and 1 (McNemar 1947): among the items on which the
    models disagree, both directions are equally likely. Two-sided binomial p-value; bootstrap interval."""
    x, y = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    if x.shape != y.shape:
        raise ValueError("a paired test needs the same items on both sides")
    gained, lost = int((~x & y).sum()), int((x & ~y).sum())
    interval = bootstrap(y.astype(float) - x, seed=seed, level=level)
    p_value = binomial_test(gained, gained + lost)
    return Comparison(interval.value, interval.low, interval.high, interval.stderr, p_value, len(x), "McNemar, exact")


def binomial_test(successes: int, n: int) -> float:
    """Two-sided p-value of `successes` of `n` against a fair coin."""
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(min(successes, n - successes) + 1))
    return min(1.0, 2 * tail / 2**n)


def matched_test(
    before: ArrayLike, after: ArrayLike, before_strata: ArrayLike, after_strata: ArrayLike,
    before_clusters: ArrayLike, after_clusters: ArrayLike, *, seed: int, resamples: int = 2000, level: float = LEVEL,
) -> Comparison:
    """Difference of two means within strata (e.g. bins of length), so that what differs is not the strata.

    Within each stratum the difference of means, averaged with the weights n_before n_after / (n_before + n_after)
    of Mantel and Haenszel (1959). Values and strata (n,) may differ in number; strata count from 0; clusters name the
    prompt or document. Interval: bootstrap of clusters. p-value: the two models' samples swapped cluster by cluster.
    Strata where one side has nothing say nothing and weigh nothing.
    """
    sides = [(np.asarray(v, float), np.asarray(s), np.asarray(c))
             for v, s, c in ((before, before_strata, before_clusters), (after, after_strata, after_clusters))]
    names = np.unique(np.concatenate([c for _, _, c in sides]))
    strata = 1 + max(int(s.max()) for _, s, _ in sides)
    sums, counts = np.zeros((2, 2, len(names), strata))
    for side, (v, s, c) in enumerate(sides):
        rows = np.searchsorted(names, c)
        np.add.at(sums[side], (rows, s), v)
        np.add.at(counts[side], (rows, s), 1)
    generator, n = np.random.default_rng(seed), len(names)
    drawn = generator.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)
    boot = _matched_difference(*(drawn @ part for part in (sums[0], sums[1], counts[0], counts[1])))
    swap = generator.integers(0, 2, size=(resamples, n)).astype(float)
    first, second = ((1 - swap) @ part[0] + swap @ part[1] for part in (sums, counts))
    third, fourth = (swap @ part[0] + (1 - swap) @ part[1] for part in (sums, counts))
    null = _matched_difference(first, third, second, fourth)
    value = float(_matched_difference(sums[0].sum(0), sums[1].sum(0), counts[0].sum(0), counts[1].sum(0)))
    low, high = np.quantile(boot, [(1 - level) / 2, (1 + level) / 2])
    p_value = (int((np.abs(null) >= abs(value) * (1 - 1e-12)).sum()) + 1) / (resamples + 1)
    return Comparison(value, float(low), float(high), float(boot.std(ddof=1)), p_value, n, "stratified permutation")


def _matched_difference(sum_a: np.ndarray, sum_b: np.ndarray, n_a: np.ndarray, n_b: np.ndarray) -> np.ndarray:
    """Weighted mean over the last axis (strata) of sum_b/n_b - sum_a/n_a; 0 where no stratum has both."""
    both = (n_a > 0) & (n_b > 0)
    weight = np.where(both, n_a * n_b / np.maximum(n_a + n_b, 1), 0.0)
    gap = sum_b / np.maximum(n_b, 1) - sum_a / np.maximum(n_a, 1)
    total = weight.sum(-1)
    return np.where(total > 0, (weight * gap).sum(-1) / np.maximum(total, 1e-300), 0.0)


def minimum_detectable_effect(stderr: float, *, level: float = LEVEL, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided test at 1 - level finds with probability `power`.

    (z_level + z_power) x standard error of the difference (Miller 2024, section 5).
    """
    return (normal_quantile(level) + NormalDist().inv_cdf(power)) * stderr


def holm(p_values: ArrayLike) -> list[float]:
    """P-values adjusted for their number (Holm 1979), in the given order."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    result = np.empty(len(p))
    result[order] = adjusted
    return result.tolist()


def _values(values: ArrayLike) -> np.ndarray:
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or len(x) == 0:
        raise ValueError("at least one value is needed")
    return x


def _pair(numerators: ArrayLike, denominators: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    a = _values(numerators)
    b = np.ones(len(a)) if denominators is None else _values(denominators)
    if a.shape != b.shape:
        raise ValueError("numerators and denominators differ in number")
    if not b.sum() > 0:
        raise ValueError("the denominators must add up to more than 0")
    return a, b
