import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.dedup import Pair, candidate_pairs, connected, content_hash, jaccard, removals, shingles, signature
from gristmill.data.dedup.minhash import MISSED, PERMUTATIONS, rows_per_band
from gristmill.data.dedup.shingles import SHINGLE, is_word_character, word_hashes

TEXT = st.text(st.sampled_from("abcABC_1 .\n日本กあé\u0301ßİ한\u200b😀"), max_size=60)
ALONE = ("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


def words_slowly(text: str) -> list[str]:
    words, open_word = [], False
    for character in text.lower():
        if not is_word_character(character):
            open_word = False
        elif unicodedata.name(character, "").startswith(ALONE):
            words.append(character)
            open_word = False
        elif open_word:
            words[-1] += character
        else:
            words.append(character)
            open_word = True
    return words


def shingles_slowly(text: str) -> set[tuple[str, ...]]:
    words = words_slowly(text)
    n = min(SHINGLE, len(words))
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)} if n else set()


@settings(deadline=None)
@given(TEXT)
def test_words_are_those_of_the_definition(text: str) -> None:
    words, hashes = words_slowly(text), word_hashes(text).tolist()
    assert len(hashes) == len(words)
    assert len(set(hashes)) == len(set(words))


@settings(deadline=None)
@given(TEXT, TEXT)
def test_jaccard_equals_brute_force(a: str, b: str) -> None:
    first, second = shingles_slowly(a), shingles_slowly(b)
    expected = len(first & second) / len(first | second) if first | second else 0.0
    assert jaccard(shingles(a), shingles(b)) == expected


def sentence_words(count: int, seed: int) -> list[str]:
    chosen = random.Random(seed)
    return ["".join(chosen.choices("abcdefghij", k=5)) for _ in range(count)]


def test_minhash_estimates_jaccard() -> None:
    words = sentence_words(400, 1)
    a, b = shingles(" ".join(words)), shingles(" ".join(words[:350]))
    estimate = (signature(a) == signature(b)).mean()
    assert abs(estimate - jaccard(a, b)) < 4 * (0.25 / PERMUTATIONS) ** 0.5


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_banding_misses_few(threshold: float) -> None:
    rows = rows_per_band(min(threshold, 0.999))
    assert (1 - threshold**rows) ** (PERMUTATIONS // rows) <= MISSED


def near_duplicates(texts: list[str], threshold: float = 0.8) -> list[Pair]:
    sets = [shingles(text) for text in texts]
    pairs = candidate_pairs(np.stack([signature(s) for s in sets]), np.array([len(s) for s in sets]), threshold)
    found = [Pair(int(a), int(b), jaccard(sets[a], sets[b])) for a, b in pairs]
    return [pair for pair in found if pair.similarity >= threshold]


def test_planted_near_duplicates_are_found() -> None:
    texts = []
    for seed in range(60):
        words = sentence_words(300, seed)
        changed = list(words)
        changed[seed + 10] = "changed"
        texts += [" ".join(words), " ".join(changed)]
    found = near_duplicates(texts)
    assert {(p.first, p.second) for p in found} == {(i, i + 1) for i in range(0, 120, 2)}


def test_templated_but_distinct_documents_are_not_duplicates() -> None:
    """Two thirds boilerplate, one third content: alike to the eye of a hash, not to the rule."""
    boilerplate = " ".join(sentence_words(200, 0))
    texts = [f"{boilerplate} {' '.join(sentence_words(100, seed))}" for seed in range(1, 80)]
    assert near_duplicates(texts) == []


def test_every_pair_equals_brute_force_above_the_threshold() -> None:
    chosen = random.Random(5)
    base = sentence_words(120, 3)
    texts = []
    for _ in range(60):
        words = list(base)
        for place in chosen.sample(range(120), chosen.randrange(0, 12)):
            words[place] = "".join(chosen.choices("xyz", k=6))
        texts.append(" ".join(words))
    sets = [shingles(text) for text in texts]
    expected = {(a, b) for a in range(60) for b in range(a + 1, 60) if jaccard(sets[a], sets[b]) >= 0.8}
    assert len(expected) > 20
    assert {(p.first, p.second) for p in near_duplicates(texts)} == expected


def test_documents_without_words_are_nobody_s_duplicate() -> None:
    assert near_duplicates(["...", "!!!", "", "a b c d e f"]) == []


def test_no_deletion_through_a_third() -> None:
    """A ~ B ~ C with A unlike C: B goes for A, C stays; all three are one cluster."""
    pairs = [Pair(0, 1, 0.9), Pair(1, 2, 0.85)]
    assert [(r.document, r.kept) for r in removals([0, 1, 2], pairs)] == [(1, 0)]
    assert connected(3, [(0, 1), (1, 2)]) == [0, 0, 0]


EDGES = st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda pair: pair[0] < pair[1]))


@settings(deadline=None)
@given(EDGES, st.permutations(range(10)))
def test_who_goes_was_compared_with_who_stays(edges: set[tuple[int, int]], order: list[int]) -> None:
    gone = removals(order, [Pair(a, b, 0.9) for a, b in edges])
    removed = {removal.document for removal in gone}
    for removal in gone:
        assert removal.kept not in removed
        assert tuple(sorted((removal.document, removal.kept))) in edges
        assert order.index(removal.kept) < order.index(removal.document)
    assert not any(a not in removed and b not in removed for a, b in edges)


def test_exact_hash_ignores_white_space_only() -> None:
    assert content_hash("a b\n c") == content_hash("a  b c\n")
    assert content_hash("a b c") != content_hash("ab c")
    assert content_hash("a") != content_hash("A")
