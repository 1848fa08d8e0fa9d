"""Schedules are continuous, bounded, and end where they say."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.training.schedules import ScheduleConfig, factor


@given(kind=st.sampled_from(["wsd", "cosine", "linear", "constant"]), steps=st.integers(1, 500),
       warmup=st.floats(0, 0.3), decay=st.floats(0, 1), final=st.floats(0, 1))
def test_factors_stay_between_zero_and_one(kind, steps, warmup, decay, final):
    config = ScheduleConfig(kind=kind, warmup=warmup, decay=decay, final=final)
    values = [factor(config, s, steps) for s in range(steps)]
    assert all(0 <= v <= 1 for v in values)
    peak = values.index(max(values))
    assert all(a <= b + 1e-12 for a, b in pairwise(values[: peak + 1]))
    assert all(a >= b - 1e-12 for a, b in pairwise(values[peak:]))


@pytest.mark.parametrize("kind", ["wsd", "cosine", "linear"])
def test_the_last_step_is_at_the_final_factor(kind):
    assert factor(ScheduleConfig(kind=kind, final=0.1), 999, 1000) == pytest.approx(0.1, abs=1e-6)


def test_golden_wsd():
    config = ScheduleConfig(kind="wsd", warmup=10, decay=0.5)
    assert factor(config, 0, 100) == pytest.approx(1 / 11)
    assert factor(config, 30, 100) == 1.0
    assert factor(config, 74, 100) == pytest.approx(0.5)
