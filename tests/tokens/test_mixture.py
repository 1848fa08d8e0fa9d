"""Plans of mixtures: shares, limits and epochs that add up, what cannot be is refused, repetition is priced."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.tokens import Mixture, plan_mixture
from gristmill.tokens.mixture import effective_tokens

NAMES = ["books", "code", "web"]


def plan(total=1000.0, tokens=(100, 300, 600), **settings_):
    return plan_mixture(Mixture(**settings_), NAMES, [1, 2, 3], tokens, total)


def drawn(found):
    return {one.name: round(one.drawn, 6) for one in found.shares}


def test_without_settings_everything_is_read_alike():
    assert {one.name: one.epochs for one in plan(2000.0).shares} == {"books": 2.0, "code": 2.0, "web": 2.0}


@given(alpha=st.floats(0, 1))
def test_alpha_is_the_power_of_the_sizes(alpha):
    found = plan(alpha=alpha)
    expected = np.array([100, 300, 600]) ** alpha
    assert [one.share for one in found.shares] == pytest.approx((expected / expected.sum()).tolist())


def test_weights_name_all_or_the_others_together():
    assert drawn(plan(weights={"books": 2, "code": 1, "web": 1})) == {"books": 500, "code": 250, "web": 250}
    assert drawn(plan(weights={"books": 0.1, "*": 0.9})) == {"books": 100, "code": 300, "web": 600}
    assert drawn(plan(weights={"web": 0, "*": 1}, alpha=0)) == {"books": 500, "code": 500, "web": 0}
    with pytest.raises(UserError, match=r"(?s)no weight: code, web.*\"\*\"") as error:
        plan(weights={"books": 1})
    assert "0 leaves them out" in str(error.value)
    with pytest.raises(UserError, match=r"nothing called forum.*(?s:.*)choose from books, code, web"):
        plan(weights={"forum": 1, "*": 1})


def test_epochs_are_exact_and_the_others_share_the_rest():
    found = plan(epochs={"books": 3})
    assert drawn(found) == {"books": 300, "code": pytest.approx(700 / 3), "web": pytest.approx(1400 / 3)}
    assert [one.limit for one in found.shares] == ["epochs", "", ""]
    with pytest.raises(UserError, match=r"1\.2 k tokens, and the run draws 1 k: 200 are missing"):
        plan(epochs={"web": 2})
    with pytest.raises(UserError, match="nothing is left to draw the other 900 from"):
        plan(1900.0, epochs={"books": 1, "code": 1, "web": 1})
    assert plan(1000.0, epochs={"books": 1, "code": 1, "web": 1}).total == 1000


def test_limits_that_cannot_be_kept_say_what_is_missing():
    with pytest.raises(UserError, match=r"max_epochs allow 2 k of the 5 k tokens .*: 3 k are missing(?s:.*)2 k tokens"):
        plan(5000.0, max_epochs=2)
    with pytest.raises(UserError, match="max_share allow 900"):
        plan(max_share=0.3)
    with pytest.raises(UserError, match="both epochs that draw 300 tokens and a max_epochs that allows 200"):
        plan(epochs={"books": 3}, max_epochs=2)


def brute_force(wanted, caps, total):
    """Water-filling by bisection over the water level."""
    low, high = 0.0, 1e9
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if np.minimum(wanted * level, caps).sum() < total else (low, level)
    return np.minimum(wanted * high, caps)


@settings(max_examples=150, deadline=None)
@given(tokens=st.lists(st.integers(1, 1000), min_size=3, max_size=3), total=st.integers(1, 5000),
       max_epochs=st.floats(0.1, 20), max_share=st.floats(0.2, 1), alpha=st.floats(0, 1))
def test_what_a_limit_takes_goes_to_those_that_have_room(tokens, total, max_epochs, max_share, alpha):
    caps = np.minimum(np.array(tokens) * max_epochs, max_share * total)
    assume(abs(caps.sum() - total) > 1e-6 * total)
    if caps.sum() < total:
        with pytest.raises(UserError, match="are missing"):
            plan(total, tokens, max_epochs=max_epochs, max_share=max_share, alpha=alpha)
        return
    found = plan(total, tokens, max_epochs=max_epochs, max_share=max_share, alpha=alpha)
    expected = brute_force(np.array(tokens, dtype=float) ** alpha, caps, total)
    assert [one.drawn for one in found.shares] == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-6)
    for one, cap in zip(found.shares, caps, strict=True):
        assert one.limit == ("" if one.drawn < cap * (1 - 1e-9) else one.limit)
        assert one.drawn <= cap * (1 + 1e-9)


def test_repeated_tokens_are_worth_what_the_paper_says():
    assert effective_tokens(100, 80) == 80
    assert effective_tokens(100, 100) == 100
    # Muennighoff et al. 2023, equation 5, with R* = 15.387: 4 epochs lose little, 40 are worth about 15 fresh ones.
    assert effective_tokens(1, 4) == pytest.approx(1 + 15.387 * (1 - math.exp(-3 / 15.387)))
    assert effective_tokens(1, 4) / 4 > 0.92
    assert effective_tokens(1, 1e9) == pytest.approx(16.387)
    steps = np.diff([effective_tokens(1, epochs) for epochs in range(1, 60)])
    assert (np.diff(steps) < 0).all()
    assert steps[0] < 1


def test_the_table_flags_what_is_read_often():
    found = plan(3000.0, tokens=(100, 300, 60_000), weights={"books": 1, "code": 1, "web": 1})
    lines = found.lines()
    assert len(lines) == 5
    assert lines[4].startswith("books is read 10 times: its 1 k tokens are worth about")
    assert not any(line.startswith("code is read") for line in lines)
    plain = found.plain()
    assert [one["many_epochs"] for one in plain["components"]] == [True, False, False]
    assert plain["components"][0]["worth"] == round(effective_tokens(100, 1000))


@pytest.mark.parametrize(("wrong", "message"), [
    ({"over": "author"}, "over"), ({"over": "metadata."}, "over"), ({"weights": {"a": -1}}, "negative"),
    ({"weights": {"a": 0}}, "at least one"), ({"alpha": 2}, "alpha"), ({"max_epochs": 0}, "positive"),
    ({"max_share": 1.5}, "at most 1"), ({"epochs": {"a": 1}, "weights": {"a": 1}}, "not both"),
    ({"epochs": {"*": 1}}, "name the components")])
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Mixture(**wrong)
