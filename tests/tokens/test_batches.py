"""Training windows and evaluation rows, by their properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.tokens import EvaluationBatches, Loader, PackedBatches, permuted

from .conftest import write_shards


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 3000), seed=st.integers(0, 2**62))
def test_permuted_is_a_permutation(size, seed):
    order = permuted(np.arange(size), size, seed)
    assert sorted(order.tolist()) == list(range(size))
    assert permuted(np.array([size // 2]), size, seed)[0] == order[size // 2]


def test_permuted_looks_random():
    """Fixed points, neighbours kept together, and the mean place, against what chance gives."""
    size = 20_000
    order = permuted(np.arange(size), size, 5)
    assert (order == np.arange(size)).sum() < 10
    assert (np.abs(np.diff(order)) == 1).sum() < 20
    for part in np.split(order, 10):
        assert abs(part.mean() - size / 2) < 5 * size / np.sqrt(12 * 2000)
    assert abs(np.corrcoef(order, permuted(np.arange(size), size, 6))[0, 1]) < 0.05
    # Golden: the order is part of what a resumed run relies on, on every platform and in every version.
    assert permuted(np.arange(8), 1000, 1).tolist() == [890, 439, 367, 791, 139, 78, 90, 112]


@settings(max_examples=20, deadline=None)
@given(context=st.integers(5, 40), batch=st.integers(1, 9), seed=st.integers(0, 5))
def test_every_window_is_a_slice_and_comes_once_an_epoch(shards, context, batch, seed):
    batches = PackedBatches(shards, context=context, batch=batch, seed=seed)
    windows = batches.windows
    steps = -(-2 * windows // batch)
    flat, owner = shards.slice(0, shards.total_tokens), shards.document_index(0, shards.total_tokens)
    starts = []
    for step in range(steps):
        rows = batches.batch(step)
        assert rows["input_ids"].shape == rows["targets"].shape == rows["document_ids"].shape == (batch, context)
        for place, start in enumerate(batches.order.at(step) * context):
            starts.append(int(start) // context)
            assert np.array_equal(rows["input_ids"][place], flat[start:start + context])
            expected = np.where(owner[start + 1:start + context + 1] == owner[start:start + context],
                                flat[start + 1:start + context + 1].astype(int), -100)
            assert np.array_equal(rows["targets"][place], expected)
            assert np.array_equal(rows["document_ids"][place], owner[start:start + context] - owner[start])
    assert sorted(starts[:windows]) == sorted(starts[windows:2 * windows]) == list(range(windows))
    assert windows < 6 or starts[:windows] != starts[windows:2 * windows]
    assert batches.unused_tokens < context
    assert batches.state(3) == {"step": 3, "epoch": 3 * batch // windows, "row": 3 * batch % windows, "seed": seed}


def test_targets_never_cross_documents(shards):
    batches = PackedBatches(shards, context=16, batch=4, seed=0, epochs=1)
    targets = torch.cat([batches.batch(step)["targets"].flatten() for step in range(batches.steps)])
    assert (targets == 1).sum() == 0  # no start of a document is predicted
    assert (targets == 2).sum() > shards.documents - 3  # but every end is, save in the unused tail
    assert (targets != -100).sum() + batches.unused_tokens >= shards.total_tokens - shards.documents


def test_limited_epochs_end_with_a_padded_batch(shards):
    batches = PackedBatches(shards, context=16, batch=7, seed=0, epochs=1.5)
    rows = round(batches.windows * 1.5)
    assert batches.steps == -(-rows // 7)
    full = sum(int((batches.batch(s)["document_ids"] >= 0).any(1).sum()) for s in range(batches.steps))
    assert full == rows
    with pytest.raises(IndexError):
        batches.batch(batches.steps)


def test_other_seeds_give_other_orders(shards):
    first, second = (PackedBatches(shards, context=8, batch=8, seed=seed) for seed in (1, 2))
    assert not torch.equal(first.batch(0)["input_ids"], second.batch(0)["input_ids"])


def test_a_corpus_smaller_than_a_batch_says_its_numbers(tmp_path):
    shards = write_shards(tmp_path / "s", [40, 41])
    with pytest.raises(UserError, match=r"81 tokens, which make 8 windows of 10 tokens, fewer than the 9 rows"):
        PackedBatches(shards, context=10, batch=9, seed=0)
    assert PackedBatches(shards, context=10, batch=8, seed=0).windows == 8
    with pytest.raises(UserError, match="a context of at most 80"):
        PackedBatches(shards, context=100, batch=1, seed=0)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(2, 50), min_size=1, max_size=12), context=st.integers(1, 40),
       batch=st.integers(1, 5), limit=st.one_of(st.none(), st.integers(1, 300)))
def test_evaluation_scores_every_token_once(tmp_path_factory, lengths, context, batch, limit):
    shards = write_shards(tmp_path_factory.mktemp("t") / "s", lengths)
    batches = EvaluationBatches(shards, context, batch, limit_tokens=limit)
    scored: list[list[int]] = [[] for _ in lengths]
    for step, rows in enumerate(batches):
        assert rows["input_ids"].shape == (batch, context)
        numbers = batches.document_numbers(step)
        assert np.array_equal(numbers >= 0, rows["targets"].numpy() != -100)
        assert (rows["document_ids"][rows["targets"] != -100] >= 0).all()
        for number, target in zip(numbers.flat, rows["targets"].flatten().tolist(), strict=True):
            if number >= 0:
                scored[number].append(target)
    kept = batches.documents
    assert scored[:kept] == [shards.document(i)[1:].tolist() for i in range(kept)]
    assert not any(scored[kept:])
    assert batches.scored_tokens == sum(map(len, scored))
    assert batches.total_bytes == sum(4 * n for n in lengths[:kept])
    if limit is None:
        assert kept == len(lengths)
    else:
        assert kept == 1 or sum(lengths[:kept]) <= limit


@pytest.mark.parametrize("prefetch", [0, 1, 2, 5])
def test_reading_ahead_changes_nothing(shards, prefetch):
    batches = PackedBatches(shards, context=16, batch=4, seed=0)
    with Loader(batches, start=3, stop=20, prefetch=prefetch) as loader:
        got = list(loader)
    assert [step for step, _ in got] == list(range(3, 20))
    for step, batch in got:
        for key, expected in batches.batch(step).items():
            assert torch.equal(batch[key], expected)


@pytest.mark.parametrize("prefetch", [0, 1, 2])
def test_a_loader_ends_with_its_source_and_hands_on_errors(shards, prefetch):
    batches = PackedBatches(shards, context=16, batch=4, seed=0, epochs=1)
    with Loader(batches, prefetch=prefetch) as loader:
        assert len(list(loader)) == batches.steps

    class Broken:
        steps = None

        def batch(self, step):
            if step == 4:
                raise UserError("broken")
            return batches.batch(step)

    with Loader(Broken(), prefetch=prefetch) as loader:
        assert [next(loader)[0] for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(UserError, match="broken"):
            next(loader)
