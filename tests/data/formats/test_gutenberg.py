import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.formats.gutenberg import body, chapters, declared_encoding, header, join_lines, without_credits

BOOK = "CHAPTER I\n\nIt was a dark night.\n\nTHE END"
STARTS = [
    "*** START OF THE PROJECT GUTENBERG EBOOK MOBY DICK ***",
    "***START OF THE PROJECT GUTENBERG EBOOK MOBY DICK***",
    "*** START OF THIS PROJECT GUTENBERG EBOOK MOBY DICK; OR,\nTHE WHALE, AND A TITLE TOO LONG FOR A LINE ***",
    "*** START OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK MOBY DICK ***",
    "** Start of the Project Gutenberg Etext Moby Dick **",
    "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*",
    "*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*",
    "*END*THE SMALL PRINT! FOR COPYRIGHT PROTECTED ETEXTS*Ver.04.29.93*END*",
]
ENDS = [
    "*** END OF THE PROJECT GUTENBERG EBOOK MOBY DICK ***",
    "*** END OF THIS PROJECT GUTENBERG EBOOK MOBY DICK ***",
    "End of the Project Gutenberg EBook of Moby Dick, by H. Melville\n\n*** END OF THIS PROJECT GUTENBERG EBOOK ***",
    "End of Project Gutenberg's Moby Dick, by Herman Melville",
    "End of The Project Gutenberg Etext of Moby Dick",
    "Ende dieses Projekt Gutenberg Etextes Moby Dick",
    "The End of Project Gutenberg Etext of Moby Dick",
    "*** START: FULL LICENSE ***\n\nTHE FULL PROJECT GUTENBERG LICENSE",
    "***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\nWhy?\n*END*THE SMALL PRINT! Ver.04.29.93*END*",
]
HEAD = """The Project Gutenberg eBook of Moby Dick; Or, The Whale

This ebook is for the use of anyone anywhere in the United States.

Title: Moby Dick; Or, The
        Whale

Author: Herman Melville

Release Date: December 25, 2008 [EBook #2701]
[Most recently updated: August 18, 2021]

Language: English

Character set encoding: ISO-8859-1
"""


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("end", ENDS)
def test_every_spelling_of_the_marks(start: str, end: str) -> None:
    text = f"{HEAD}\n{start}\n\n\n{BOOK}\n\n\n{end}\n\nUpdated editions will replace the previous one.\n" * 1
    first, last, found = body(text)
    assert (text[first:last].strip(), found) == (BOOK, "both")


def test_a_text_without_marks_is_all_book() -> None:
    for text in ("", BOOK, "She had heard of Project Gutenberg.\n" * 50):
        assert body(text) == (0, len(text), "none")
    assert header(BOOK) == {}


def test_a_book_may_speak_of_the_project_inside() -> None:
    inside = f"{BOOK}\n\nEnd of Project Gutenberg's glory, she said.\n\n{'More of the story.' * 3000}\n"
    text = f"{HEAD}\n{STARTS[0]}\n{inside}\n{ENDS[0]}\n"
    first, last, _ = body(text)
    assert text[first:last].strip() == inside.strip()


def test_the_header_says_what_the_book_is() -> None:
    assert header(HEAD) == {
        "title": "Moby Dick; Or, The Whale", "author": "Herman Melville", "time": "2008-12-25", "ebook": 2701,
        "language": "en", "license": "public domain in the USA",
    }
    old = ("**The Project Gutenberg Etext of The War of the Worlds, by H. G. Wells**\n#3 in our series\n\n"
           "July, 1992  [Etext #36]\n")
    assert header(old) == {"title": "The War of the Worlds", "author": "H. G. Wells", "time": "1992-07", "ebook": 36,
                           "license": "public domain in the USA"}
    protected = f"{HEAD}\n** This is a COPYRIGHTED Project Gutenberg eBook **\n"
    assert header(protected)["license"] == "Project Gutenberg License (copyrighted)"
    assert declared_encoding(HEAD.encode()) == "cp1252"


def test_credits_and_transcribers_notes_go() -> None:
    story = "\n\n".join(f"Paragraph {n} of the story, produced by nobody.\nSecond line." for n in range(200))
    text = (f"Produced by Jane Doe and the Online Distributed\nProofreading Team at http://www.pgdp.net\n\n"
            f"[Transcriber's Note: Spelling was kept.]\n\nTRANSCRIBER'S NOTES\n\nWords in _italics_ are so.\n\n"
            f"{story}\n\nTranscriber's Note\n\nThe table of contents was moved.\n\nMore of it.\n")
    assert without_credits(text) == story


@settings(max_examples=40, deadline=None)
@given(st.text(st.sampled_from("ab .-\n—"), max_size=2000))
def test_joining_changes_only_white_space(text: str) -> None:
    assert re.sub(r"\s", "", join_lines(text)) == re.sub(r"\s", "", text)


def test_prose_is_joined_and_verse_is_not() -> None:
    words = ("It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
             "foolishness, it was the epoch of belief, it was the epoch of incredulity. ") * 3
    lines: list[str] = [""]
    for word in words.split():
        if len(lines[-1]) + len(word) + 1 > 70:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    verse = "  Tyger Tyger, burning bright,\n  In the forests of the night;"
    wrapped = "\n".join(lines)
    assert join_lines(f"{wrapped}\n\n{verse}\n\n{wrapped}") == f"{words.strip()}\n\n{verse}\n\n{words.strip()}"
    dash = "x" * 64 + " and--"
    assert "and--then" in join_lines(f"{wrapped}\n\n{dash}\nthen came more of it.\n")
    assert join_lines(f"{'word ' * 100}\nnext") == f"{'word ' * 100}\nnext"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["CHAPTER I", "CHAPTER II.", "Chapter 3", "III", "a line", "x" * 400, "", "PREFACE"])))
def test_chapters_lose_nothing(lines: list[str]) -> None:
    text = "\n".join(lines)
    assert "".join(part for _, part in chapters(text)).split() == text.split()


def test_a_table_of_contents_is_no_chapter() -> None:
    prose = "Some prose that goes on. " * 30
    text = (f"MY BOOK\n\nCHAPTER I\nCHAPTER II\nCHAPTER III\n\nCHAPTER I\n\n{prose}\n\nCHAPTER II\n\n{prose}\n\n"
            f"CHAPTER III\n\n{prose}")
    assert [heading for heading, _ in chapters(text)] == ["", "CHAPTER I", "CHAPTER II", "CHAPTER III"]
    assert [heading for heading, _ in chapters(prose)] == [""]
