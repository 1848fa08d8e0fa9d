"""Scaling laws: published figures, closed forms against a search, and what a budget of each kind becomes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.planning.interval import Interval
from gristmill.planning.scaling_laws import (
    BESIROGLU,
    HOFFMANN,
    HOFFMANN_1,
    HOFFMANN_2,
    HOFFMANN_ROUNDED,
    KAPLAN,
    LAWS,
    MUENNIGHOFF,
    PF_DAY,
    law_named,
    minimise,
    numeric_optimum,
    overtrained,
)
from gristmill.planning.scaling_plan import Budget, scaling_plan

CHINCHILLA = 5.76e23
budgets = st.floats(min_value=1e16, max_value=1e27)


# -- published figures -------------------------------------------------------------------------------------------------


def test_tokens_a_parameter_at_chinchillas_budget():
    """The same equation, three sets of constants: the rounding of a paper is worth a factor of five."""
    ratios = {law.name: law.optimum(CHINCHILLA).tokens_per_parameter for law in (BESIROGLU, HOFFMANN, HOFFMANN_ROUNDED)}
    assert ratios["hoffmann-rounded"] == pytest.approx(92.6, abs=0.05)
    assert ratios["besiroglu"] == pytest.approx(18.4, abs=0.05)
    assert ratios["hoffmann"] == pytest.approx(58.9, abs=0.1)


def test_hoffmanns_third_approach_gives_the_sizes_of_its_table():
    """Table 3 and A3: 40 B parameters at Gopher's budget."""
    assert HOFFMANN.optimum(CHINCHILLA).parameters == pytest.approx(40e9, rel=0.02)


def test_a_small_budget_is_split_alike_by_both():
    for law in (HOFFMANN_ROUNDED, BESIROGLU):
        best = law.optimum(1e18)
        assert best.parameters == pytest.approx(80e6, rel=0.01)
        assert best.tokens == pytest.approx(2.1e9, rel=0.02)
        assert best.tokens_per_parameter == pytest.approx(25.7, abs=0.05)


@pytest.mark.parametrize(("law", "flops", "parameters"), [(HOFFMANN_1, 5.76e23, 67e9), (HOFFMANN_2, 6.88e23, 67e9)])
def test_frontiers_go_through_their_published_point(law, flops, parameters):
    assert law.optimum(flops).parameters == pytest.approx(parameters)
    assert law.optimum(flops).loss is None
    assert law.loss(1e9, 2e10) is None


def test_hoffmanns_first_approach_at_other_sizes_of_its_table():
    """Table 3: 400 M at 1.92e19 with 8 B tokens, 1 B at 1.21e20, 10 B at 1.23e22."""
    for parameters, flops in ((400e6, 1.92e19), (1e9, 1.21e20), (10e9, 1.23e22)):
        assert HOFFMANN_1.optimum(flops).parameters == pytest.approx(parameters, rel=0.05)


def test_kaplan():
    assert KAPLAN.optimum(PF_DAY).parameters == pytest.approx(1.3e9)
    assert KAPLAN.optimum(10 * PF_DAY).parameters / 1.3e9 == pytest.approx(10**0.73)
    # Equation 1.5 without a limit on the text is equation 1.1, and without one on the size equation 1.2.
    assert KAPLAN.loss(1e9, 1e30) == pytest.approx((6.4e13 / 1e9) ** 0.076, rel=1e-6)
    assert KAPLAN.loss(1e30, 1e10) == pytest.approx((1.8e13 / 1e10) ** 0.103, rel=1e-6)
    # It asks for a far larger model than the others.
    assert KAPLAN.optimum(CHINCHILLA).parameters > 10 * BESIROGLU.optimum(CHINCHILLA).parameters


def test_repeated_tokens_are_worth_less_and_less():
    """arXiv:2305.16264: up to 4 passes are nearly new text; the worth halves after about 15, and never exceeds 16.4."""
    law = replace(MUENNIGHOFF, unique_tokens=1e11)
    assert law.effective_tokens(1e11) == 1e11
    assert law.effective_tokens(4e11) > 0.92 * 4e11
    assert law.effective_tokens(16e11) == pytest.approx(1e11 * (1 + 15.387756 * (1 - math.exp(-15 / 15.387756))))
    assert law.effective_tokens(1e18) == pytest.approx(1e11 * 16.387756)


def test_a_limited_text_asks_for_smaller_models_and_more_passes():
    """Their example of 25 B unique tokens at 9.3e21 FLOPs: 6.34 B parameters and 9.7 passes, not 8.67 B and 7.1."""
    free, limited = MUENNIGHOFF.optimum(9.3e21), replace(MUENNIGHOFF, unique_tokens=25e9).optimum(9.3e21)
    assert free.parameters == pytest.approx(8.67e9, rel=0.05)
    assert limited.parameters == pytest.approx(6.34e9, rel=0.1)
    assert limited.epochs == pytest.approx(9.7, rel=0.1)
    assert limited.loss is not None
    assert limited.loss > free.loss  # type: ignore[operator]
    assert limited.flops == pytest.approx(6 * limited.parameters * limited.tokens)


def test_overtraining_as_published():
    """Sardana and Frankle 2023: to serve 2 T tokens as a 13 B model would, 7 B on 2.1 times the text save 17 %."""
    best = HOFFMANN.at_parameters(13e9)
    made = overtrained(HOFFMANN, best.flops, 2e12)
    assert made.parameters == pytest.approx(7e9, rel=0.03)
    assert made.tokens / best.tokens == pytest.approx(2.1, abs=0.05)
    assert made.saving == pytest.approx(0.17, abs=0.01)
    assert made.flops_without - made.flops == pytest.approx(1.7e22, rel=0.05)


# -- properties --------------------------------------------------------------------------------------------------------


@given(flops=budgets)
@settings(max_examples=40, deadline=None)
def test_closed_forms_agree_with_a_search(flops):
    for law in (BESIROGLU, HOFFMANN, HOFFMANN_ROUNDED, MUENNIGHOFF.base):
        closed, searched = law.optimum(flops), numeric_optimum(law, flops)
        assert closed.loss == pytest.approx(searched.loss, rel=1e-9)
        assert closed.parameters == pytest.approx(searched.parameters, rel=1e-3)
        assert 6 * closed.parameters * closed.tokens == pytest.approx(flops)


@given(flops=budgets, aside=st.floats(min_value=0.05, max_value=20).filter(lambda a: abs(a - 1) > 0.01))
@settings(max_examples=60, deadline=None)
def test_no_other_split_is_better(flops, aside):
    for law in (BESIROGLU, replace(MUENNIGHOFF, unique_tokens=1e10)):
        best = law.optimum(flops)
        there = law.loss(best.parameters * aside, best.tokens / aside)
        assert there is not None
        assert best.loss is not None
        assert there >= best.loss * (1 - 1e-9)


@given(flops=budgets)
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
def test_a_size_and_its_tokens_lead_back_to_the_budget(law, flops):
    best = law.optimum(flops)
    assert law.at_parameters(best.parameters).flops == pytest.approx(flops, rel=1e-6)
    assert law.at_tokens(best.tokens).flops == pytest.approx(flops, rel=1e-6)


@given(flops=budgets, served=st.floats(min_value=1e6, max_value=1e16))
@settings(max_examples=40, deadline=None)
def test_overtraining_never_costs_more_and_keeps_the_loss(flops, served):
    made = overtrained(BESIROGLU, flops, served)
    assert -1e-9 <= made.saving < 1
    assert made.parameters <= BESIROGLU.optimum(flops).parameters * (1 + 1e-9)
    assert BESIROGLU.loss(made.parameters, made.tokens) == pytest.approx(made.loss, rel=1e-9)
    assert overtrained(BESIROGLU, flops, served * 10).parameters <= made.parameters * (1 + 1e-6)


def test_no_number_of_tokens_makes_a_tiny_model_good():
    assert BESIROGLU.tokens_for(1e6, 2.0) == math.inf
    assert BESIROGLU.loss(1e9, BESIROGLU.tokens_for(1e9, 2.6)) == pytest.approx(2.6)


def test_search_finds_the_bottom_of_a_valley():
    assert minimise(lambda x: (x - 3.25) ** 2, -10, 50) == pytest.approx(3.25, abs=1e-6)


def test_every_law_says_where_it_comes_from():
    for name, law in LAWS.items():
        assert law.name == name
        assert "arXiv" in law.source
        assert law.note
        assert law.fitted[0] < law.fitted[1]


def test_a_law_far_from_its_runs_says_so():
    assert BESIROGLU.outside(1e20) == ""
    assert "192 times above" in BESIROGLU.outside(CHINCHILLA)
    assert "times below" in BESIROGLU.outside(1e12)


def test_an_unknown_law_is_an_error_that_lists_them():
    with pytest.raises(UserError, match=r"did you mean hoffmann\?") as caught:
        law_named("hofmann")
    assert all(name in str(caught.value) for name in LAWS)


# -- plans -------------------------------------------------------------------------------------------------------------


def test_a_plan_takes_exactly_one_budget():
    with pytest.raises(UserError, match="exactly one"):
        scaling_plan()
    with pytest.raises(UserError, match="exactly one"):
        scaling_plan(Budget("x", Interval.of(1e20)), parameters=1e9)


def test_a_size_becomes_the_budget_of_every_law():
    plan = scaling_plan(parameters=70e9)
    assert [row.best.parameters for row in plan.rows] == pytest.approx([70e9] * len(LAWS))
    # Chinchilla: 70 B on 1.4 T tokens.
    first = plan.rows[0].best
    assert first.tokens == pytest.approx(1.29e12, rel=0.01)
    assert plan.budget.flops.expected == first.flops


def test_passes_over_the_text_are_counted_and_warned_of():
    plan = scaling_plan(Budget("1e21", Interval.of(1e21)), unique_tokens=6e9, served_tokens=1e12)
    assert "besiroglu" in plan.tires
    assert "serving" in plan.tires
    assert "kaplan" not in plan.tires
    for row in plan.rows:
        assert row.epochs == pytest.approx(row.best.tokens / 6e9)
    assert scaling_plan(Budget("1e21", Interval.of(1e21))).tires == ""
