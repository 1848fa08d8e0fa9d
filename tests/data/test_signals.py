"""Golden values worked out by hand from the definitions, and slow references for the fast parts."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.signals import code_symbols_v1, gopher_repetition_v1, gopher_symbols_v1, length_v1, measure


def test_length() -> None:
    assert length_v1("ab cd\n\n  \nxyz\n") == {
        "characters": 14, "words": 3, "lines": 2, "mean_line_length": 4.0, "max_line_length": 5,
        "mean_word_length": 7 / 3,
    }


def test_gopher_symbols() -> None:
    values = gopher_symbols_v1("- The cat, and\n* #tag ...\nwell 12 …\n")
    assert values == {
        "symbol_words": 3 / 10, "alphabetic_words": 5 / 10, "bullet_lines": 2 / 3, "ellipsis_lines": 2 / 3,
        "stop_words": 2,
    }


def test_code_symbols() -> None:
    assert code_symbols_v1("x1 = 0x1F\n") == {"alphanumeric": 6 / 10, "encoded": 4 / 7}
    assert code_symbols_v1(r"'\x00\u1234' v2")["encoded"] == 10 / 14
    assert code_symbols_v1("a" * 60 + " b\n")["encoded"] == 60 / 61
    assert code_symbols_v1("é = ö\n")["alphanumeric"] == 2 / 6


def test_repetition_of_lines_and_paragraphs() -> None:
    values = gopher_repetition_v1("aaaa\nbb\n\naaaa\nbb\n\ncc\n")
    assert values["duplicate_lines"] == 2 / 5
    assert values["duplicate_line_characters"] == 6 / 14
    assert values["duplicate_paragraphs"] == 1 / 3
    assert values["duplicate_paragraph_characters"] == 7 / 16


def test_an_ngram_that_occurs_once_is_no_repetition() -> None:
    assert gopher_repetition_v1("one two")["top_2gram"] == 0
    assert gopher_repetition_v1("a b a b x")["top_2gram"] == 4 / 5
    assert gopher_repetition_v1("a a a a")["top_2gram"] == 1  # overlapping occurrences count their words once


def repetition_slowly(text: str) -> dict[str, float]:
    words = text.split()
    total = sum(map(len, words))
    values = {}
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = Counter(grams)
        if n < 5:
            best = 0
            for gram, count in counts.items():
                covered = {i + k for i, g in enumerate(grams) if g == gram and count > 1 for k in range(n)}
                best = max(best, sum(len(words[i]) for i in covered))
            values[f"top_{n}gram"] = best / total if total else 0.0
        else:
            again = {i + k for i, gram in enumerate(grams) if gram in grams[:i] for k in range(n)}
            values[f"duplicate_{n}gram"] = sum(len(words[i]) for i in again) / total if total else 0.0
    return values


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "cc", "ddd"]), max_size=40).map(" ".join))
def test_ngrams_equal_the_slow_reference(text: str) -> None:
    values = gopher_repetition_v1(text)
    for name, expected in repetition_slowly(text).items():
        assert values[name] == pytest.approx(expected), name


@pytest.mark.parametrize("text", ["", " \n", "…", "x"])
@pytest.mark.parametrize("code", [True, False])
def test_almost_empty_texts_have_finite_signals(text: str, code: bool) -> None:
    assert all(value >= 0 for value in measure(text, code=code).values())


def test_language() -> None:
    pytest.importorskip("eldc", reason="the language detector is not installed")
    from gristmill.data.signals.language import language_v1

    assert language_v1("Der Hund läuft schnell über die große Straße.") == "de"
    assert language_v1("The dog runs quickly over the wide street.") == "en"
    assert language_v1("12345") == "und"
