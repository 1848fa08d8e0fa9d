"""Packing examples: the same tokens learnt as without it, in fewer rows; nothing lost without a word."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.tokens import RowBatches, pack_examples, pad_examples

EXAMPLES = st.lists(
    st.integers(1, 25).flatmap(lambda n: st.tuples(
        st.lists(st.integers(0, 99), min_size=n, max_size=n), st.lists(st.integers(0, 1), min_size=n, max_size=n))),
    max_size=20)


def learnt(batch):
    """What each document of a batch reads and predicts, as a multiset."""
    found = Counter()
    for ids, targets, documents in zip(*(batch[k].tolist() for k in ("input_ids", "targets", "document_ids")),
                                       strict=True):
        for number in set(documents) - {-1}:
            places = [t for t, d in enumerate(documents) if d == number]
            assert places == list(range(places[0], places[-1] + 1))
            found[tuple(ids[t] for t in places), tuple(targets[t] for t in places)] += 1
        assert all(t == -100 for t, d in zip(targets, documents, strict=True) if d == -1)
    return found


@settings(max_examples=150, deadline=None)
@given(examples=EXAMPLES, context=st.integers(1, 30), long=st.sampled_from(["truncate", "drop"]))
def test_packed_and_padded_rows_teach_the_same(examples, context, long):
    packed = pack_examples(examples, context, long=long)
    padded = pad_examples(examples, context, long=long)
    expected = Counter()
    for ids, mask in examples:
        ids, mask = (ids, mask) if len(ids) <= context + 1 else (ids[:context + 1], mask[:context + 1])
        if any(mask[1:]) and (long == "truncate" or len(ids) == len(mask)):
            expected[tuple(ids[:-1]), tuple(i if m else -100 for i, m in zip(ids[1:], mask[1:], strict=True))] += 1
    if long == "truncate":
        assert learnt(packed.batch(range(len(packed)))) == expected
    assert learnt(packed.batch(range(len(packed)))) == learnt(padded.batch(range(len(padded))))
    report = packed.report
    assert len(padded) + len(report.too_long) + len(report.without_targets) == report.examples == len(examples)
    assert sorted(example for row in packed for example in row) == sorted(example for row in padded for example in row)
    assert len(packed) <= len(padded)
    if report.tokens:  # any two rows together hold more than one row could
        sizes = sorted(sum(min(len(examples[e][0]) - 1, context) for e in row) for row in packed)
        assert len(sizes) < 2 or sizes[0] + sizes[1] > context
        assert report.fill == pytest.approx(sum(sizes) / (len(sizes) * context))


def test_packing_is_the_best_fit():
    examples = [(list(range(n + 1)), [1] * (n + 1)) for n in (6, 5, 4, 3, 2)]
    assert list(pack_examples(examples, 10)) == [[0, 2], [1, 3, 4]]


def test_loss_of_packed_rows_equals_loss_of_padded_rows():
    """A model that mixes what a position may attend to: cumulative sums within a document."""
    generator = torch.Generator().manual_seed(0)
    examples = [(torch.randint(0, 50, (n,), generator=generator).tolist(), [0] * (n // 2) + [1] * (n - n // 2))
                for n in (5, 9, 17, 3, 30, 12, 8)]
    table = torch.randn(50, 50, generator=generator, dtype=torch.float64)

    def loss(rows):
        batch = rows.batch(range(len(rows)))
        same = batch["document_ids"][:, :, None] == batch["document_ids"][:, None, :]
        reach = (same & torch.ones(same.shape[1:], dtype=torch.bool).tril()).double()
        logits = reach @ table[batch["input_ids"]]
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["targets"].flatten(), ignore_index=-100, reduction="sum")

    packed, padded = pack_examples(examples, 32), pad_examples(examples, 32)
    assert len(packed) < len(padded)
    assert torch.allclose(loss(packed), loss(padded), rtol=1e-12)


def test_what_does_not_fit_is_counted_or_refused():
    examples = [([1] * 12, [0] * 11 + [1]), ([1] * 12, [1] * 12), ([1, 2], [1, 0]), ([1, 2], [0, 1])]
    report = pack_examples(examples, 5).report
    assert (report.truncated, report.too_long, report.without_targets) == ([1], [0], [2])
    assert report.counts() == {"examples": 4, "rows": 2, "truncated": 1, "too_long": 1, "without_targets": 1,
                               "tokens": 6, "targets": 6, "fill": 0.6}
    with pytest.raises(UserError, match="example 0: an example of 12 tokens"):
        pack_examples(examples, 5, long="error")
    with pytest.raises(UserError, match="example 0: 2 token ids but a mask of 1"):
        pack_examples([([1, 2], [1])], 5)


def test_batches_of_rows_are_pure_and_complete():
    examples = [([7, i, 9], [0, 1, 1]) for i in range(20)]
    rows = pack_examples(examples, 4)
    batches = RowBatches(rows, batch=3, seed=1, epochs=2)
    assert (len(rows), batches.steps) == (10, 7)
    seen = Counter(int(i) for step in range(batches.steps) for i in batches.order.at(step))
    assert set(seen.values()) == {2}
    last = batches.batch(6)
    assert last["input_ids"].shape == (3, 4)
    assert (last["targets"][2] == -100).all()
    with pytest.raises(UserError, match="none of the 1 examples"):
        RowBatches(pack_examples([([1, 2], [0, 0])], 4), batch=1, seed=0)
