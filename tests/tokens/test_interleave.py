"""Interleaved components: exact shares in every prefix, any place alone, also when the shares change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.tokens import interleave
from gristmill.tokens.interleave import UNIT, Interleaving, fixed_shares, schedule_shares


def stream(interleaving, places):
    """(components, rows of each so far) of the first places; draws are checked to count up."""
    components, draws = interleaving.at(np.arange(places))
    for number in range(interleaving.components):
        own = draws[components == number]
        assert np.array_equal(own, np.arange(len(own)))
    counts = np.cumsum(components[:, None] == np.arange(interleaving.components), axis=0)
    assert np.array_equal(interleaving.counts(places), counts[-1])
    return components, counts


@settings(max_examples=80, deadline=None)
@given(weights=st.lists(st.integers(1, 40), min_size=1, max_size=9), places=st.integers(1, 300))
def test_every_prefix_is_less_than_a_row_away_from_its_shares(weights, places):
    block = sum(weights)  # every component has whole rows in a block
    shares = np.array(weights) * (UNIT // block)
    shares[0] += UNIT - shares.sum()
    _, counts = stream(Interleaving(shares, block), places)
    due = np.arange(1, places + 1)[:, None] * np.array(weights) / block
    assert np.abs(counts - due).max() < 1


@settings(max_examples=60, deadline=None)
@given(blocks=st.lists(st.lists(st.integers(0, 30), min_size=4, max_size=4).filter(any), min_size=1, max_size=6),
       block=st.integers(1, 30))
def test_changing_shares_are_kept_to_a_row_after_every_block(blocks, block):
    weights = np.array(blocks, dtype=float)
    wanted = np.concatenate([np.zeros((1, 4)), np.cumsum(weights / weights.sum(axis=1, keepdims=True) * block, axis=0)])
    shares = schedule_shares(wanted, block)
    places = block * (len(blocks) + 3)
    components, counts = stream(Interleaving(shares, block), places)
    each = np.concatenate([shares, np.repeat(shares[-1:], 3, axis=0)])
    due = np.cumsum(np.repeat(each, block, axis=0), axis=0)
    error = np.abs(counts * UNIT - due)
    assert (error[block - 1::block] < UNIT).all()
    assert (error < 2 * UNIT).all()
    assert not np.isin(components[:block], np.flatnonzero(np.array(blocks[0]) == 0)).any(), "a share of 0 is none"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 900), min_size=1, max_size=20))
def test_any_place_can_be_asked_for_alone_and_in_any_order(places):
    shares = fixed_shares(np.array([0.5, 0.3, 0.2]))
    components, draws = Interleaving(shares, 64).at(np.arange(901))
    fresh = Interleaving(shares, 64)
    for place in places:
        assert [value.tolist() for value in fresh.at(np.array([place]))] == [[components[place]], [draws[place]]]


def test_brute_force_agrees_on_what_no_order_could_do_better():
    """Two components in shares 1 : 2; the only orders that are never a row away, by trying all of them."""
    import itertools

    good = set()
    for order in itertools.product((0, 1), repeat=6):
        counts = np.cumsum(np.array(order)[:, None] == np.arange(2), axis=0)
        if (np.abs(counts - np.arange(1, 7)[:, None] * np.array([1, 2]) / 3) < 1).all():
            good.add(order)
    ours = tuple(Interleaving(fixed_shares(np.array([1, 2])), 3).at(np.arange(6))[0].tolist())
    assert ours in good
    assert 0 < len(good) < 64


def test_shares_that_never_change_are_whole_rows_a_block_and_small_ones_stay_exact(monkeypatch):
    shares = fixed_shares(np.array([0.7, 0.2999, 1e-6, 0.0]))
    assert shares.sum() == UNIT
    assert shares[1] % (UNIT // interleave.BLOCK) == 0
    assert abs(shares[2] / UNIT - 1e-6) < 1e-7
    assert shares[3] == 0
    counts = Interleaving(shares).counts(3 * 10**6)
    assert counts[2] in (2, 3)
    assert counts[3] == 0


def test_far_places_cost_no_walk():
    interleaving = Interleaving(fixed_shares(np.array([0.6, 0.4])))
    components, draws = interleaving.at(np.array([10**9, 10**9 + 1]))
    assert interleaving.counts(10**9).sum() == 10**9
    assert set(components.tolist()) <= {0, 1}
    assert abs(draws[0] - 10**9 * [0.6, 0.4][components[0]]) < 30_000  # shares are multiples of 1 / 65,536


def test_wrong_shares_and_places_are_refused():
    with pytest.raises(ValueError, match="sum to UNIT"):
        Interleaving(np.array([1, 2]))
    with pytest.raises(IndexError, match="place -1"):
        Interleaving(fixed_shares(np.array([1.0]))).at(np.array([-1]))
