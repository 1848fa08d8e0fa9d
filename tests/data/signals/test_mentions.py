"""Mentions: counted by table, with phrases and boundaries; shares of a corpus; coverage of an independent list."""

from __future__ import annotations

import json
import re
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.data.signals import Batch
from gristmill.data.signals.mention_words import AXES, PRONOUNS
from gristmill.data.signals.mentions import Tally, mention_summary, mentions, mentions_v1
from tests.shared import DATA

COLUMNS = ("she", "he", "they", *AXES["en"])

GOLDEN = [
    ("She said hers was Herself's.", {"she": 3}), ("He's his own; he'd ask him.", {"he": 4}),
    ("They told them. Theirs? Their.", {"they": 4}), ("s/he he/she (his) \"her\"", {"he": 3, "she": 2}),
    ("the theory of sheep, hero, others", {}),
    ("A Catholic, two Muslims and Buddhist monks.", {"religion": 3}),
    ("an African-American and an African American", {"race_ethnicity": 2}),
    ("African. American", {"nationality": 2}),
    ("a black cat on a white wall", {}), ("a black woman and white people", {"race_ethnicity": 2, "gender": 1}),
    ("a blind alley, a blind man", {"ability": 1, "gender": 1}), ("She is in a wheelchair.", {"she": 1, "ability": 1}),
    ("hard of hearing", {"ability": 1}), ("hard of, hearing", {}),
    ("a 77-year-old man; 5 years old", {"age": 1, "gender": 1}),
    ("gay, bisexual and LGBTQ youth", {"orientation": 3, "age": 1}),
    ("Down’s syndrome and Asperger’s", {"ability": 2}), ("New Zealanders and South Koreans", {"nationality": 2}),
    ("", {}), ("\n \n", {}),
]


@pytest.mark.parametrize(("text", "expected"), GOLDEN)
def test_counts(text: str, expected: dict[str, int]) -> None:
    assert {name: count for name, count in mentions_v1(text).items() if count} == expected


def test_a_batch_counts_like_its_texts() -> None:
    texts = [text for text, _ in GOLDEN]
    columns = mentions_v1.columns(Batch(texts))
    assert tuple(columns) == COLUMNS
    for row, text in enumerate(texts):
        assert {name: float(column[row]) for name, column in columns.items()} == mentions_v1(text)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["she", "He", "a", "black", "woman", "African", "American", ".", ",", "in",
                                 "wheelchair", "\n",
                                 "deaf-blind", "(his)", "old", "man", "Jehovah's", "Witnesses"]), max_size=25))
def test_counts_of_joined_texts_add_up_at_full_stops(words: list[str]) -> None:
    text = " ".join(words)
    one, both = mentions_v1(text), mentions_v1(f"{text} .\n{text}")
    assert both == {name: 2 * count for name, count in one.items()}


def test_no_word_stands_twice_in_a_table() -> None:
    for language, axes in AXES.items():
        entries = [entry.strip().rstrip("~") for listed in axes.values() for entry in listed.replace("\n",
                                                                                                     " ").split(";")]
        entries += [form for forms in PRONOUNS[language].values() for form in forms.split()]
        assert len(entries) == len(set(entries)), sorted(entry for entry in set(entries) if entries.count(entry) > 1)


def test_summary_of_a_corpus() -> None:
    texts = ["She is a Muslim woman.", "He and she.", "He is old.", "Nothing of it."]
    found = mention_summary(texts)
    assert found["documents"] == 4
    assert found["pronouns"] == {"she": 0.5, "he": 0.5, "they": 0.0}
    assert (found["she_and_he"], found["more_she"], found["more_he"], found["she_per_he"]) == (0.25, 0.25, 0.25, 1.0)
    axes = found["axes"]
    assert isinstance(axes, dict)
    assert axes["religion"] == {"share": 0.25, "terms": {"muslim": 1.0}}
    assert axes["age"] == {"share": 0.0, "terms": {}}
    json.dumps(found)


def test_tallies_of_parts_add_up() -> None:
    texts = [text for text, _ in GOLDEN]
    whole, one, other = Tally(), Tally(), Tally()
    whole.add(texts)
    one.add(texts[:5])
    other.add(texts[5:])
    one.merge(other)
    assert one.summary() == whole.summary()
    assert np.array_equal(one.holding, whole.holding)
    assert mention_summary([])["she_per_he"] is None


def test_a_language_without_a_table() -> None:
    with pytest.raises(UserError, match="no table of mentions"):
        mentions("xx")


def test_coverage_of_an_independent_list_of_descriptors() -> None:
    path = DATA / "bias" / "holistic_bias_v1.1.tar.xz"
    if not path.exists():
        pytest.skip(f"the shared test data is not at {DATA}")
    with tarfile.open(path) as archive:
        member = next(member for member in archive if member.name.endswith("descriptors.json"))
        file = archive.extractfile(member)
        assert file is not None
        listed = json.load(file)
    axes = {"gender_and_sex": "gender", "sexual_orientation": "orientation", "religion": "religion",
            "race_ethnicity": "race_ethnicity", "nationality": "nationality", "age": "age", "ability": "ability"}
    for theirs, least in (("religion", 0.6), ("nationality", 0.7), ("race_ethnicity", 0.5), ("sexual_orientation", 0.4),
                          ("ability", 0.25), ("age", 0.2), ("gender_and_sex", 0.2)):
        names = [item["descriptor"] if isinstance(item, dict) else item
                 for group in listed[theirs].values() for item in group]
        found = sum(mentions_v1(f"{re.sub('-', ' ', name)} people")[axes[theirs]] > 0 for name in names)
        assert found / len(names) > least, (theirs, found, len(names))
