"""All signals for prose equal the slow reading of their definitions; a batch equals its texts one by one."""


import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.signals import CODE, PROSE, SIGNALS, Batch, measure, measure_batch, remove_lines
from gristmill.data.signals.batch import BATCH_TEXTS
from gristmill.data.signals.lines import C4_LINES, FINEWEB_LINES, remove_lines_batch
from gristmill.data.signals.repetition import repeated_ngrams
from tests.data.signals.documents import MADE, real_documents
from tests.data.signals.slow import SLOW, gone, lines_of
from tests.shared import comes_to_an_end

PIECES = ["a", "The", "that", "cc", "END.", "go!", 'so?"', "wait...", "x…", "#tag", "{", "lorem ipsum", "JavaScript",
          "use cookies", "- ", "• ", "12", "CAPS", "中文。", "日本", "ไทย", "e\u0301", "😀", "👩\u200d👩",
          "\u2028", "\x85", "\u00a0", "\x0b", "\r", "\u200b", "y" * 1001, "1.5", "(ok.)", "。。", "\ufeff", "İ"]
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from([" ", "\n", "\n\n", "  ", "", " \n \n"])), max_size=40)
    .map(lambda pairs: "".join(a + b for a, b in pairs)),
    st.lists(st.sampled_from(["a ", "b ", "cc ", "ddd\n"]), max_size=50).map("".join),
)


def agree(text: str, found: dict[str, float]) -> None:
    for name, slow in SLOW.items():
        for value, expected in slow(text).items():
            assert found[f"{name}.{value}"] == pytest.approx(expected, rel=1e-7, abs=1e-7), (name, value)


def test_the_slow_reading_has_every_signal_for_prose_and_every_value() -> None:
    assert set(SLOW) == set(PROSE)
    assert {f"{name}.{value}" for name, slow in SLOW.items() for value in slow("")} == set(measure("", code=False))


@settings(deadline=None, max_examples=150)
@given(TEXTS)
def test_signals_equal_their_slow_reading(text: str) -> None:
    agree(text, measure(text, code=False))


@pytest.mark.parametrize("text", MADE)
def test_signals_of_hand_made_documents_equal_their_slow_reading(text: str) -> None:
    agree(text, measure(text, code=False))


@pytest.mark.slow
def test_signals_of_real_documents_equal_their_slow_reading() -> None:
    texts = real_documents(4)
    columns = measure_batch(texts)
    for place, text in enumerate(texts):
        agree(text, {name: float(column[place]) for name, column in columns.items()})


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(TEXTS, st.booleans()), max_size=6))
def test_a_batch_equals_its_texts_one_by_one(items: list[tuple[str, bool]]) -> None:
    columns = measure_batch([text for text, _ in items], code=[code for _, code in items])
    for place, (text, code) in enumerate(items):
        alone = measure(text, code=code)
        assert {name: float(column[place]) for name, column in columns.items() if not np.isnan(column[place])} == alone


def test_batches_are_cut_without_a_trace() -> None:
    texts = [f"word {i % 7} and {'again ' * (i % 5)}\n" for i in range(BATCH_TEXTS + 3)]
    columns = measure_batch(texts)
    assert columns["length_v1.words"].dtype == np.float64
    for place in (0, BATCH_TEXTS - 1, BATCH_TEXTS, BATCH_TEXTS + 2):
        assert {name: float(column[place]) for name, column in columns.items()} == measure(texts[place], code=False)


def test_no_texts_give_all_columns_empty() -> None:
    columns = measure_batch([], code=[])
    assert set(columns) == {*measure("", code=False), *measure("", code=True)}
    assert all(len(column) == 0 for column in columns.values())


def test_only_the_wanted_signals_are_computed() -> None:
    assert set(measure_batch(["a"], only=["words_v1"])) == {f"words_v1.{value}" for value in SLOW["words_v1"]("")}


@pytest.mark.slow
@pytest.mark.parametrize("text", ["a" * 10_000_000, "." * 10_000_000, "\n" * 10_000_000, " " * 10_000_000, "{" * 10**7])
def test_ten_megabytes_of_one_character_take_seconds(text: str) -> None:
    with comes_to_an_end(200):
        values = measure(text, code=False)
    assert values["length_v1.characters"] == 10_000_000
    assert values["characters_v1.entropy"] == 0
    assert values["words_v1.longest"] == (0 if text.isspace() else 10_000_000)


@settings(deadline=None, max_examples=100)
@given(TEXTS, st.booleans())
def test_removing_lines_takes_just_those_lines(text: str, terminal: bool) -> None:
    edited = remove_lines(text, C4_LINES if terminal else FINEWEB_LINES)
    assert lines_of(edited.text) == [line for line in lines_of(text) if not gone(line, terminal)]
    assert sum(edited.removed.values()) == len(lines_of(text)) - len(lines_of(edited.text))
    assert remove_lines(edited.text, edited.removed).text == edited.text
    assert remove_lines_batch(Batch(["no end", text]), edited.removed)[1] == edited


def test_lone_surrogates_are_measured() -> None:
    assert measure("a \ud800 b", code=False)["characters_v1.alphabetic"] == 2 / 5


def test_line_separators_of_unicode_are_white_space_but_end_no_line() -> None:
    values = measure("one two\u2028three four\x85five", code=False)
    assert (values["length_v1.lines"], values["length_v1.words"]) == (1, 5)


@pytest.mark.parametrize("name", [*PROSE, *CODE, "gopher_symbols_v1"])
def test_every_signal_has_a_definition_and_finite_values(name: str) -> None:
    assert SIGNALS[name].__doc__
    columns = SIGNALS[name].columns(Batch(MADE))
    assert all(np.isfinite(column).all() and (column >= 0).all() and len(column) == len(MADE)
               for column in columns.values())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 2), max_size=25), max_size=4))
def test_repeated_ngrams(texts: list[list[int]]) -> None:
    words = np.array([word for text in texts for word in text], np.int64)
    owner = np.array([row for row, text in enumerate(texts) for _ in text], np.int64)
    starts = np.cumsum([0, *map(len, texts)])
    for n, positions, groups in repeated_ngrams(words, owner, 3):
        seen: dict[tuple[int, ...], list[int]] = {}
        for row, text in enumerate(texts):
            for i in range(len(text) - n + 1):
                seen.setdefault((row, *text[i : i + n]), []).append(int(starts[row]) + i)
        expected = sorted(places for places in seen.values() if len(places) > 1)
        found = [positions[groups == group].tolist() for group in dict.fromkeys(groups.tolist())]
        assert sorted(found) == expected
