"""Fitting and calibration."""

import numpy as np
import pytest

from gristmill.data.classifier.calibrate import calibrate, expected_calibration_error
from gristmill.data.classifier.fit import STEPS, Bags, best_fit, fit, probabilities, raw_scores, scales, text_weights


def drawn(texts=600, seed=0, multi=False):
    """Texts of 20 of 64 features; the first half of the features speaks for label 1."""
    chosen = np.random.default_rng(seed)
    label = chosen.integers(0, 2, texts)
    ids = np.where(chosen.random((texts, 20)) < 0.6, label[:, None] * 32, (1 - label[:, None]) * 32)
    ids = ids + chosen.integers(0, 32, ids.shape)
    targets = np.stack([1 - label, label], axis=1).astype(np.float32)
    return Bags(ids.ravel().astype(np.uint32), np.arange(texts + 1) * 20, targets, multi)


def fitted(bags, **changes):
    rows = np.arange(len(bags.targets))
    return fit(bags, rows[:400], rows[400:500], **{"buckets": 64, "balance": 0.0, "rate": 0.2, "passes": 5, "seed": 1,
                                                   **changes})


@pytest.mark.parametrize("multi", [False, True])
def test_it_comes_close_to_the_best_that_there_is(multi):
    """Against scikit-like full-batch gradient descent to convergence on the same rows."""
    bags, rest = drawn(multi=multi), np.arange(500, 600)
    found = fitted(bags)
    dense = np.zeros((600, 64))
    np.add.at(dense, (np.repeat(np.arange(600), 20), bags.ids), 1 / np.sqrt(20))
    weights = np.zeros((64, 2))
    for _ in range(3000):
        error = probabilities(dense[:400] @ weights, multi) - bags.targets[:400]
        weights -= 0.5 * (dense[:400].T @ error / 400 + 1e-3 * weights)
    ours = raw_scores(bags, rest, found.weights, found.bias).argmax(axis=1)
    slow = (dense[500:] @ weights).argmax(axis=1)
    truth = bags.targets[500:].argmax(axis=1)
    assert (ours == truth).mean() > (slow == truth).mean() - 0.03
    assert (ours == slow).mean() > 0.93


def test_the_same_bytes_again_and_others_with_another_seed():
    first, second, other = fitted(drawn()), fitted(drawn()), fitted(drawn(), seed=2)
    assert first.weights.tobytes() == second.weights.tobytes()
    assert first.losses == second.losses
    assert first.weights.tobytes() != other.weights.tobytes()


def test_the_pass_with_the_lowest_loss_is_kept():
    bags = drawn(120)
    bags.targets[:] = np.random.default_rng(5).permutation(bags.targets)  # nothing to learn: passes only harm
    rows = np.arange(120)
    long = fit(bags, rows[:60], rows[60:], buckets=64, balance=0.0, rate=1.0, passes=30, seed=1)
    assert len(long.losses) < 30
    best = int(np.argmin(long.losses)) + 1
    short = fit(bags, rows[:60], rows[60:], buckets=64, balance=0.0, rate=1.0, passes=best, seed=1)
    assert np.array_equal(long.weights, short.weights)


def test_the_steps_with_the_lowest_loss_are_taken():
    bags, rows = drawn(), np.arange(600)
    every = {"buckets": 64, "balance": 0.0, "passes": 3, "seed": 1}
    best = best_fit(bags, rows[:400], rows[400:], **every)
    tried = {step: fit(bags, rows[:400], rows[400:], **every, rate=step[0], damping=step[1]) for step in STEPS}
    assert min(best.losses) == min(min(one.losses) for one in tried.values())
    assert np.array_equal(tried[best.rate, best.damping].weights, best.weights)


def test_balance_makes_labels_count_alike():
    bags = drawn()
    bags.targets[:] = [1, 0]
    bags.targets[:30] = [0, 1]
    rows = np.arange(600)
    even = text_weights(bags, rows, 1.0)
    assert even[:30].sum() == pytest.approx(even[30:].sum())
    assert even.mean() == pytest.approx(1)
    assert np.all(text_weights(bags, rows, 0.0) == 1)


def test_scores_of_a_text_without_features_are_the_bias():
    bags = Bags(np.empty(0, np.uint32), np.array([0, 0]), np.ones((1, 2), np.float32), False)
    assert raw_scores(bags, np.array([0]), np.ones((2, 4), np.float32), np.array([3.0, 4.0])).tolist() == [[3, 4]]
    assert scales(np.array([0, 4])).tolist() == [1, 0.5]


@pytest.mark.parametrize("multi", [False, True])
def test_calibration_finds_the_slope_and_shift_that_were_hidden(multi):
    chosen = np.random.default_rng(3)
    scores = chosen.normal(0, 2, (20_000, 3))
    p = probabilities(0.5 * scores + [0.0, 1.0, -1.0], multi)
    if multi:
        targets = (chosen.random(p.shape) < p).astype(float)
    else:
        targets = np.eye(3)[(p.cumsum(axis=1) > chosen.random((len(p), 1))).argmax(axis=1)]
    found = calibrate(scores, targets, multi)
    assert np.allclose(found.slope, 0.5, atol=0.03)
    shift = found.shift if multi else found.shift - found.shift[0]
    assert np.allclose(shift, [0, 1, -1], atol=0.08)
    before = expected_calibration_error(probabilities(scores, multi)[:, 0], targets[:, 0])[0]
    after = expected_calibration_error(found(scores, multi)[:, 0], targets[:, 0])[0]
    assert after < 0.02 < before


@pytest.mark.parametrize("multi", [False, True])
def test_calibration_on_separable_or_no_texts_stays_finite(multi):
    scores, targets = np.array([[9.0, -9.0], [-9.0, 9.0]]), np.eye(2)
    found = calibrate(scores, targets, multi)
    assert np.isfinite(found(scores * 100, multi)).all()
    assert np.array_equal(calibrate(np.empty((0, 2)), np.empty((0, 2)), multi)(scores, multi),
                          probabilities(scores, multi))


def test_scores_that_mislead_are_left_alone():
    """A slope below 0 would turn every decision round."""
    chosen = np.random.default_rng(0)
    scores = chosen.normal(0, 1, (500, 2))
    targets = np.eye(2)[scores.argmin(axis=1)]
    assert calibrate(scores, targets, False).slope.tolist() == [1, 1]


def test_calibration_error_by_hand():
    error, table = expected_calibration_error(np.array([0.1, 0.1, 0.9, 0.9]), np.array([0, 1, 1, 1]), bins=2)
    assert error == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    assert table == [[pytest.approx(0.1), 0.5, 2], [pytest.approx(0.9), 1.0, 2]]
