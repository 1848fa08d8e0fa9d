"""What a classifier sees of a text."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.classifier.features import Features, features

TEXTS = st.lists(st.text(st.sampled_from("abc ÄÄä中1.\n_"), max_size=30), max_size=6)
SEEN = Features(words=3, characters=[2, 4], buckets=1 << 16)


def bags(texts, options):
    ids, edges = features(texts, options)
    return [ids[a:b].tolist() for a, b in pairwise(edges)]


@settings(deadline=None)
@given(TEXTS)
def test_a_text_has_the_same_features_in_any_batch(texts):
    assert bags(texts, SEEN) == [bags([text], SEEN)[0] for text in texts]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["alpha", "beta", "gamma"]), max_size=8))
def test_words_and_their_neighbours_and_nothing_else(words):
    ids = features([" ".join(words)], Features(words=3))[0]
    assert len(ids) == sum(max(len(words) - n, 0) for n in range(3))
    grams = {tuple(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)}
    assert len(set(ids.tolist())) == len(grams)


def test_case_and_punctuation_of_words_do_not_count_but_characters_see_them():
    assert bags(["Good, GOOD day!"], Features()) == bags(["good good day"], Features())
    characters = Features(words=0, characters=[3])
    assert bags(["good day!"], characters) != bags(["good day"], characters)
    assert bags(["  Good\n\n day"], characters) == bags(["good day"], characters)


def test_features_lie_within_the_buckets_and_are_spread_evenly():
    text = " ".join(f"w{number}" for number in range(20_000))
    ids, _ = features([text], Features(words=1, buckets=1 << 10))
    counts = np.bincount(ids, minlength=1 << 10)
    assert len(counts) == 1 << 10
    assert abs(counts.var() / counts.mean() - 1) < 0.2  # Poisson


def test_the_definition_is_frozen():
    """A stored model stays right only while these are the same."""
    ids, _ = features(["Das ist gut, 中文"], Features(words=2, characters=[3], buckets=1 << 20))
    assert ids.tolist()[:12] == [125454, 884078, 83482, 775873, 739117, 475285, 206494, 723123, 406276, 291951, 331685,
                                 563339]


@pytest.mark.parametrize("wrong", [{"words": 5}, {"words": 0}, {"buckets": 1000}, {"characters": [9]}])
def test_what_cannot_be(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Features(**wrong)
