import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.data.dedup import candidates, texts
from gristmill.data.dedup.clusters import components, keep_best
from gristmill.data.dedup.fingerprints import Fingerprints, fingerprints
from gristmill.data.dedup.grouping import equal_groups
from gristmill.data.dedup.near import Near, near_duplicates
from gristmill.data.dedup.shingles import jaccard, shingles
from gristmill.data.dedup.texts import ListedTexts, ParquetTexts

THRESHOLD = 0.8


def vocabulary(count: int, seed: int) -> list[str]:
    chosen = random.Random(seed)
    return ["".join(chosen.choices("abcdefghij", k=6)) for _ in range(count)]


def edited(words: list[str], edits: int, seed: int) -> str:
    """A copy with so many words replaced, dropped or doubled."""
    chosen, copy = random.Random(seed), [[word] for word in words]
    for place in chosen.sample(range(len(copy)), edits):
        copy[place] = chosen.choice([["new" + str(chosen.random())], [], copy[place] * 2])
    return " ".join(word for group in copy for word in group)


def family(count: int, most: int, seed: int, size: int = 150) -> list[str]:
    words = vocabulary(size, seed)
    return [edited(words, random.Random(n + seed).randrange(most + 1), n) for n in range(count)]


def search(
    rows: Sequence[str], order: Sequence[int] | None = None, threshold: float = THRESHOLD,
    containment: float | None = None,
) -> Near:
    chosen = np.arange(len(rows)) if order is None else np.array(order)
    parts = [fingerprints(rows, threshold)]
    return near_duplicates(parts, ListedTexts(rows), chosen, threshold, containment=containment)


def brute_force(rows: Sequence[str], threshold: float = THRESHOLD) -> set[tuple[int, int]]:
    sets = [shingles(row) for row in rows]
    return {(a, b) for a in range(len(rows)) for b in range(a + 1, len(rows)) if jaccard(sets[a], sets[b]) >= threshold}


def greedy(order: Sequence[int], similar: set[tuple[int, int]]) -> set[int]:
    """What goes, by the definition."""
    stays: list[int] = []
    for document in order:
        if not any((min(document, other), max(document, other)) in similar for other in stays):
            stays.append(document)
    return set(order) - set(stays)


@pytest.mark.parametrize("edits", [1, 3, 6, 12])
def test_planted_copies_are_found_as_brute_force_finds_them(edits: int) -> None:
    rows = []
    for number in range(40):
        words = vocabulary(150, number)
        rows += [" ".join(words), edited(words, edits, number)]
    found = search(rows)
    pairs = {(min(p), max(p)) for p in found.pairs.tolist()}
    assert pairs == brute_force(rows)
    assert set(found.gone.tolist()) == greedy(range(len(rows)), pairs)


def test_everything_equals_the_definition_on_a_large_family() -> None:
    rows = family(60, 6, 1) + family(30, 4, 2) + ["", "...", "one", "one", "one two"]
    order = random.Random(3).sample(range(len(rows)), len(rows))
    found = search(rows, order)
    assert set(found.gone.tolist()) == greedy(order, brute_force(rows))
    for gone in found.gone.tolist():
        kept = int(found.kept_for[gone])
        assert found.kept_for[kept] == -1
        assert found.similarity[gone] == np.float32(jaccard(shingles(rows[gone]), shingles(rows[kept])))
        assert found.cluster[gone] == found.cluster[kept]
        assert order.index(kept) < order.index(gone)


@settings(deadline=None, max_examples=12)
@given(st.data())
def test_neither_files_nor_numbers_nor_batches_nor_memory_change_anything(data: st.DataObject) -> None:
    rows = family(25, 8, 5, size=80) + family(10, 3, 6, size=80) + ["", "short text", "日本語の文章"]
    score = random.Random(7).sample(range(len(rows)), len(rows))
    shuffled = data.draw(st.permutations(range(len(rows))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    here = [rows[n] for n in shuffled]
    parts = [fingerprints(here[a:b], THRESHOLD) for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    order = np.array(sorted(range(len(rows)), key=lambda place: score[shuffled[place]]))
    before, texts.BATCH = texts.BATCH, data.draw(st.integers(1, 9))
    try:
        found = near_duplicates(parts, ListedTexts(here), order, THRESHOLD, memory=data.draw(st.integers(200, 4000)))
    finally:
        texts.BATCH = before
    plain = search(rows, sorted(range(len(rows)), key=lambda n: score[n]))
    for mine, theirs in ((found.kept_for, plain.kept_for), (found.cluster, plain.cluster)):
        expected = [int(theirs[n]) for n in shuffled]
        assert [shuffled[v] if v >= 0 else -1 for v in mine.tolist()] == expected
    assert [found.similarity[p] for p in range(len(rows))] == [plain.similarity[n] for n in shuffled]


def test_files_and_texts_on_disk_give_the_same(tmp_path: Path) -> None:
    rows = family(40, 6, 9)
    paths, parts = [], []
    for number, (begin, end) in enumerate(((0, 13), (13, 13), (13, 40))):
        paths.append(tmp_path / f"{number}.parquet")
        pq.write_table(pa.table({"text": pa.array(rows[begin:end], pa.string())}), paths[-1], row_group_size=5)
        fingerprints(rows[begin:end], THRESHOLD).save(tmp_path / f"{number}.near")
        parts.append(Fingerprints.load(tmp_path / f"{number}.near"))
    found = near_duplicates(parts, ParquetTexts(paths), np.arange(40), THRESHOLD, folder=tmp_path)
    assert found.kept_for.tolist() == search(rows).kept_for.tolist()
    assert [path for path in tmp_path.iterdir() if path.suffix not in (".parquet", ".near")] == []


def test_damaged_fingerprints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.near"
    fingerprints(["a b c d e f"] * 3, THRESHOLD).save(path)
    for damage in (b"", path.read_bytes()[:-5], b"x" * 500):
        path.write_bytes(damage)
        with pytest.raises(UserError, match="no fingerprints"):
            Fingerprints.load(path)


def test_a_large_bucket_costs_no_square_and_loses_nobody() -> None:
    """400 copies of one text: few stay; each of the others was compared with one; far fewer pairs than 79,800."""
    rows = family(400, 2, 11, size=300)
    found = search(rows)
    assert found.examined < 400 * candidates.REPRESENTATIVES
    sets = [shingles(row) for row in rows]
    stays = [n for n in range(len(rows)) if found.kept_for[n] < 0]
    assert len(stays) == 1
    for gone in found.gone.tolist():
        assert jaccard(sets[gone], sets[int(found.kept_for[gone])]) >= THRESHOLD


def templated(count: int, facts: int, seed: int) -> list[str]:
    """Distinct reports of one template of 300 words, `facts` of which are each report's own."""
    chosen, frame = random.Random(seed), vocabulary(300, seed)
    slots = chosen.sample(range(300), facts)
    rows = []
    for _ in range(count):
        words = list(frame)
        for slot in slots:
            words[slot] = str(chosen.random())[2:8]
        rows.append(" ".join(words))
    return rows


@pytest.mark.parametrize("facts", [12, 30, 60])
def test_distinct_documents_of_one_template_all_stay(facts: int) -> None:
    """Where one-word facts are 4 % of the words and more; character 5-grams join them up to 5 % (see the benchmark)."""
    rows = templated(80, facts, facts)
    assert not len(search(rows).gone)
    characters = [{row[at : at + 5] for at in range(len(row) - 4)} for row in rows[:2]]
    if facts == 12:
        assert len(characters[0] & characters[1]) / len(characters[0] | characters[1]) > 0.75


def test_no_deletion_through_a_third() -> None:
    words = vocabulary(200, 21)
    middle = list(words)
    middle[20:34] = ["m" + str(n) for n in range(14)]
    last = list(middle)
    last[120:134] = ["l" + str(n) for n in range(14)]
    rows = [" ".join(one) for one in (words, middle, last)]
    assert brute_force(rows) == {(0, 1), (1, 2)}
    found = search(rows)
    assert found.kept_for.tolist() == [-1, 0, -1]
    assert found.cluster.tolist() == [0, 0, 0]


def test_containment_takes_a_part_for_the_whole_but_not_the_whole_for_a_part() -> None:
    words = vocabulary(300, 31)
    whole, part = " ".join(words), " ".join(words[:225])
    assert not len(search([whole, part]).gone)
    assert search([whole, part], threshold=0.8, containment=0.95).kept_for.tolist() == [-1, 0]
    assert not len(search([part, whole], threshold=0.8, containment=0.95).gone)


@pytest.mark.parametrize("rows", [[], [""], ["one"], ["", ""], ["a b c d e f", "g h i j k l"], ["...", "!!!"]])
def test_nothing_to_find(rows: list[str]) -> None:
    found = search(rows)
    assert found.kept_for.tolist() == [-1] * len(rows)
    assert found.cluster.tolist() == list(range(len(rows)))
    assert near_duplicates([], ListedTexts([]), np.array([], np.int64), 0.8).pairs.shape == (0, 2)


def test_documents_that_take_no_part_are_left_alone() -> None:
    rows = family(6, 0, 41)
    found = search(rows, [4, 2])
    assert found.kept_for.tolist() == [-1, -1, 4, -1, -1, -1]


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), max_size=40), st.integers(60, 4000), st.integers(0, 40))
def test_equal_groups_equal_a_dictionary(values: list[int], memory: int, cut: int) -> None:
    spread = np.array([value * 0x2AAAAAAAAAAAAAAA for value in values], np.uint64)
    expected: dict[int, list[int]] = {}
    for item, value in enumerate(spread.tolist()):
        expected.setdefault(value, []).append(item)
    found = []
    for items, starts in equal_groups([spread[:cut], spread[cut:]], memory=memory, skip=0):
        found += [part.tolist() for part in np.split(items, starts[1:])]
    assert found == [members for value, members in sorted(expected.items()) if len(members) > 1 and value]


PAIRS = st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)).filter(lambda pair: pair[0] < pair[1]), min_size=1)


@settings(deadline=None)
@given(PAIRS)
def test_keep_best_and_components_equal_the_definition(pairs: set[tuple[int, int]]) -> None:
    listed = np.array(sorted(pairs))
    stays = keep_best(12, listed[:, 0], listed[:, 1])
    assert set(np.flatnonzero(~stays).tolist()) == greedy(range(12), pairs)
    label = list(range(12))
    for _ in range(12):
        for a, b in pairs:
            label[a] = label[b] = min(label[a], label[b])
    assert components(12, listed).tolist() == label


def test_long_chains_end() -> None:
    """More links than rounds: 0 stays, 1 goes, 2 stays, ..."""
    ends = np.arange(500)
    stays = keep_best(501, ends, ends + 1)
    assert stays.tolist() == [n % 2 == 0 for n in range(501)]
    assert (components(501, np.stack((ends, ends + 1), axis=1)) == 0).all()
