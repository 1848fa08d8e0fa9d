"""Best fit against the rule written down naively, and rows of whole documents by their properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.tokens import TokenShards, WholeBatches, laid_out
from gristmill.tokens.best_fit import best_fit, stable_order

from .conftest import write_shards


def naive(sizes, room):
    """The largest first, into the fullest row that has room; among equally full ones the row changed last."""
    rows, left, changed = [], [], []
    for step, piece in enumerate(sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))):
        fitting = [r for r in range(len(rows)) if left[r] >= sizes[piece]]
        if not fitting:
            rows.append([])
            left.append(room)
            changed.append(step)
            fitting = [len(rows) - 1]
        best = min(fitting, key=lambda r: (left[r], -changed[r]))
        rows[best].append(piece)
        left[best] -= sizes[piece]
        changed[best] = step
    return sorted(sorted(row) for row in rows)


@settings(max_examples=200, deadline=None)
@given(room=st.integers(1, 40), data=st.data())
def test_it_is_the_naive_best_fit(room, data):
    sizes = data.draw(st.lists(st.integers(1, room), max_size=60))
    layout = best_fit(np.array(sizes, dtype=np.int64), room)
    assert [layout.row(row).tolist() for row in range(len(layout))] == naive(sizes, room)


@settings(max_examples=40, deadline=None)
@given(room=st.integers(1, 30), group=st.integers(1, 9), data=st.data())
def test_groups_lose_only_their_last_rows(room, group, data):
    sizes = np.array(data.draw(st.lists(st.integers(1, room), min_size=1, max_size=40)))
    layout = best_fit(sizes, room, group)
    assert sorted(layout.pieces.tolist()) == list(range(len(sizes)))
    assert all(0 < sizes[layout.row(row)].sum() <= room for row in range(len(layout)))
    expected = [row + start for start in range(0, len(sizes), group)
                for row in (best_fit(sizes[start:start + group], room).pieces)]
    assert layout.pieces.tolist() == expected


def test_sizes_out_of_range_are_refused():
    for sizes in ([0], [11]):
        with pytest.raises(ValueError, match="from 1 to 10"):
            best_fit(np.array(sizes), 10)
    assert len(best_fit(np.array([], dtype=np.int64), 10)) == 0


@given(st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_stable_order_is_numpys(keys):
    keys = np.array(keys, dtype=np.int64)
    assert np.array_equal(stable_order(keys), np.argsort(keys, kind="stable"))


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(2, 70), min_size=1, max_size=25), context=st.integers(1, 40))
def test_rows_of_whole_documents_predict_every_token_once_and_cut_none_that_fits(tmp_path_factory, lengths, context):
    shards = write_shards(tmp_path_factory.mktemp("w") / "s", lengths)
    text = laid_out(shards, context)
    layout = text.layout
    predicted: list[tuple[int, int]] = []
    for row in range(layout.rows):
        spans = layout.spans(text, row)
        assert sum(stop - start - 1 for start, stop in spans) <= context
        for start, stop in spans:
            owners = set(shards.document_index(start, stop).tolist())
            assert len(owners) == 1
            owner = owners.pop()
            predicted += [(owner, place) for place in range(start + 1, stop)]
            if lengths[owner] - 1 <= context:
                assert stop - start == lengths[owner]
    assert sorted(predicted) == [(i, place) for i in range(len(lengths))
                                 for place in range(shards.offsets[i] + 1, shards.offsets[i + 1])]
    assert layout.padding == pytest.approx(1 - len(predicted) / (layout.rows * context))
    batches = WholeBatches(text, context=context, batch=1, seed=0)
    scored = np.concatenate([batches.batch(step)["targets"].flatten().numpy() for step in range(layout.rows)])
    assert sorted(scored[scored >= 0].tolist()) == sorted(
        token for i in range(len(lengths)) for token in shards.document(i)[1:].tolist())
    for step in range(layout.rows):
        batch = batches.batch(step)
        assert ((batch["document_ids"] >= 0).sum() == (batch["targets"] >= 0).sum()).item()


def test_the_layout_is_kept_and_a_damaged_one_refused(shards, tmp_path):
    first = laid_out(shards, 32, tmp_path)
    again = laid_out(TokenShards.open(shards.folder), 32, tmp_path)
    assert [path.name[:5] for path in tmp_path.iterdir()] == ["rows-"]
    for row in range(first.layout.rows):
        assert first.layout.spans(first, row) == again.layout.spans(again, row)
    path = next(tmp_path.glob("rows-*/pieces.npy"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"pieces.npy.*corrupt"):
        laid_out(shards, 32, tmp_path)
    (path.parent / "manifest.json").write_bytes(b"")
    with pytest.raises(UserError, match=r"manifest.json: this is not valid JSON(?s:.*)delete this folder"):
        laid_out(shards, 32, tmp_path)


def test_too_little_text_says_its_numbers(shards):
    text = laid_out(shards, 60)
    with pytest.raises(UserError, match=rf"makes {text.layout.rows} rows of 60 tokens, fewer than the 500"):
        WholeBatches(text, context=60, batch=500, seed=0)
    with pytest.raises(ValueError, match="laid out for rows of 60"):
        WholeBatches(text, context=30, batch=1, seed=0)


def test_what_a_killed_process_left_is_removed(shards, tmp_path):
    text = laid_out(shards, 32, tmp_path)
    folder = next(tmp_path.iterdir())
    left = tmp_path / f".{folder.name}.999999999.tmp"
    folder.rename(left)
    again = laid_out(shards, 32, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert again.layout.rows == text.layout.rows
