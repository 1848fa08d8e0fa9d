from hypothesis import given
from hypothesis import strategies as st

from gristmill.data.augment.pieces import cut


@given(st.text(alphabet="abc .!\n。", max_size=400), st.integers(5, 80))
def test_pieces_hold_all_words_in_order_and_are_short_enough(text, most):
    pieces = cut(text, most)
    assert all(0 < len(piece) <= most and piece.strip() for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_paragraphs_stay_whole_and_go_together():
    text = "one two\nthree\n\nfour\n\n\n  five\n"
    assert cut(text, 100) == ["one two\nthree\n\nfour\n\nfive"]
    assert cut(text, 20) == ["one two\nthree\n\nfour", "five"]
    assert cut("", 10) == cut(" \n\n ", 10) == []


def test_long_paragraphs_are_cut_between_sentences_then_at_spaces():
    assert cut("First one. Second one. Third", 22) == ["First one. Second one.", "Third"]
    assert cut("word " * 10, 12) == ["word word"] * 5
    assert cut("x" * 25, 10) == ["x" * 10, "x" * 10, "x" * 5]
