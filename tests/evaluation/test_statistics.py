"""Statistics against scipy, by enumeration, and by how often intervals cover the truth."""

import itertools

import numpy as np
import pytest

from gristmill.evaluation import statistics as s

scipy_stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle of these tests")


def test_mean_interval_and_standard_error_equal_scipy():
    x = np.random.default_rng(0).exponential(size=200)
    found = s.mean_interval(x)
    low, high = scipy_stats.norm.interval(0.95, x.mean(), scipy_stats.sem(x))
    assert (found.value, found.stderr) == pytest.approx((x.mean(), scipy_stats.sem(x)), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)


def test_clustered_standard_error_of_singletons_is_the_ordinary_one_and_grows_with_correlation():
    x = np.random.default_rng(1).normal(size=300)
    alone = s.clustered_mean(x, np.arange(300))
    assert alone.stderr == pytest.approx(scipy_stats.sem(x), rel=1e-12)
    copies = s.clustered_mean(np.repeat(x, 4), np.repeat(np.arange(300), 4))
    assert copies.stderr == pytest.approx(alone.stderr, rel=1e-9)
    assert s.mean_interval(np.repeat(x, 4)).stderr < 0.6 * copies.stderr


def test_bootstrap_of_a_ratio_agrees_with_scipy_and_with_linearisation():
    rng = np.random.default_rng(2)
    sizes = rng.integers(100, 5000, size=120).astype(float)
    bits = sizes * rng.normal(1.7, 0.2, size=120)
    found = s.bootstrap(bits, sizes, seed=3)
    theirs = scipy_stats.bootstrap((bits, sizes), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True,
                                   vectorized=True, method="percentile", n_resamples=5000, rng=4)
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.05 * width)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.05 * width)
    assert found.stderr == pytest.approx(s.ratio_stderr(bits, sizes), rel=0.1)
    assert found == s.bootstrap(bits, sizes, seed=3)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (37, 120), (120, 120)])
def test_wilson_equals_scipy(k, n):
    theirs = scipy_stats.binomtest(k, n).proportion_ci(method="wilson")
    found = s.wilson(k, n)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_share_of_clusters_lies_between_both_extremes():
    answers = np.array([0, 4, 4, 0, 4, 0, 4, 4] * 5)
    found = s.clustered_share(answers, np.full(40, 4))
    as_clusters, as_samples = s.wilson(25, 40), s.wilson(100, 160)
    assert found.value == 0.625
    assert as_clusters.low - 0.01 <= found.low <= as_samples.low
    none = s.clustered_share(np.zeros(40), np.full(40, 4))
    assert (none.low, none.high) == (0.0, pytest.approx(s.wilson(0, 40).high))


def test_sign_flip_test_equals_scipy_by_enumeration():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=10), rng.normal(0.5, size=10)
    theirs = scipy_stats.permutation_test((b - a,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    found = s.paired_test(a, b, seed=0)
    assert found.test == "sign-flip, exact"
    assert found.p_value == pytest.approx(theirs, abs=1e-12)
    sampled, _ = s._sign_flips(np.tile(b - a, 2), seed=1, resamples=20_000)
    exact = scipy_stats.permutation_test((np.tile(b - a, 2),), np.sum, permutation_type="samples",
                                         n_resamples=20_000, rng=2).pvalue
    assert sampled == pytest.approx(exact, abs=0.015)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 5), (9, 1), (40, 17)])
def test_mcnemar_is_the_binomial_test_of_the_discordant(gained, lost):
    before = np.array([0] * gained + [1] * lost + [1] * 10 + [0] * 7)
    after = np.array([1] * gained + [0] * lost + [1] * 10 + [0] * 7)
    expected = scipy_stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    found = s.mcnemar(before, after, seed=0)
    assert found.p_value == pytest.approx(expected, rel=1e-9)
    assert found.difference == pytest.approx((gained - lost) / len(before))


def test_intervals_cover_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(7)
    covered = {"boot": 0, "share": 0}
    for trial in range(300):
        sizes = rng.integers(1, 6, size=60)
        centre = rng.beta(2, 3, size=60)
        answers = rng.binomial(sizes, centre)
        share = s.clustered_share(answers, sizes)
        covered["share"] += share.low <= 0.4 <= share.high
        boot = s.bootstrap(answers, sizes, seed=trial, resamples=500)
        covered["boot"] += boot.low <= 0.4 <= boot.high
    assert 0.90 <= covered["boot"] / 300 <= 0.98
    assert 0.91 <= covered["share"] / 300 <= 0.99


def test_p_values_are_uniform_without_a_difference_and_small_with_one():
    rng = np.random.default_rng(8)
    ps = np.array([s._sign_flips(rng.normal(size=30), seed=i, resamples=400)[0] for i in range(2000)])
    assert scipy_stats.kstest(ps, "uniform").pvalue > 0.01
    assert (ps < 0.05).mean() == pytest.approx(0.05, abs=0.012)
    x = rng.normal(size=50)
    assert s.paired_test(x, x - 0.3 + 0.1 * rng.normal(size=50), seed=1).p_value < 0.001


def test_power_at_the_minimum_detectable_effect_is_what_was_promised():
    effect = s.minimum_detectable_effect(0.1, power=0.8)
    assert effect == pytest.approx(0.28016, abs=1e-4)  # (1.959964 + 0.841621) x 0.1
    z = np.random.default_rng(9).normal(effect / 0.1, size=200_000)
    assert (np.abs(z) > s.normal_quantile(0.95)).mean() == pytest.approx(0.8, abs=0.005)


def test_matched_test_sees_through_a_difference_of_strata():
    """Short answers succeed more often; the second model only answers shorter."""
    rng = np.random.default_rng(10)
    clusters = np.repeat(np.arange(100), 4)
    lengths = [rng.random(400) < share for share in (0.2, 0.8)]
    success = [np.where(short, rng.random(400) < 0.9, rng.random(400) < 0.3) for short in lengths]
    naive = success[1].mean() - success[0].mean()
    found = s.matched_test(*success, *(x.astype(int) for x in lengths), clusters, clusters, seed=0)
    assert naive > 0.25
    assert abs(found.difference) < 0.1
    assert found.p_value > 0.05
    better = success[1] | (rng.random(400) < 0.5)
    assert s.matched_test(success[0], better, *(x.astype(int) for x in lengths), clusters, clusters,
                          seed=0).p_value < 0.01


def test_matched_test_with_one_stratum_is_the_difference_of_means():
    rng = np.random.default_rng(11)
    a, b, clusters = rng.random(60), rng.random(60), np.repeat(np.arange(20), 3)
    zero = np.zeros(60, dtype=int)
    assert s.matched_test(a, b, zero, zero, clusters, clusters, seed=0).difference == pytest.approx(b.mean() - a.mean())


def test_holm_by_hand_and_never_below_the_raw_values():
    assert s.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    for p in itertools.permutations([0.001, 0.2, 0.5, 0.9]):
        assert all(a >= b for a, b in zip(s.holm(p), p, strict=True))


@pytest.mark.parametrize("call", [
    lambda: s.mean_interval([]), lambda: s.bootstrap([1.0], [0.0], seed=0), lambda: s.wilson(3, 2),
    lambda: s.paired_test([1.0, 2.0], [1.0], seed=0),
])
def test_impossible_input_is_refused(call):
    with pytest.raises(ValueError):
        call()
