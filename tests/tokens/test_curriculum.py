"""Curricula as pure functions of how much is done: competence, mixtures over time, passes from easy to hard."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.tokens import Curriculum, MixturePoint
from gristmill.tokens.curriculum import competence, cuts_at, mixture_shares, row_cuts, schedule, table
from gristmill.tokens.interleave import UNIT, Interleaving

EVEN = Curriculum(by="length")


@given(start=st.floats(0.01, 1), until=st.floats(0.05, 1))
def test_competence_is_the_papers_square_root(start, until):
    curriculum = Curriculum(by="length", start=start, until=until)
    assert competence(curriculum, np.array(0.0)) == pytest.approx(start)
    assert competence(curriculum, np.array([until, 1.0])) == pytest.approx([1.0, 1.0])
    half = competence(curriculum, np.array(until / 2))
    assert half == pytest.approx(np.sqrt(0.5 * (1 - start**2) + start**2))
    linear = competence(Curriculum(by="length", start=start, until=until, pacing="linear"), np.array(until / 2))
    assert linear == pytest.approx((1 + start) / 2)
    assert half >= linear - 1e-12


def run(curriculum, rows, shares, total, tokens=None):
    """The bucket of every row of a run."""
    names = [f"c{i}" for i in range(len(rows))]
    tokens = np.array([sum(own) for own in rows]) if tokens is None else tokens
    interleaving = Interleaving(*schedule(curriculum, rows, np.array(shares), names, tokens, total))
    return interleaving.at(np.arange(total))


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(5, 40), min_size=2, max_size=6), epochs=st.integers(1, 3))
def test_a_sorted_pass_reads_every_row_once_from_easy_to_hard(rows, epochs):
    buckets, _ = run(Curriculum(by="length", pacing="sorted"), [rows], [1.0], sum(rows) * epochs)
    expected = np.tile(np.repeat(np.arange(len(rows)), rows), epochs)
    assert (buckets != expected).mean() < 0.02  # shares are kept in parts of 6e-8, so a border can be a row off
    assert np.abs(np.bincount(buckets, minlength=len(rows)) - np.array(rows) * epochs).max() <= 1


def test_competence_opens_the_buckets_one_after_the_other():
    total = 20_000
    curriculum = Curriculum(by="length", start=0.1, until=0.5)
    buckets, _ = run(curriculum, [[100] * 10], [1.0], total)
    first = [int(np.flatnonzero(buckets == i)[0]) / total for i in range(10)]
    for number, moment in enumerate(first):
        if number:
            assert competence(curriculum, np.array(moment)) == pytest.approx(number / 10, abs=0.02)
    late = np.bincount(buckets[total // 2:], minlength=10) / (total / 2)
    assert late == pytest.approx([0.1] * 10, abs=0.002)
    assert (buckets[:40] == 0).mean() > 0.85


def test_difficulty_leaves_the_shares_of_components_alone():
    buckets, _ = run(EVEN, [[50] * 4, [10, 10, 10]], [0.7, 0.3], 8000)
    own = np.cumsum(buckets >= 4) / np.arange(1, 8001)
    assert np.abs(own[200:] - 0.3).max() < 0.02
    assert own[-1] == pytest.approx(0.3, abs=0.001)


def test_mixtures_change_at_their_moments():
    stages = [MixturePoint(at=0.25, weights={"c0": 1, "c1": 0}), MixturePoint(at=0.75, weights={"c0": 0.5, "c1": 0.5})]
    done = np.array([0.0, 0.25, 0.5, 0.74, 0.75, 1.0])
    tokens = np.array([10, 10])
    blended = mixture_shares(stages, True, ["c0", "c1"], tokens, done)
    assert blended[:, 0] == pytest.approx([1, 1, 0.75, 0.51, 0.5, 0.5])
    sudden = mixture_shares(stages, False, ["c0", "c1"], tokens, done)
    assert sudden[:, 0] == pytest.approx([1, 1, 1, 1, 0.5, 0.5])
    for blend, expected in ((True, 0.75 * 0.25 / 0.5 / 2 + 0.5 * 0.25), (False, 0.5 * 0.25)):
        components, _ = run(Curriculum(mixtures=stages, blend=blend), [[10], [10]], [0, 0], 10_000)
        assert (components == 1).mean() == pytest.approx(expected if not blend else 0.25, abs=0.001)


def test_the_table_for_plots_is_what_is_read():
    curriculum = Curriculum(mixtures=[MixturePoint(at=0), MixturePoint(at=1, weights={"c0": 1, "c1": 0})])
    rows, names = [[30], [30]], ["c0", "c1"]
    interleaving = Interleaving(*schedule(curriculum, rows, np.zeros(2), names, np.array([30, 30]), 6400))
    found = table(names, interleaving.counts, 6400)
    assert found["rows"][-1] == 6400
    assert len(found["shares"]) == 64
    shares = np.array(found["shares"])
    assert shares[:, 0] == pytest.approx(np.linspace(0.5, 1, 129)[1::2], abs=0.011)
    assert shares.sum(axis=1) == pytest.approx(np.ones(64))
    assert (Interleaving(*schedule(curriculum, rows, np.zeros(2), names, np.array([30, 30]), 7)).shares.sum(1)
            == UNIT).all()


def test_rows_double_until_they_are_full():
    curriculum = Curriculum(short_rows=60, short_until=0.6)
    assert row_cuts(curriculum, 512) == 8
    assert [cuts_at(curriculum, 512, done) for done in (0, 0.19, 0.21, 0.41, 0.59, 0.6, 1)] == [8, 8, 4, 2, 2, 1, 1]
    assert row_cuts(curriculum, 60) == row_cuts(curriculum, 509) == row_cuts(None, 512) == 1


@pytest.mark.parametrize(("wrong", "message"), [
    ({}, "set by, mixtures or short_rows"), ({"by": "size"}, "by"), ({"by": "length", "start": 0}, "start"),
    ({"by": "length", "until": 2}, "until"), ({"by": "length", "buckets": 0}, "buckets"),
    ({"mixtures": [MixturePoint(at=0.5), MixturePoint(at=0.5)]}, "later"), ({"short_rows": 2}, "short_rows")])
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Curriculum(**wrong)
