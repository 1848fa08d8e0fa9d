"""Gendered words swapped: by table, by rule where English is ambiguous, and against the two halves of WinoBias."""

from __future__ import annotations

import re
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.counterfactual import AMBIGUOUS, ONE_WAY, UNAMBIGUOUS, counterfactual
from tests.shared import DATA

GOLDEN = [
    ("He gave his mother a book.", "She gave her father a book."),
    ("The king's sons and HIS wife", "The queen's daughters and HER husband"),
    ("She told her to sit.", "He told him to sit."),
    ("She took her coat because it was hers.", "He took his coat because it was his."),
    ("The book is his. His is better; it was his", "The book is hers. Hers is better; it was hers"),
    ("I saw her.", "I saw him."), ("I saw her yesterday.", "I saw him yesterday."),
    ("her early work", "his early work"),
    ("made her cry", "made him cry"), ("let her go", "let him go"), ("help her mother", "help his father"),
    ("kept her waiting", "kept him waiting"), ("her waiting room", "his waiting room"),
    ("keep her safe", "keep him safe"),
    ("asked her politely to go", "asked him politely to go"), ("her extremely old car", "his extremely old car"),
    ("brought her back", "brought him back"), ("her back ached", "his back ached"),
    ("his or her car", "her or his car"), ("her and his children", "his and her children"),
    ("Mr. Smith and Mrs. Jones", "Mrs. Smith and Mr. Jones"), ("Miss Jones", "Mr Jones"),
    ("they miss him", "they miss her"),
    ("herself, himself", "himself, herself"), ("mother-in-law", "father-in-law"),
    ("a man-made lake", "a man-made lake"),
    ("The theory of others; a shepherd, there, this", "The theory of others; a shepherd, there, this"),
    ("he/she", "she/he"), ("“He’s here,” she said", "“She’s here,” he said"), ("", ""),
]


@pytest.mark.parametrize(("text", "expected"), GOLDEN)
def test_swapped(text: str, expected: str) -> None:
    assert counterfactual(text) == expected


WORDS = sorted(UNAMBIGUOUS)
CASES = st.sampled_from([str.lower, str.upper, str.capitalize])


@settings(deadline=None)
@given(st.lists(st.one_of(st.tuples(st.sampled_from(WORDS), CASES).map(lambda item: item[1](item[0])),
                          st.sampled_from(["the", "walked", "3", ",", ".", "\n", "—", "Anna", "é"])), max_size=20))
def test_swapping_unambiguous_words_twice_gives_the_text_back(words: list[str]) -> None:
    text = " ".join(words)
    assert counterfactual(counterfactual(text)) == text


@settings(deadline=None)
@given(st.text(max_size=80))
def test_other_text_stays(text: str) -> None:
    gendered = {*UNAMBIGUOUS, *ONE_WAY, *AMBIGUOUS}
    if gendered.isdisjoint(word.lower() for word in re.findall("[A-Za-zé]+", text)):
        assert counterfactual(text) == text


def test_every_pair_is_a_pair() -> None:
    for word, other in UNAMBIGUOUS.items():
        assert UNAMBIGUOUS[other] == word != other
    assert AMBIGUOUS.isdisjoint({*UNAMBIGUOUS, *ONE_WAY})
    assert set(ONE_WAY).isdisjoint(UNAMBIGUOUS)


def test_winobias_sentences_become_their_counterparts() -> None:
    path = DATA / "bias" / "winobias.tar.xz"
    if not path.exists():
        pytest.skip(f"the shared test data is not at {DATA}")
    with tarfile.open(path) as archive:
        files = {member.name.rpartition("/")[2]: archive.extractfile(member).read().decode()  # type: ignore[union-attr]
                 for member in archive if member.isfile()}

    def sentences(name: str) -> list[str]:
        return [re.sub(r"[\[\]]", "",
                       line.partition(" ")[2]).strip() for line in files[name].splitlines() if line.strip()]

    equal = back = total = 0
    for kind in ("type1.txt.dev", "type1.txt.test", "type2.txt.dev", "type2.txt.test"):
        for pro, anti in zip(sentences(f"pro_stereotyped_{kind}"), sentences(f"anti_stereotyped_{kind}"), strict=True):
            for one, other in ((pro, anti), (anti, pro)):
                swapped = counterfactual(one)
                total += 1
                equal += swapped.lower() == other.lower()
                back += counterfactual(swapped) == one
    assert total == 3168
    assert equal / total > 0.965  # measured 0.969; most of the rest are pairs that differ in other words too
    assert back / total > 0.98
