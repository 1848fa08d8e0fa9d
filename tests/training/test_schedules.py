"""Schedules are continuous, bounded, and end where they say."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.alignment.preferences import SelfSampled
from gristmill.alignment.stage import Align
from gristmill.finetuning.instructions import Docstrings
from gristmill.finetuning.stage import Finetune
from gristmill.training.config import TrainingConfig
from gristmill.training.schedules import ScheduleConfig, average_decay, factor, missed_peak, require_warmup

KINDS = [("wsd", "linear"), ("wsd", "cosine"), ("wsd", "1-sqrt"), ("cosine", "linear"), ("linear", "linear"),
         ("inverse_sqrt", "linear"), ("constant", "linear")]
ENDING = [pair for pair in KINDS if pair[0] not in ("inverse_sqrt", "constant")]


def scheduled(kind, warmup, decay, final):
    """A schedule with those of these settings that its kind has."""
    own = {"decay": decay} if kind[0] == "wsd" else {}
    own |= {} if kind[0] == "constant" else {"final": final}
    return ScheduleConfig(kind=kind[0], shape=kind[1], warmup=warmup, **own)


@given(kind=st.sampled_from(KINDS), steps=st.integers(1, 500),
       warmup=st.floats(0, 0.3) | st.integers(1, 50), decay=st.floats(0, 1), final=st.floats(0, 1))
def test_factors_stay_between_zero_and_one(kind, steps, warmup, decay, final):
    config = scheduled(kind, warmup, decay, final)
    values = [factor(config, s, steps) for s in range(steps)]
    assert all(0 <= v <= 1 for v in values)
    peak = values.index(max(values))
    assert all(a <= b + 1e-12 for a, b in pairwise(values[: peak + 1]))
    assert all(a >= b - 1e-12 for a, b in pairwise(values[peak:]))


@pytest.mark.parametrize(("kind", "shape"), ENDING)
def test_the_last_step_is_at_the_final_factor(kind, shape):
    assert factor(ScheduleConfig(kind=kind, shape=shape, final=0.1), 999, 1000) == pytest.approx(0.1, abs=1e-6)


@given(kind=st.sampled_from(KINDS), warmup=st.floats(0.01, 0.3), decay=st.floats(0.05, 1), final=st.floats(0, 1))
def test_a_run_of_more_steps_follows_the_same_curve_without_jumps(kind, warmup, decay, final):
    """Twice as many steps come half as far each; 1-sqrt begins, and inverse_sqrt turns, steeply, hence the root."""
    config = scheduled(kind, warmup, decay, final)
    steps = 4000
    values = [factor(config, s, steps) for s in range(steps)]
    bound = 1.01 / (warmup * steps) + 1.6 / (decay * steps) + (1 / (decay * steps)) ** 0.5 * (kind[1] == "1-sqrt")
    bound += 1.6 / ((1 - warmup) * steps)
    assert max(abs(b - a) for a, b in pairwise(values)) <= bound
    if kind[0] != "inverse_sqrt":
        longer = [factor(config, 2 * s + 1, 2 * steps) for s in range(0, steps, 50)]
        assert longer == pytest.approx([values[s] for s in range(0, steps, 50)], abs=0.03)


def test_golden_wsd():
    config = ScheduleConfig(kind="wsd", warmup=10, decay=0.5)
    assert factor(config, 0, 100) == pytest.approx(1 / 11)
    assert factor(config, 30, 100) == 1.0
    assert factor(config, 74, 100) == pytest.approx(0.5)


@given(warmup=st.integers(1, 50), step=st.integers(0, 10_000))
def test_inverse_sqrt_is_that_of_the_transformer(warmup, step):
    """min(t^-1/2, t w^-3/2), whose peak is at w (arXiv:1706.03762, equation 3); ours is at 1, at step warmup + 1."""
    t, peak = step + 1, warmup + 1
    expected = min(t**-0.5, t * peak**-1.5) * peak**0.5
    found = [factor(ScheduleConfig(kind="inverse_sqrt", warmup=warmup), step, steps) for steps in (step + 1, 10**6)]
    assert found == pytest.approx([expected] * 2, rel=1e-12)
    assert factor(ScheduleConfig(kind="inverse_sqrt", warmup=0.0, final=0.2), 10_000, 20_000) == 0.2


@pytest.mark.parametrize(("shape", "quarter", "half"), [
    ("linear", 0.75, 0.5), ("cosine", 0.8535534, 0.5), ("1-sqrt", 0.5, 0.2928932)])
def test_golden_shapes_of_the_decay(shape, quarter, half):
    config = ScheduleConfig(kind="wsd", shape=shape, warmup=0.0, decay=0.5)
    assert [factor(config, s, 400) for s in (199, 249, 299, 399)] == pytest.approx([1, quarter, half, 0], abs=1e-7)


@pytest.mark.parametrize(("wrong", "said"), [
    ({"kind": "linear", "shape": "1-sqrt"}, r"shape.*wsd"), ({"kind": "cosine", "decay": 0.2}, r"decay.*wsd"),
    ({"kind": "constant", "final": 0.1}, r"final.*constant")])
def test_settings_of_another_kind_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        ScheduleConfig(**wrong)


def test_golden_decay_of_averaged_weights():
    assert [average_decay(0.9, step) for step in (0, 1, 8, 79, 80, 1000)] == [0.1, 2 / 11, 0.5, 80 / 89, 0.9, 0.9]
    assert average_decay(0.0, 5) == 0


@pytest.mark.parametrize(("given", "steps", "said"), [
    ({}, 10, None), ({"warmup": 9}, 10, "warms up for 9 and decays for 5"), ({"warmup": 5}, 10, None),
    ({"warmup": 10}, 10, "warms up for 10 steps, and the run has 10"),
    ({"warmup": 0.6}, 100, "for 60 and decays for 50"),
    ({"kind": "cosine", "warmup": 9}, 10, None), ({"kind": "constant", "warmup": 5000}, 100, "for 5000 steps"),
    ({"decay": 1.0}, 100, None)])
def test_a_peak_that_is_not_reached_is_told(given, steps, said):
    found = missed_peak(ScheduleConfig(**given), steps)
    assert (found is None) if said is None else said in found


def test_a_stage_refuses_a_warm_up_as_long_as_its_steps():
    long = TrainingConfig(schedule=ScheduleConfig(warmup=20))
    require_warmup(long.schedule, None)
    require_warmup(long.schedule, 21)
    with pytest.raises(ValueError, match=r"training\.schedule\.warmup: 20 steps, and the run has 20"):
        Align(model="m", data=SelfSampled(corpus="c"), steps=20, training=long)
    with pytest.raises(ValueError, match=r"training\.schedule\.warmup: 20 steps, and the run has 5"):
        Finetune(model="m", data=Docstrings(corpus="c"), steps=5, training=long)
