from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.data.documents import SPLITS
from gristmill.data.funnel import Grams, leakage
from gristmill.data.split import Split, assign, choose, join, point

NAMES = [f"cluster doc{i}" for i in range(2000)]


def splits(names: list[str], seed: int, split: Split) -> dict[str, str]:
    chosen = assign(np.array([point(name, seed) for name in names]), split)
    return {name: SPLITS[one] for name, one in zip(names, chosen.tolist(), strict=True)}


@settings(deadline=None)
@given(st.integers(0, 2**62), st.integers(50, 150))
def test_adding_documents_moves_no_other(seed: int, count: int) -> None:
    split = Split(valid=0.2, test=0.2)
    before, after = splits(NAMES[:count], seed, split), splits(NAMES[: count * 2], seed, split)
    assert all(after[name] == before[name] for name in before)
    assert before == {name: choose(name, seed, split.shares()) for name in before}


def test_shares_are_kept_on_average_and_seeds_matter() -> None:
    chosen = splits(NAMES, 1, Split(valid=0.1, test=0.05))
    counts = {split: list(chosen.values()).count(split) / 2000 for split in ("train", "valid", "test")}
    assert counts == pytest.approx({"train": 0.85, "valid": 0.1, "test": 0.05}, abs=0.02)
    assert splits(NAMES, 2, Split()) != splits(NAMES, 1, Split())


@settings(deadline=None)
@given(st.integers(0, 2**62))
def test_a_small_corpus_gets_every_split(seed: int) -> None:
    assert sorted(splits(["a", "b", "c"], seed, Split()).values()) == ["test", "train", "valid"]


def test_too_few_documents_is_refused() -> None:
    with pytest.raises(UserError, match=r"(?s)1 independent document.*piece_kb"):
        splits(["a"], 1, Split(valid=0.1, test=0))
    assert splits(["a"], 1, Split(valid=0, test=0)) == {"a": "train"}


def test_units_join_clusters_and_groups() -> None:
    clusters = np.array([0, 0, 2, 3, 4, 5, 9])
    groups = np.array([-1, 0, 0, -1, 1, 2, 1])  # the cluster 0 and the document 2 share a group, 4 and 9 another
    assert join(clusters, groups, 3).tolist() == [0, 0, 0, 3, 4, 5, 4]
    assert join(np.zeros(0, np.int64), np.zeros(0, np.int64), 0).tolist() == []


@pytest.mark.parametrize("bad", [{"valid": 0.6}, {"test": -0.1}, {"valid": 0.5, "test": 0.5}])
def test_impossible_shares_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"valid|test"):
        Split(**bad)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sets(st.integers(0, 60)), st.integers(-1, 2)), max_size=14), st.integers(1, 3),
       st.integers(0, 14))
def test_leakage_counts_what_held_out_documents_share_with_train(
    rows: list[tuple[set[int], int]], sampled: int, cut: int
) -> None:
    def batches() -> Iterator[Grams]:
        for part in (rows[:cut], rows[cut:]):
            yield (np.array([gram for grams, _ in part for gram in sorted(grams)], np.uint64),
                   np.array([len(grams) for grams, _ in part], np.int64), np.array([s for _, s in part], np.int64))

    found = leakage(batches, sampled)
    kept = [({gram for gram in grams if gram % sampled == 0}, split) for grams, split in rows]
    train = set().union(*(grams for grams, split in kept if split == 0))
    assert set(found) == {SPLITS[split] for _, split in rows if split > 0}
    for split in (1, 2):
        own = [grams for grams, of in kept if of == split]
        if own:
            total = sum(map(len, own))
            assert found[SPLITS[split]] == {
                "shared": round(sum(len(grams & train) for grams in own) / max(total, 1), 6),
                "documents_over_half": sum(2 * len(grams & train) > len(grams) for grams in own)}
