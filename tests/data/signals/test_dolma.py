"""dolma's taggers, against a slow reading of what they do, on hand-made and real documents."""

import re
from collections import Counter
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.decide import Filter, first_broken
from gristmill.data.signals import Batch, measure
from gristmill.data.signals.compat.dolma import dolma_c4, dolma_gopher_v1, dolma_gopher_v2
from tests.data.signals.documents import MADE, PROSE, real_documents

STOP = {"the", "be", "to", "of", "and", "that", "have", "with"}


def gopher(text: str, version: int) -> dict[str, float]:
    words = text.split()
    characters = max(sum(map(len, words)), 1)
    lines = text.split("\n") if version == 1 else re.split("\n+", text)
    if not text:
        lines = []
    counts = Counter(lines)
    values: dict[str, float] = {
        "character_count": len(text), "word_count": len(words),
        "median_word_length": float(median(map(len, words))) if words else 0.0,
        "symbol_to_word_ratio": sum("#" in w or "…" in w for w in words) / max(len(words), 1),
        "fraction_of_words_with_alpha_character": sum(any(c.isalpha() for c in w) for w in words) / max(len(words), 1),
        "required_word_count": sum(w in STOP for w in words),
        "fraction_of_lines_starting_with_bullet_point":
            sum(x[:1] in ("*", "-") for x in lines if x) / max(len(lines), 1),
        "fraction_of_lines_ending_with_ellipsis": sum(x.endswith("…") for x in lines) / max(len(lines), 1),
        "fraction_of_duplicate_lines": sum(c for c in counts.values() if c > 1) / max(len(lines), 1),
        "fraction_of_characters_in_duplicate_lines":
            sum(len(x) * c for x, c in counts.items() if c > 1) / characters,
    }
    for n in range(2, 11):
        grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        size = {gram: count * sum(map(len, gram)) for gram, count in grams.items()}
        if n < 5:
            top = size[grams.most_common(1)[0][0]] / characters if grams else 0
            values[f"fraction_of_characters_in_most_common_{n}grams"] = top
        else:
            again = sum(size[gram] for gram, count in grams.items() if count > 1)
            values[f"fraction_of_characters_in_duplicate_{n}grams"] = again / sum(size.values()) if grams else 0
    return values


def check(texts: list[str]) -> None:
    batch = Batch(texts)
    for version, signal in ((1, dolma_gopher_v1), (2, dolma_gopher_v2)):
        columns = signal.columns(batch)
        for place, text in enumerate(texts):
            found = {name: float(column[place]) for name, column in columns.items()}
            assert found == gopher(text, version), text[:80]


def test_gopher_taggers_on_hand_made_documents() -> None:
    check(MADE)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.sampled_from(["a", "the", "cc", "#x", "…", "\n", "\n\n", "- "]), max_size=30).map(" ".join),
                max_size=4))
def test_gopher_taggers_on_any_documents(texts: list[str]) -> None:
    check(texts)


@pytest.mark.slow
def test_gopher_taggers_on_real_documents() -> None:
    check(real_documents(30))


def test_c4_taggers() -> None:
    text = f"{PROSE}\nno end\nTwo words.\nPlease enable JavaScript.\nA bad thing, really.\n"
    first, second = dolma_c4(1, ["bad", "a bad thing", "bad really"])(text), dolma_c4(2, ["absent"])(text)
    assert first == {
        "line_count": 6, "lines_with_no_ending_punctuation": 2, "lines_with_too_few_words": 3, "has_javascript": 0,
        "has_lorem_ipsum": 0, "has_curly_brace": 0, "has_naughty_word": 1,
    }
    assert second == {**first, "has_javascript": 1, "has_naughty_word": 0}
    assert dolma_c4(1)("javascript {\nLorem Ipsum")["has_javascript"] == 1
    over_lines = "a\nb"
    assert (dolma_c4(1, ["a\nb c"])(over_lines)["has_naughty_word"], dolma_c4(2, ["a\nb c"])(over_lines + " c")
            ["has_naughty_word"]) == (0, 1)


def test_the_preset_reads_dolmas_signals() -> None:
    rules = Filter(preset="gopher", compat="dolma").for_class(code=False)
    broken = first_broken(measure("a b " * 60, code=False, compat="dolma"), rules, "en")
    assert broken
    assert (broken[0].name, broken[0].signal) == ("min_mean_word_length", "dolma_gopher_v1.median_word_length")
