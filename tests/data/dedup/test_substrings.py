import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.dedup.substrings import cut_words, repeated_spans, window_keys

ROWS = st.lists(st.lists(st.sampled_from("abc"), max_size=25), min_size=1, max_size=5)


def repeated_slowly(rows: list[list[str]], order: list[int], k: int, *, within: bool) -> list[set[int]]:
    """Words that go, by a sorted suffix array of all documents (Lee et al. 2022, section 4.1)."""
    place = {document: at for at, document in enumerate(order)}
    suffixes = sorted(
        (tuple(words[at : at + k]), place[number], number, at)
        for number, words in enumerate(rows) if number in place for at in range(len(words) - k + 1)
    )
    gone: list[set[int]] = [set() for _ in rows]
    first = 0
    for index, (window, _, number, at) in enumerate(suffixes):
        if window != suffixes[first][0]:
            first = index
        if index != first and (within or number != suffixes[first][2]):
            gone[number] |= set(range(at, at + k))
    return gone


@settings(deadline=None)
@given(ROWS, st.integers(2, 6), st.booleans(), st.data())
def test_spans_equal_a_suffix_array(rows: list[list[str]], k: int, within: bool, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(rows))))[: data.draw(st.integers(0, 5))]
    cut = data.draw(st.integers(0, len(rows)))
    texts = [" ".join(row) for row in rows]
    parts = [window_keys(texts[:cut], k), window_keys(texts[cut:], k)]
    spans = repeated_spans(parts, np.array(order, np.int64), k, within=within, memory=data.draw(st.integers(60, 9000)))
    expected = repeated_slowly(rows, list(order), k, within=within)
    found: list[set[int]] = [set() for _ in rows]
    for document, first, after in spans.tolist():
        found[document] |= set(range(first, after))
    assert found == expected
    for document, text in enumerate(texts):
        left, _ = cut_words(text, spans[spans[:, 0] == document][:, 1:])
        assert left.split() == [word for at, word in enumerate(rows[document]) if at not in expected[document]]


def test_cut_text_is_clean_and_every_window_stays_once() -> None:
    chosen = random.Random(0)
    shared = "“Shared, words” " + " ".join(chosen.choices("abcdefgh", k=60)) + "."
    texts = [f"First document.\n\n{shared}\n\nIts end.", f"Second one; {shared} The close.", "A third."]
    parts = [window_keys(texts, 50)]
    spans = repeated_spans(parts, np.arange(3), 50)
    assert spans[:, 0].tolist() == [1]
    left, gone = cut_words(texts[1], spans[:, 1:])
    assert left == "Second one; The close."
    assert len(gone) == 1
    first = cut_words(texts[0], repeated_spans(parts, np.array([1, 0, 2]), 50)[:, 1:])[0]
    assert first.startswith("First document.\n\n")
    assert first.endswith("\nIts end.")


def test_nothing_to_cut() -> None:
    assert repeated_spans([], np.array([], np.int64)).shape == (0, 3)
    assert repeated_spans([window_keys(["", "a b"], 3)], np.arange(2), 3).shape == (0, 3)
    assert cut_words(" as it is\n", np.empty((0, 2), np.int64)) == (" as it is\n", [])
