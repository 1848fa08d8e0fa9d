import string
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.config import non_default, to_plain
from gristmill.data.normalise import STOP_WORDS, Normalise, normalise

MESSY = st.text(st.one_of(
    st.sampled_from(" \t\r\n\x00\x0c\x85\x9d\ufeffaÃ©â€œ\u2028é\u0301가ﬁ"), st.characters(exclude_categories=["Cs"])
), max_size=60)


@settings(deadline=None)
@given(MESSY, st.booleans())
def test_idempotent(text: str, code: bool) -> None:
    once = normalise(text, code=code)
    assert normalise(once, code=code) == once


def test_what_each_step_does() -> None:
    assert normalise("a\r\nb\rc \t\n\n\n\n\n\nd\x00\x1b") == "a\nb\nc\n\n\nd\n"
    assert normalise("cafe\u0301") == "café\n"
    assert normalise("ﬁ", Normalise(unicode="NFKC")) == "fi\n"
    assert normalise("  indented\n\tstays") == "  indented\n\tstays\n"
    assert normalise(" \n\t\n") == ""
    assert normalise("a \n", Normalise(whitespace=False)) == "a \n"


def test_mojibake_is_repaired_line_by_line_and_never_in_code() -> None:
    broken = "schön bleibt\nschÃ¶n wird es"
    assert normalise(broken) == "schön bleibt\nschön wird es\n"
    assert normalise(broken, code=True) == broken + "\n"
    assert normalise(broken, Normalise(mojibake=False)) == broken + "\n"


def test_line_separators_inside_a_text_survive() -> None:
    assert normalise("one\u2028two") == "one\u2028two\n"


CLASSIC = Normalise(unicode="NFKC", lower_case=True, punctuation="remove", stop_words="en")


@settings(deadline=None)
@given(st.text(st.one_of(st.sampled_from(" \n.,'’-_aIdont tHE\u0130ΣςßK"), st.characters(exclude_categories=["Cs"])),
               max_size=60), st.sampled_from([CLASSIC, Normalise(punctuation="remove"), Normalise(lower_case=True),
                                              Normalise(stop_words=["a", "tHE"], whitespace=False)]))
def test_the_classic_steps_are_idempotent_too(text: str, options: Normalise) -> None:
    once = normalise(text, options)
    assert normalise(once, options) == once
    if options.lower_case:
        assert once == once.lower()
    if options.punctuation == "remove":
        assert not [c for c in once if unicodedata.category(c).startswith("P") or c in string.punctuation]
    if options.stop_words == "en":
        assert STOP_WORDS.isdisjoint(once.split())


def test_the_classic_steps_one_by_one() -> None:
    text = "The OLD mill, by the river: don't ask -- it's \"Ada's\".\nAnd then?"
    assert normalise(text, Normalise(lower_case=True)) == text.lower() + "\n"
    assert normalise(text, Normalise(punctuation="remove")) == (
        "The OLD mill by the river dont ask its Adas\nAnd then\n")
    assert normalise(text, Normalise(stop_words="en")) == "OLD mill, river: ask -- \"Ada's\".\n?\n"
    assert normalise("Ein Mühle und EINE", Normalise(stop_words=["ein", "eine"])) == "Mühle und\n"


def test_the_classic_steps_leave_code_and_the_default_alone() -> None:
    text = "The_Value = {'A': 1}  # and THE rest!\n"
    assert normalise(text, CLASSIC, code=True) == text
    assert normalise(text) == text
    assert to_plain(Normalise()).items() >= {"lower_case": False, "punctuation": "keep", "stop_words": "none"}.items()
    assert non_default(Normalise()) == {}


@pytest.mark.parametrize("words", [["two words"], [""]])
def test_stop_words_must_be_words(words: list[str]) -> None:
    with pytest.raises(ValueError, match="stop_words"):
        Normalise(stop_words=words)
