from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.augment.edits import Edits, edited
from gristmill.data.augment.method import Original, takes
from gristmill.data.augment.words import changeable, parts

TEXT = "One two three, four (five) six.\nSeven \"eight\" nine ten; eleven twelve!\n`code stays` as it is.\n"
WORDS = st.lists(st.sampled_from(["ab", "cde", "fg, hi", "(jk)", "`x y`", "l\nm"]), min_size=1, max_size=40)


def made(text: str, copy: int = 1, seed: int = 0, **options) -> str:
    return edited(Original("id", text), Edits(**options), "edits", copy, seed).text


def rest(text: str) -> str:
    """Everything but words and spaces."""
    return "".join(part for part, is_word in parts(text) if not is_word).replace(" ", "")


@settings(max_examples=60)
@given(WORDS, st.integers(0, 1000))
def test_each_operation_keeps_what_it_promises(words, seed):
    text = " ".join(words)
    before = Counter(changeable(text))
    swapped = made(text, seed=seed, insertion=0, deletion=0, swap=0.5)
    assert Counter(changeable(swapped)) == before
    deleted = Counter(changeable(made(text, seed=seed, insertion=0, deletion=0.5, swap=0)))
    assert deleted <= before
    assert deleted.total() >= min(1, before.total())
    inserted = Counter(changeable(made(text, seed=seed, insertion=0.5, deletion=0, swap=0)))
    assert inserted >= before
    assert set(inserted) == set(before)
    for options in ({"insertion": 0.5, "deletion": 0, "swap": 0}, {"insertion": 0, "deletion": 0.5, "swap": 0},
                    {"insertion": 0, "deletion": 0, "swap": 0.5}, {"combine": "all"}):
        assert rest(made(text, seed=seed, **options)) == rest(text)


def test_rates_are_means():
    text = " ".join(f"w{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10]}" for i in range(73)) + "\n"
    count = 400
    inserted = sum(len(changeable(made(text, seed=s, insertion=0.07, deletion=0, swap=0))) - 73 for s in range(count))
    deleted = sum(73 - len(changeable(made(text, seed=s, insertion=0, deletion=0.07, swap=0))) for s in range(count))
    assert abs(inserted / count - 0.07 * 73) < 0.1  # floor(5.11 + u): deviation 0.31 / 20
    assert abs(deleted / count - 0.07 * 73) < 0.45  # binomial: deviation 2.18 / 20
    moved = [sum(a != b for a, b in zip(changeable(text), changeable(made(
        text, seed=s, insertion=0, deletion=0, swap=0.07)), strict=True)) for s in range(count)]
    assert 9.2 < sum(moved) / count < 10.22  # two words a swap, a little less where a word is met twice


def test_one_operation_a_copy_and_all_of_them_over_many():
    found = Counter(edited(Original("a", TEXT), Edits(), "edits", copy, 1).about["operations"][0]
                    for copy in range(1, 301))
    assert set(found) == {"insertion", "deletion", "swap"}
    assert min(found.values()) > 70
    assert edited(Original("a", TEXT), Edits(combine="all", swap=0), "e", 1, 1).about["operations"] == [
        "insertion", "deletion"]


def test_a_text_is_a_function_of_seed_name_id_and_copy():
    assert made(TEXT, combine="all") == made(TEXT, combine="all")
    assert len({made(TEXT, copy=c, combine="all") for c in range(1, 9)}) == 8
    assert len({made(TEXT, seed=s, combine="all") for s in range(8)}) == 8


def test_spaces_close_where_a_word_goes():
    for seed in range(60):
        text = made(TEXT, seed=seed, insertion=0, deletion=0.5, swap=0)
        assert "  " not in text
        assert " ," not in text
        assert " \n" not in text
        assert "`code stays`" in text
        assert all(not line.startswith(" ") for line in text.split("\n"))


@pytest.mark.parametrize("text", ["", "\n", "one", "123 456", "`only code`"])
def test_texts_without_much_to_change(text):
    for operation in ("insertion", "deletion", "swap"):
        rates = dict.fromkeys(("insertion", "deletion", "swap"), 0.0) | {operation: 0.5}
        assert made(text, **rates).split()[:1] == text.split()[:1]


def test_which_documents_are_taken():
    edits = Edits(share=0.3)
    taken = sum(takes(edits, "edits", Original(f"d{i}", "x", "en"), 3) for i in range(2000))
    assert 540 < taken < 660
    assert not takes(Edits(), "edits", Original("a", "x", "python"), 3)
    assert not takes(Edits(), "edits", Original("a", "x", "zh"), 3)
    assert not takes(Edits(), "edits", Original("a", "x", "en", made=True), 3)
    assert not takes(Edits(languages=["de"]), "edits", Original("a", "x", "en"), 3)


@pytest.mark.parametrize("wrong", [
    {"share": 0}, {"copies": 0}, {"insertion": 0.6}, {"name": "A b"}, {"insertion": 0, "deletion": 0, "swap": 0}])
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Edits(**wrong)
