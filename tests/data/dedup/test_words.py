import random
import unicodedata

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.dedup import words as words_module
from gristmill.data.dedup.shingles import SHINGLE, grams, shingle_sets, shingles
from gristmill.data.dedup.words import LONGEST, fold, is_word_character, split_words, word_hashes

TEXT = st.text(st.sampled_from("abcABC_1 .\n日本กあé\u0301ßİſKςσΣ한\u200b😀\U000e0100\ud800"), max_size=60)
ALONE = ("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


def words_slowly(text: str) -> list[tuple[int, int, str]]:
    """(begin, end, folded word), character by character."""
    found: list[tuple[int, int, str]] = []
    is_open = False
    for place, character in enumerate(text):
        if not is_word_character(character):
            is_open = False
        elif unicodedata.name(character, "").startswith(ALONE):
            found.append((place, place + 1, fold(character)))
            is_open = False
        elif is_open:
            begin, _, word = found[-1]
            found[-1] = (begin, place + 1, word + fold(character))
        else:
            found.append((place, place + 1, fold(character)))
            is_open = True
    return found


@settings(deadline=None)
@given(st.lists(TEXT, max_size=4))
def test_words_and_their_places_are_those_of_the_definition(texts: list[str]) -> None:
    split = split_words(texts, positions=True)
    assert split.begins is not None
    assert split.ends is not None
    expected = [word for text in texts for word in words_slowly(text)]
    assert [(b, e) for b, e, _ in expected] == list(zip(split.begins.tolist(), split.ends.tolist(), strict=True))
    assert split.counts.tolist() == [len(words_slowly(text)) for text in texts]
    by_word = {word: number for (_, _, word), number in zip(expected, split.hashes.tolist(), strict=True)}
    assert [by_word[word] for _, _, word in expected] == split.hashes.tolist()
    assert len(set(by_word.values())) == len(by_word)


@settings(deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=6), st.integers(1, 40))
def test_a_text_has_the_same_words_and_shingles_in_any_batch(texts: list[str], block: int) -> None:
    alone = [word_hashes(text) for text in texts]
    before, words_module.BLOCK = words_module.BLOCK, block
    try:
        together = split_words(texts)
        sets, offsets = shingle_sets(texts)
    finally:
        words_module.BLOCK = before
    for number, text in enumerate(texts):
        stretch = together.hashes[together.offsets[number] : together.offsets[number + 1]]
        assert stretch.tolist() == alone[number].tolist()
        assert sets[offsets[number] : offsets[number + 1]].tolist() == shingles(text).tolist()


@settings(deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=5), st.integers(1, 6))
def test_grams_equal_those_of_the_words(texts: list[str], n: int) -> None:
    values, offsets = grams(split_words(texts), n)
    listed = []
    for text in texts:
        words = [word for _, _, word in words_slowly(text)]
        size = min(n, len(words))
        listed.append([tuple(words[i : i + size]) for i in range(len(words) - size + 1)] if size else [])
    assert np.diff(offsets).tolist() == [len(one) for one in listed]
    flat = [gram for one in listed for gram in one]
    known = dict(zip(flat, values.tolist(), strict=True))
    assert [known[gram] for gram in flat] == values.tolist()
    assert len(set(known.values())) == len(known)


def test_case_is_one_and_nothing_else_is() -> None:
    assert word_hashes("STRASSE ÄÖ Σς").tolist() == word_hashes("strasse äö σσ").tolist()
    assert len({int(word_hashes(word)[0]) for word in ("ab", "ba", "a", "aa", "_a", "ä", "a1")}) == 7


def test_no_words_no_shingles_and_few_words_one() -> None:
    assert shingles("").tolist() == shingles("... !\n").tolist() == []
    assert len(shingles("one")) == len(shingles("one two")) == len(shingles("a b c d e")) == 1
    assert split_words([]).offsets.tolist() == [0]
    assert len(shingles("日本語の文章です")) == 8 - SHINGLE + 1


def test_a_run_without_spaces_stays_comparable_after_an_edit() -> None:
    """Base64 or DNA has no words; cut by content, only the neighbourhood of an insertion changes."""
    run = "".join(random.Random(0).choices("ACGTacgt0189", k=4000))
    other = run[:1000] + "inserted" + run[1000:]
    a, b = set(shingles(run).tolist()), set(shingles(other).tolist())
    assert len(a) > 100
    assert len(a & b) / len(a | b) > 0.9
    assert len(shingles("x" * LONGEST)) == 1
    short, long = "y" * LONGEST + " end", "y" * (LONGEST + 1) + " end"
    assert len(word_hashes(short)) == 2
    assert word_hashes(long)[-1] == word_hashes(short)[-1]
