from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.normalise import Normalise, normalise

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
