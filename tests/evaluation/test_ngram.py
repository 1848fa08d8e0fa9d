"""The n-gram model: distributions that add up, counts by hand, and an independent slow reference."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.evaluation.ngram import KneserNey, discounts

segments = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=12).map(np.array), min_size=0, max_size=8)


@settings(max_examples=60, deadline=None)
@given(segments, st.lists(st.integers(0, 4), max_size=6), st.integers(1, 5))
def test_every_distribution_adds_up_to_one_and_gives_nothing_probability_zero(train, context, order):
    p = KneserNey.train(train, 5, order).distribution(context)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert (p > 0).all()


@settings(max_examples=40, deadline=None)
@given(segments, st.lists(st.integers(0, 4), min_size=2, max_size=10), st.integers(1, 5))
def test_scoring_a_row_equals_asking_for_each_distribution(train, row, order):
    model = KneserNey.train(train, 5, order)
    slow = [np.log(model.distribution(row[max(0, i - order + 1):i])[row[i]]) for i in range(1, len(row))]
    np.testing.assert_allclose(model.log_probabilities(np.array(row)), slow, rtol=1e-10)


def reference(train, vocab, order, context, token):
    """Chen and Goodman's recursion over dictionaries, written from the paper."""
    def counts(n):
        if n == order:
            return Counter(tuple(s[i:i + n]) for s in train for i in range(max(0, 1 - n + (n == 1)), len(s) - n + 1)
                           if n > 1 or i > 0)
        longer = {tuple(s[i:i + n + 1]) for s in train for i in range(len(s) - n)}
        result = Counter(g[1:] for g in longer)
        if n > 1:
            result.update(tuple(s[:n]) for s in train if len(s) >= n)
        return result

    def p(n, history):
        if n == 0:
            return 1 / vocab
        c = counts(n)
        d = discounts(np.array(list(c.values()), dtype=int))
        after = {g: k for g, k in c.items() if g[:-1] == history}
        total = sum(after.values())
        shorter = p(n - 1, history[1:])
        if not total:
            return shorter
        count = after.get((*history, token), 0)
        left = sum(d[min(k, 3)] for k in after.values())
        return (count - d[min(count, 3)]) / total + left / total * shorter

    history = tuple(context)[max(0, len(context) - order + 1):]
    return p(len(history) + 1, history)


@settings(max_examples=40, deadline=None)
@given(segments.filter(len), st.lists(st.integers(0, 4), max_size=4), st.integers(0, 4), st.integers(2, 4))
def test_probabilities_equal_the_slow_reference(train, context, token, order):
    model = KneserNey.train(train, 5, order)
    rows = [tuple(s.tolist()) for s in train]
    assert model.distribution(context)[token] == pytest.approx(reference(rows, 5, order, context, token), rel=1e-10)


def test_ngrams_do_not_cross_segments():
    apart = KneserNey.train([np.array([0, 1]), np.array([2, 3])], 4, 2)
    joined = KneserNey.train([np.array([0, 1, 2, 3])], 4, 2)
    assert joined.distribution([1])[2] > 0.3
    assert apart.distribution([1])[2] == pytest.approx(apart.unigram[2])


def test_a_model_of_nothing_is_uniform():
    nothing = KneserNey.train([], 7, 5)
    np.testing.assert_allclose(nothing.log_probabilities(np.array([0, 3, 6])), -np.log(7))


def test_discounts_of_a_known_case():
    counts = np.array([1] * 40 + [2] * 20 + [3] * 10 + [4] * 5)
    # Y = 40/80; D1 = 1 - 2 Y 20/40, D2 = 2 - 3 Y 10/20, D3 = 3 - 4 Y 5/10
    np.testing.assert_allclose(discounts(counts), [0, 0.5, 1.25, 2.0])


def test_a_longer_context_helps_on_text_that_repeats():
    rng = np.random.default_rng(0)
    phrase = rng.integers(0, 50, size=30)
    text = np.concatenate([np.concatenate([phrase, rng.integers(0, 50, size=5)]) for _ in range(40)])
    losses = [-KneserNey.train([text[:1000]], 50, n).log_probabilities(text[1000:]).mean() for n in (1, 2, 5)]
    assert losses[0] > losses[1] > losses[2]


def test_tokens_outside_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match="vocabulary of 5"):
        KneserNey.train([np.array([1, 2])], 5).log_probabilities(np.array([1, 5]))
