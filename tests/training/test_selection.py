"""Model selection: the best weights, patience, and a target for the held-out loss."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.training.selection import Selection, Target


def judged(selection, scores, planned=True):
    for step, score in enumerate(scores, start=1):
        selection.judge(step, {"score": score}, lambda score=score: {"weight": torch.tensor(score)}, planned=planned)
    return selection


def test_the_weights_of_the_best_score_are_kept():
    found = judged(Selection(patience=0, keep_best=True), [3.0, 1.0, 2.0])
    assert (found.best, found.weights["weight"].item(), found.waited, found.over) == (1.0, 1.0, 1, False)
    assert judged(Selection(patience=0, keep_best=False), [3.0, 1.0]).weights == {}


@pytest.mark.parametrize(("scores", "over"), [
    ([3.0, 3.0, 3.0], True),  # an equal score is no better one
    ([3.0, 3.1, 2.9, 3.0], False),
    ([math.nan, 3.0, 2.0], False),
])
def test_patience_counts_evaluations_without_a_better_score(scores, over):
    assert judged(Selection(patience=2, keep_best=False), scores).over is over


def test_what_is_written_is_restored():
    first = judged(Selection(patience=3, keep_best=True), [3.0, 1.0, 2.0])
    second = Selection(patience=3, keep_best=True)
    second.begin(None, [], [{"step": 3, "score": 2.0}])
    second.restore(first.record(), first.weights)
    assert second == first
    fresh = Selection(patience=3, keep_best=True)
    fresh.restore(Selection(patience=3, keep_best=True).record(), {})  # JSON knows no infinity
    assert fresh.best == math.inf


def follow(losses, target, steps=None, since=0, lag=0.0):
    """Evaluations that were due, and the step at which training stopped."""
    looked = []
    for step in range(since + 1, len(losses) + 1):
        target.note(losses[step - 1])
        if target.due(step):
            looked.append(step)
            if target.reached(step, {"valid_loss": losses[step - 1] + lag}):
                return looked, step
    return looked, None


def test_it_looks_when_the_training_loss_has_come_down_and_stops():
    losses = [5 - 0.01 * step for step in range(400)]  # at 3.0 after 201 steps
    looked, stopped = follow(losses, Target(3.0, 400), lag=0.05)
    assert stopped is not None
    assert 201 <= stopped <= 201 + 5 + 8 + 8  # its lag of five steps, half a window, and the distance of looks
    assert looked[0] >= 201
    assert follow(losses, Target(0.5, 400)) == ([], None)


def test_overfitting_costs_fifty_looks_at_most():
    looked, stopped = follow([1.0] * 1000, Target(2.0, 1000), lag=5.0)
    assert stopped is None
    assert 45 <= len(looked) <= 50
    assert set(map(int.__sub__, looked[1:], looked)) == {20}


def test_an_evaluation_without_the_loss_does_not_stop():
    assert not Target(2.0, 10).reached(1, {})
    assert not Target(2.0, 10).reached(1, {"valid_loss": 2.1})
    assert not Target(2.0, 10).reached(0, {"valid_loss": 1.0})
    assert Target(2.0, 10).reached(1, {"valid_loss": 2.0})


@settings(deadline=None, max_examples=40)
@given(losses=st.lists(st.floats(0.5, 4.0), min_size=20, max_size=60), cut=st.integers(1, 59))
def test_a_resumed_target_looks_at_the_same_steps(losses, cut):
    whole, _ = follow(losses, Target(2.2, len(losses)), lag=9.0)
    cut = min(cut, len(losses) - 1)
    first = Target(2.2, len(losses))
    before, _ = follow(losses[:cut], first, lag=9.0)
    again = Target(2.2, len(losses))
    again.remember([{"step": i + 1, "loss": loss} for i, loss in enumerate(losses[:cut])],
                   [{"step": step} for step in before])
    after, _ = follow(losses, again, since=cut, lag=9.0)
    assert before + after == whole


def test_a_target_and_the_bar_go_on_with_what_an_earlier_process_wrote():
    trace = [{"loss": 1.9}] * 20
    selection = Selection(patience=0, keep_best=False)
    selection.begin(Target(2.0, steps=1000), trace, [{"step": 15, "valid_loss": 2.3}])
    assert selection.held_out == 2.3
    assert [step for step in range(20, 40) if selection.due(step)] == [35, 36, 37, 38, 39]
