"""Golden values worked out by hand from the definitions. The slow reading of all of them is in signals/."""

import pytest

from gristmill.core.errors import UserError
from gristmill.data.signals import (
    bad_words_v1,
    c4_v1,
    characters_v1,
    code_symbols_v1,
    fineweb_v1,
    gopher_repetition_v1,
    gopher_symbols_v1,
    gopher_symbols_v2,
    length_v1,
    measure,
    remove_lines,
    words_v1,
)
from gristmill.data.signals.lines import C4_LINES, FINEWEB_LINES, LINE_FILTERS


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


def test_gopher_symbols_2_counts_hashes_and_ellipses_apart() -> None:
    values = gopher_symbols_v2("- The cat, and\n* #tag ...\nwell 12 …\n")
    assert values == {
        "hash_words": 1 / 10, "ellipsis_words": 2 / 10, "alphabetic_words": 5 / 10, "bullet_lines": 2 / 3,
        "ellipsis_lines": 2 / 3, "stop_words": 2,
    }


def test_c4() -> None:
    text = (
        "A first line. It has two sentences!\n"  # stays: 2 sentences
        "\n"
        "  He said \"go on.\" \n"  # stays: ends in a quotation mark: 1
        "Home | News | Contact\n"  # unterminated: stays only for FineWeb: 1
        "Read more.\n"  # two words
        "And so on ...\n"  # an ellipsis ends no sentence of C4; 1 for FineWeb
        "Please enable JavaScript now.\n"
        "We use cookies, dear reader.\n"
        "Version 1.5 of {it} is e.g. this one\n"  # unterminated; e.g. looks like an end: 2
        "Lorem Ipsum is a text? Lorem ipsum it is.\n"  # stays: 2
    )
    assert c4_v1(text) == {
        "unterminated_lines": 3, "few_words_lines": 1, "long_word_lines": 0, "javascript_lines": 1, "policy_lines": 1,
        "kept_lines": 3, "sentences": 5, "kept_lines_any_end": 6, "sentences_any_end": 9, "lorem_ipsum": 2,
        "curly_brackets": 1,
    }
    assert c4_v1("word " + "x" * 1001 + " end.")["long_word_lines"] == 1
    assert c4_v1("word " + "x" * 1000 + " end.")["long_word_lines"] == 0


def test_c4_counts_sentences_and_words_of_scripts_without_spaces() -> None:
    values = c4_v1("你好。你是谁？我是我")
    assert (values["few_words_lines"], values["unterminated_lines"], values["sentences_any_end"]) == (0, 1, 3)
    assert c4_v1("中文字。")["few_words_lines"] == 0  # three characters are three words, the full stop is none
    assert c4_v1("中文。")["few_words_lines"] == 1


def test_fineweb() -> None:
    text = ("This line is longer than thirty characters.\n\n  He asked: \"why?\"  \nMenu\n"
            "abc def ghi jkl mno pqr stu vw x,\n")
    assert fineweb_v1(text) == {"punctuated_lines": 2 / 4, "short_lines": 2 / 4, "newline_words": 5 / 20}
    assert fineweb_v1("x" * 29)["short_lines"] == 1
    assert fineweb_v1("x" * 30)["short_lines"] == 0
    assert fineweb_v1('""')["punctuated_lines"] == 0  # quotes without an end of a sentence


def test_characters() -> None:
    assert characters_v1("Ab1 é\n") == {
        "alphabetic": 3 / 6, "digits": 1 / 6, "white_space": 2 / 6, "symbols": 0, "upper_case": 1 / 3,
        "entropy": pytest.approx(2.584962500721156),  # six different ones: log2 6
    }
    assert characters_v1("a-b_")["symbols"] == 2 / 4
    assert characters_v1("½e\u0301")["symbols"] == 0  # a number, a letter, a mark
    assert characters_v1("😀a")["symbols"] == 1 / 2
    assert characters_v1("aaab")["entropy"] == pytest.approx(0.8112781244591328)  # 3/4 log2 4/3 + 1/4 log2 4


def test_words() -> None:
    assert words_v1("The the (the) USA I go go go") == {
        "unique": 6 / 8, "entropy": pytest.approx(2.405639062229566),  # 5 * 1/8 * 3 + 3/8 * log2 8/3
        "stop_words": 3 / 8, "upper_case": 1 / 8, "longest": 5,
    }


def test_bad_words() -> None:
    signal = bad_words_v1(["damn", "Bad  Phrase", "c++", "坏", " "])
    assert signal("Damn! damn. DAMN")["entries"] == 1
    assert signal("goddamn damned damn_it")["entries"] == 0
    assert signal("a bad\nphrase, and c++")["entries"] == 2
    assert signal("a bad phrases, c++x")["entries"] == 0
    assert signal("这坏了")["entries"] == 1
    assert bad_words_v1([])("damn")["entries"] == 0


def test_lines_are_removed_and_the_rest_stays_as_it_is() -> None:
    text = "\n  First line here.  \n\nMenu\n\nWe use cookies here.\nno end here\n\n\tLast line here.\n\nMenu\n"
    edited = remove_lines(text, C4_LINES)
    assert edited.text == "  First line here.  \n\n\tLast line here.\n"
    assert edited.removed == {"unterminated_v1": 3, "few_words_3_v1": 0, "long_word_v1": 0, "javascript_v1": 0,
                              "policy_v1": 1}
    assert remove_lines(text, FINEWEB_LINES).text == "  First line here.  \n\nno end here\n\n\tLast line here.\n"
    untouched = "\n\na b c.\n\n\nd e f.\n\n"
    assert remove_lines(untouched, C4_LINES).text == untouched
    assert remove_lines("Menu\n", C4_LINES).text == remove_lines("", C4_LINES).text == ""
    assert remove_lines("one two three four.", ["few_words_5_v1"]).text == ""
    again = remove_lines(edited.text, C4_LINES)
    assert (again.text, sum(again.removed.values())) == (edited.text, 0)


def test_an_unknown_line_filter_is_refused_with_the_choices() -> None:
    with pytest.raises(UserError, match=r"no line filter 'menu'(.|\n)*policy_v1"):
        remove_lines("text", ["menu"])
    assert set(C4_LINES) | {"few_words_5_v1"} == set(LINE_FILTERS)


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
