"""Held-out measures against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.classifier.measure import area_under_curve, best_thresholds, confusion, measures

PAIRS = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30)


@settings(deadline=None)
@given(PAIRS, st.randoms(use_true_random=False))
def test_area_under_the_curve_counts_pairs(rows, chosen):
    score, truth = (np.array(side) for side in zip(*rows, strict=True))
    weights = np.array([chosen.randrange(3) for _ in rows], float)
    pairs = [(weights[i] * weights[j], (score[i] > score[j]) + 0.5 * (score[i] == score[j]))
             for i in np.flatnonzero(truth) for j in np.flatnonzero(~truth)]
    total = sum(weight for weight, _ in pairs)
    found = area_under_curve(score / 5, truth, weights)
    if total:
        assert found == pytest.approx(sum(weight * won for weight, won in pairs) / total)
    else:
        assert np.isnan(found)


@settings(deadline=None)
@given(PAIRS)
def test_no_threshold_has_a_higher_f1(rows):
    score, truth = (np.array(side) for side in zip(*rows, strict=True))
    p, one = score[:, None] / 5, np.ones((1, len(rows)))

    def f1(threshold):
        return confusion(p[:, 0] >= threshold, truth, one)["f1"]["value"] or 0.0

    chosen = best_thresholds(p, truth[:, None])[0]
    assert f1(chosen) == pytest.approx(max(f1(t) for t in set(p[:, 0].tolist()))) if truth.any() else chosen == 0.5


def test_precision_recall_and_f1_by_hand():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    targets = np.array([[1, 0], [0, 1], [1, 0], [0, 1]])
    found = measures(p, targets, ["a", "b"], multi=False, thresholds=np.array([0.5, 0.15]))
    a, b = found["labels"]["a"], found["labels"]["b"]
    assert (a["precision"]["value"], a["recall"]["value"]) == (pytest.approx(2 / 3), 1)
    assert (b["precision"]["value"], b["recall"]["value"], b["f1"]["value"]) == (1, 0.5, pytest.approx(2 / 3))
    assert b["at_threshold"]["recall"]["value"] == 1
    assert found["accuracy"]["value"] == 0.75
    assert found["accuracy"]["low"] < 0.75 < found["accuracy"]["high"]


def test_texts_of_one_group_are_drawn_together():
    """Ten copies of each text are no more evidence than one: the interval must not shrink."""
    chosen = np.random.default_rng(0)
    p = chosen.random((60, 1))
    p = np.concatenate([p, 1 - p], axis=1)
    targets = np.eye(2)[(chosen.random(60) < 0.5).astype(int)]
    several = {"labels": ["a", "b"], "multi": False, "thresholds": np.full(2, 0.5)}
    once = measures(p, targets, groups=np.arange(60), **several)["accuracy"]
    copies = measures(np.repeat(p, 10, 0), np.repeat(targets, 10, 0), groups=np.repeat(np.arange(60), 10), **several)
    naive = measures(np.repeat(p, 10, 0), np.repeat(targets, 10, 0), groups=None, **several)["accuracy"]
    grouped = copies["accuracy"]
    assert grouped["high"] - grouped["low"] == pytest.approx(once["high"] - once["low"], rel=1e-9)
    assert naive["high"] - naive["low"] < 0.5 * (grouped["high"] - grouped["low"])


def test_a_label_that_is_never_said_has_no_precision():
    found = measures(np.array([[0.9, 0.1]] * 3), np.array([[1, 0], [1, 0], [0, 1]]), ["a", "b"], multi=False,
                     thresholds=np.full(2, 0.5))["labels"]["b"]
    assert found["precision"]["value"] is None
    assert found["recall"]["value"] == 0
