"""Batches of similar lengths: every row once an epoch, never too many tokens, hardly any padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.tokens import RowBatches, pad_examples
from gristmill.tokens.length_buckets import BucketedOrder, random_padding


@settings(max_examples=80, deadline=None)
@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=80), tokens=st.integers(1, 800),
       seed=st.integers(0, 9))
def test_every_row_comes_once_an_epoch_among_rows_of_its_length(lengths, tokens, seed):
    order = BucketedOrder(np.array(lengths), tokens, seed)
    for epoch in range(2):
        seen, places = [], 0
        for step in range(epoch * order.batches, (epoch + 1) * order.batches):
            rows, length, found = order.at(step)
            own = np.array(lengths)[rows]
            assert found == epoch
            assert own.max() <= length <= own.min() * 1.125 + 1e-9
            assert len(rows) * length <= tokens or len(rows) == 1
            seen += rows.tolist()
            places += len(rows) * length
        assert sorted(seen) == list(range(len(lengths)))
        assert order.padding == pytest.approx(1 - sum(lengths) / places)
    with pytest.raises(IndexError):
        order.at(-1)


def test_batches_are_mixed_anew_in_every_epoch():
    order = BucketedOrder(np.random.default_rng(0).integers(1, 100, 500), 400, 1)
    first, second = ([tuple(order.at(step)[0]) for step in range(epoch * order.batches, (epoch + 1) * order.batches)]
                     for epoch in (0, 1))
    assert set(first) != set(second)
    lengths = [order.at(step)[1] for step in range(order.batches)]
    assert abs(np.corrcoef(np.arange(len(lengths)), lengths)[0, 1]) < 0.3


def test_padding_goes_from_half_to_a_few_percent():
    lengths = np.random.default_rng(0).lognormal(4, 0.8, 5000).astype(int) + 1
    assert random_padding(lengths, 32, 0) > 0.5
    assert BucketedOrder(lengths, 32 * 512, 0).padding < 0.06


def test_padded_examples_come_in_batches_of_their_length():
    rng = np.random.default_rng(1)
    examples = [(rng.integers(0, 50, n).tolist(), [1] * n) for n in rng.integers(2, 60, 100)]
    rows = pad_examples(examples, 64)
    batches = RowBatches(rows, batch=4, seed=0, similar_lengths=True)
    learnt, places = 0, 0
    for step in range(batches.buckets.batches):
        batch = batches.batch(step)
        assert batch["input_ids"].numel() <= 4 * 64
        assert torch.equal(batch["input_ids"], batches.batch(step)["input_ids"])
        learnt += int((batch["targets"] >= 0).sum())
        places += batch["targets"].numel()
    assert learnt == rows.report.targets
    assert learnt / places > 0.9 > 0.6 > rows.report.fill
    with pytest.raises(ValueError, match="no end"):
        RowBatches(rows, batch=4, seed=0, epochs=1, similar_lengths=True)
