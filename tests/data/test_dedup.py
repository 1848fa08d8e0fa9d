"""The steps of deduplication in their order, on one small corpus, and the words' definition by `text.lower()`."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data import dedup
from gristmill.data.dedup.clusters import components
from gristmill.data.dedup.shingles import jaccard, shingles
from gristmill.data.dedup.texts import CHARACTERS, slices

THRESHOLD = 0.8


def sentence(count: int, seed: int) -> str:
    chosen = random.Random(seed)
    return " ".join("".join(chosen.choices("abcdefghij", k=6)) for _ in range(count))


def steps(
    urls: Sequence[str], texts: Sequence[str], scores: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(step, partner, similarity) of each document: address, then content, then near-duplicates of what is left."""
    order = np.array(sorted(range(len(texts)), key=lambda n: (-scores[n], n)), np.int64)
    step, partner = np.zeros(len(texts), np.int64), np.full(len(texts), -1, np.int64)
    for number, digests in enumerate(([*map(dedup.url_hash, urls)], [*map(dedup.content_hash, texts)]), 1):
        best = dedup.equal_documents([dedup.hash_columns(digests)], order[step[order] == 0])
        step[best >= 0], partner[best >= 0] = number, best[best >= 0]
    prints = [dedup.fingerprints(texts, THRESHOLD)]
    near = dedup.near_duplicates(prints, dedup.ListedTexts(texts), order[step[order] == 0], THRESHOLD)
    step[near.gone], partner[near.gone] = 3, near.kept_for[near.gone]
    similarity = near.similarity + np.isin(step, (1, 2))
    return step, partner, similarity


def corpus() -> tuple[list[str], list[str], list[float]]:
    page, other = sentence(200, 1), sentence(200, 2)
    rows = [
        ("http://a.org/1", page, 1.0),
        ("https://www.a.org/1/?utm_source=x", f"An older state of it: {other}", 0.5),
        ("http://b.org/copy", page.replace(" ", "\n", 30), 0.9),
        ("http://c.org/near", page.replace(" ", " inserted ", 2), 2.0),
        ("", other, 1.0),
        ("", "", 0.0),
        ("", "", 0.0),
    ]
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def test_address_then_content_then_likeness_and_the_best_stays() -> None:
    step, partner, similarity = steps(*corpus())
    assert step.tolist() == [3, 1, 2, 0, 0, 0, 2]
    assert partner.tolist() == [3, 0, 0, -1, -1, -1, 5]
    texts = corpus()[1]
    assert similarity[0] == np.float32(jaccard(shingles(texts[0]), shingles(texts[3])))


@settings(deadline=None, max_examples=15)
@given(st.permutations(range(7)))
def test_the_steps_depend_on_no_order(shuffled: list[int]) -> None:
    urls, texts, scores = corpus()
    scores = [score + 0.001 * number for number, score in enumerate(scores)]  # no ties, which the order would break
    step, partner, _ = steps(urls, texts, scores)
    moved, with_partner, _ = steps(*([values[n] for n in shuffled] for values in (urls, texts, scores)))
    assert moved.tolist() == [step[n] for n in shuffled]
    assert [shuffled[p] if p >= 0 else -1 for p in with_partner.tolist()] == [partner[n] for n in shuffled]


def test_the_report_tells_what_happened() -> None:
    urls, texts, scores = corpus()
    step, partner, similarity = steps(urls, texts, scores)
    links = np.stack((np.flatnonzero(partner >= 0), partner[partner >= 0]), axis=1)
    found = dedup.dedup_report(
        ["web"], np.zeros(7, np.int64), np.array([len(text) for text in texts]), step, partner, similarity,
        components(7, links), lambda numbers: {n: (str(n), texts[n]) for n in numbers},
    )
    removed = json.loads(json.dumps(found))["sources"]["web"]["removed"]
    assert {name: part["documents"] for name, part in removed.items()} == {"url": 1, "exact": 2, "near": 1}
    assert "inserted" in removed["near"]["examples"][0]["kept_text"]
    assert found["sources"]["web"]["largest_cluster"] == 4
    assert [alarm["kind"] for alarm in found["alarms"]] == ["large_share"]


def test_boilerplate_and_repeated_stretches_go_last() -> None:
    notice, quoted = "This site uses cookies to work", sentence(60, 3)
    middle = [quoted, quoted, *(sentence(60, n) for n in range(50, 53))]
    texts = [f"{notice}\n{sentence(40, n)}\n{middle[n]}\n{sentence(40, n + 9)}" for n in range(5)]
    frequent = dedup.frequent_keys([dedup.line_keys(texts, ["web"] * 5)], 3)
    texts = [dedup.remove_lines(text, "web", frequent)[0] for text in texts]
    assert not any(notice in text for text in texts)
    spans = dedup.repeated_spans([dedup.window_keys(texts)], np.arange(5))
    cut = [dedup.cut_words(text, spans[spans[:, 0] == n][:, 1:])[0] for n, text in enumerate(texts)]
    assert [quoted in text for text in cut] == [True, False, False, False, False]
    assert cut[1] == f"{sentence(40, 1)}\n\n{sentence(40, 10)}"
    assert cut[2:] == texts[2:]


SOME = st.text(st.sampled_from("abcABC_1 .\n日本กあé한"), max_size=60)


@settings(deadline=None)
@given(SOME, SOME)
def test_jaccard_equals_brute_force(a: str, b: str) -> None:
    assert shingles(a).tolist() == shingles(a.lower()).tolist()
    first, second = set(shingles(a).tolist()), set(shingles(b).tolist())
    expected = len(first & second) / len(first | second) if first and second else 0.0
    assert jaccard(shingles(a), shingles(b)) == expected


def test_texts_of_parquet_are_read_by_number(tmp_path: Path) -> None:
    rows = [f"text {n}" for n in range(700)]
    for number, (begin, end) in enumerate(((0, 300), (300, 300), (300, 700))):
        pq.write_table(pa.table({"text": pa.array(rows[begin:end], pa.string())}), tmp_path / f"{number}.parquet")
    texts = dedup.ParquetTexts([tmp_path / f"{n}.parquet" for n in range(3)])
    assert len(texts) == 700
    for wanted in (None, np.arange(0), np.array([0, 255, 256, 299, 300, 699])):
        found = [(int(n), t) for numbers, batch in texts.read(wanted) for n, t in zip(numbers, batch, strict=True)]
        assert found == [(n, rows[n]) for n in (range(700) if wanted is None else wanted.tolist())]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    """Four times the documents: the arrays of the search grow by some dozens of bytes each, the texts stay outside."""
    import tracemalloc

    def peak(files: int) -> int:
        paths, parts = [], []
        for number in range(files):
            rows = [sentence(300, 1000 * number + n) for n in range(100)]
            paths.append(tmp_path / f"{number}.parquet")
            pq.write_table(pa.table({"text": rows * 2}), paths[-1])
            dedup.fingerprints(rows * 2, THRESHOLD).save(paths[-1].with_suffix(".near"))
            parts.append(dedup.Fingerprints.load(paths[-1].with_suffix(".near")))
        texts = dedup.ParquetTexts(paths)
        tracemalloc.start()
        found = dedup.near_duplicates(parts, texts, np.arange(len(texts)), THRESHOLD, folder=tmp_path, memory=1 << 20)
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(found.gone) == 100 * files
        return high

    peak(1)
    small, large = peak(2), peak(8)
    assert (large - small) / 1200 < 400


@settings(deadline=None)
@given(st.lists(st.sampled_from(["", "x", "x" * 600_000, "x" * 1_200_000]), max_size=9))
def test_work_is_bounded_in_characters(texts: list[str]) -> None:
    parts = [texts[part] for part in slices(texts)]
    assert [text for part in parts for text in part] == texts
    assert all(len(part) == 1 or sum(map(len, part)) <= CHARACTERS for part in parts)
    assert all(parts)
