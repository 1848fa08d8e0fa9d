"""What each of several processes reads of an update: together the rows of one, in as many micro-batches each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.objectives import CausalLM
from gristmill.objectives.cross_entropy import IGNORED
from gristmill.objectives.masked_lm import MaskedLM
from gristmill.tokens import BatchWarmup, Curriculum, Positions
from gristmill.training.reading import Dealt, Windows, nothing

CONTEXT = 32


class Places:
    """Rows whose tokens are their place."""

    def rows(self, places: np.ndarray) -> dict[str, torch.Tensor]:
        ids = torch.as_tensor(places)[:, None].repeat(1, CONTEXT)
        return {"input_ids": ids, "targets": ids.clone(), "document_ids": torch.zeros_like(ids)}


def real(window):
    """The rows of a window that something is learnt from."""
    rows = torch.cat([batch["input_ids"] for batch in window])
    kept = torch.cat([(batch["targets"] != IGNORED).any(1) for batch in window])
    return rows[kept]


@settings(max_examples=100, deadline=None)
@given(batch=st.integers(1, 12), micro=st.integers(1, 12), shares=st.integers(1, 6), cuts=st.sampled_from([1, 2, 4]),
       grows=st.booleans(), step=st.integers(0, 30))
def test_shares_are_the_update_of_one_and_run_equally_often(batch, micro, shares, cuts, grows, step):
    positions = Positions(batch, CONTEXT, BatchWarmup(start=1, tokens=5 * CONTEXT) if grows else None)
    curriculum = Curriculum(short_rows=CONTEXT // cuts, short_until=1.0) if cuts > 1 else None
    first, stop = positions.span(step)

    def window(share, of):
        made = Windows(Places, positions, micro, share=(share, of)).cut(curriculum, CONTEXT, 10_000)
        return made.window(step)

    if stop - first < shares:
        with pytest.raises(UserError, match="cannot be dealt"):
            window(0, shares)
        return
    alone, many = window(0, 1), [window(share, shares) for share in range(shares)]
    assert torch.equal(torch.cat([real(one) for one in many]), real(alone))
    assert len({len(one) for one in many}) == 1
    largest = max(batch["input_ids"].numel() for batch in alone)
    assert all(batch["input_ids"].numel() <= largest for one in many for batch in one)


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 9), shares=st.integers(1, 5))
def test_any_source_can_be_dealt(rows, shares):
    class Source:
        def window(self, step):
            return [Places().rows(np.arange(rows) + 1), Places().rows(np.arange(2) + 50)]

    whole = Source().window(0)
    dealt = [Dealt(Source(), (share, shares)).window(0) for share in range(shares)]
    assert {len(window) for window in dealt} == {2}
    for number, batch in enumerate(whole):
        assert torch.equal(torch.cat([real([window[number]]) for window in dealt]), batch["input_ids"])


def test_nothing_counts_for_nothing_and_changes_no_row():
    batch = Places().rows(np.arange(3))
    empty = nothing(batch)
    assert CausalLM().counts(empty) == {"loss": 0}
    assert (empty["document_ids"] == -1).all()
    assert (batch["targets"] >= 0).all()


def test_rows_that_are_dealt_keep_their_documents():
    class Text:
        def window(self, step):
            return [{"input_ids": torch.arange(at, at + rows)[:, None], "targets": torch.zeros(rows, 1).long()}
                    for at, rows in ((0, 3), (3, 1), (4, 4))]

        def documents(self, step, row):
            return [f"{row}.txt"]

    for share in range(2):
        dealt, row = Dealt(Text(), (share, 2)), 0
        for batch in dealt.window(0):
            for number, target in zip(batch["input_ids"][:, 0].tolist(), batch["targets"], strict=True):
                if target >= 0:
                    assert dealt.documents(0, row) == [f"{number}.txt"]
                row += 1


def test_a_row_from_which_nothing_is_learnt_judges_no_pair_either():
    pair = {"input_ids": torch.ones(2, 4), "targets": torch.ones(2, 4), "next_sentence_label": torch.ones(2)}
    assert MaskedLM(pairs=True).counts(nothing(pair)) == {"loss": 0, "nsp": 0}
