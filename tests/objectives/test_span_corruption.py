"""Span corruption: T5's arithmetic, nothing lost, every division as likely as any other."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.objectives.span_corruption import Denoiser, cut_out, noise_mask, restored, segments

DENOISERS = st.builds(Denoiser, density=st.floats(0.01, 0.99), mean_span=st.none() | st.floats(1, 70))
SENTINELS = list(range(1999, 1000, -1))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def runs(mask: np.ndarray) -> list[tuple[bool, int]]:
    """Stretches of equal values with their lengths."""
    borders = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(mask)]
    return [(bool(mask[start]), stop - start) for start, stop in itertools.pairwise(borders)]


@pytest.mark.parametrize(("read", "density", "mean_span", "text", "written"), [
    (512, 0.15, 3.0, 568, 114),  # the paper's code: 568 tokens become 512 and 114
    (1024, 0.15, 3.0, 1137, 229), (256, 0.15, 3.0, 284, 58), (512, 0.5, 3.0, 767, 513), (512, 0.15, 8.0, 588, 100),
    (512, 0.5, 64.0, 1007, 513), (512, 0.15, 64.0, 600, 92),
])
def test_lengths_are_those_of_the_published_code(read, density, mean_span, text, written):
    """The last three columns by the loop that searches the longest text, written out."""
    def became(length):
        noise = round(length * density)
        spans = round(noise / mean_span)
        return length - noise + spans + 1, noise + spans + 1

    longest = read
    while became(longest + 1)[0] <= read:
        longest += 1
    assert (longest, became(longest)[1]) == (text, written)
    denoiser = Denoiser(density=density, mean_span=mean_span)
    assert tuple(int(n) for n in denoiser.sizes(longest)) == became(longest)
    assert int(denoiser.sizes(longest + 1)[0]) > read


@given(DENOISERS, st.integers(1, 400))
def test_counts_round_as_python_does_and_leave_something_on_either_side(denoiser, length):
    noise, spans = (int(count) for count in denoiser.counts(length))
    whole = max(length, 2)
    wanted = min(max(round(whole * denoiser.density), 1), whole - 1)
    assert noise == wanted
    if denoiser.mean_span is None:
        assert spans == 1
    else:
        assert spans == min(max(round(noise / denoiser.mean_span), 1), noise, whole - noise)


@given(DENOISERS, st.integers(2, 400), st.integers(0, 10**6))
def test_a_mask_has_exactly_the_counted_tokens_in_the_counted_spans(denoiser, length, seed):
    mask = noise_mask(length, denoiser, rng(seed))
    noise, spans = (int(count) for count in denoiser.counts(length))
    assert mask.shape == (length,)
    assert int(mask.sum()) == noise
    found = runs(mask)
    assert [value for value, _ in found] == [False, True] * spans, "first something is kept, last something is cut"
    assert np.array_equal(mask, noise_mask(length, denoiser, rng(seed)))


def test_a_single_token_keeps_its_place():
    assert noise_mask(1, Denoiser(), rng()).tolist() == [False]


def test_one_span_is_the_end_of_the_text():
    mask = noise_mask(100, Denoiser(density=0.25, mean_span=None), rng())
    assert mask.tolist() == [False] * 75 + [True] * 25


def test_every_division_into_segments_is_equally_likely():
    generator, draws = rng(5), 6000
    seen = Counter(tuple(segments(6, 3, generator).tolist()) for _ in range(draws))
    ways = math.comb(5, 2)
    assert len(seen) == ways
    assert all(sum(lengths) == 6 and min(lengths) >= 1 for lengths in seen)
    expected = draws / ways
    assert sum((count - expected) ** 2 / expected for count in seen.values()) < 27.9, "chi-square, 9 degrees, p 0.001"
    assert segments(1, 1, generator).tolist() == [1]
    assert segments(4, 4, generator).tolist() == [1, 1, 1, 1]


def test_spans_have_their_mean_length_wherever_they_lie():
    masks = np.stack([noise_mask(568, Denoiser(), rng(seed)) for seed in range(800)])
    assert masks.sum(1).tolist() == [85] * 800
    share = masks[:, 20:-20].mean(0)
    assert abs(share - 85 / 568).max() < 6 * (0.15 * 0.85 / 800) ** 0.5
    lengths = [length for mask in masks for value, length in runs(mask) if value]
    assert len(lengths) == 28 * 800
    assert abs(np.mean(lengths) - 85 / 28) < 1e-9


def test_the_example_of_the_paper():
    """Figure 2: "Thank you for inviting me to your party last week ."; without the final sentinel of the figure, as in
    the published code."""
    words = ["Thank", "you", "for", "inviting", "me", "to", "your", "party", "last", "week", "."]
    ids = np.arange(len(words))
    mask = np.array([word in ("for", "inviting", "last") for word in words])
    read, written = cut_out(ids, mask, SENTINELS)
    names = dict(enumerate(words)) | {1999: "<X>", 1998: "<Y>"}
    assert " ".join(names[i] for i in read.tolist()) == "Thank you <X> me to your party <Y> week ."
    assert " ".join(names[i] for i in written.tolist()) == "<X> for inviting <Y> last"


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.data())
@settings(max_examples=200)
def test_any_mask_can_be_undone(ids, data):
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
    read, written = cut_out(np.array(ids), mask, SENTINELS)
    assert restored(read, written, SENTINELS).tolist() == ids
    spans = sum(value for value, _ in runs(mask))
    assert len(read) == len(ids) - int(mask.sum()) + spans
    assert len(written) == int(mask.sum()) + spans
    marks = [token for token in read.tolist() if token > 1000]
    assert marks == [token for token in written.tolist() if token > 1000] == SENTINELS[:spans]


@given(DENOISERS, st.integers(2, 300), st.integers(0, 10**6))
def test_sizes_are_those_of_what_is_made(denoiser, length, seed):
    ids = rng(seed).integers(0, 1000, length)
    read, written = cut_out(ids, noise_mask(length, denoiser, rng(seed)), SENTINELS)
    assert (len(read) + 1, len(written) + 1) == tuple(int(size) for size in denoiser.sizes(length)), "an end token each"


def test_too_few_sentinels_are_refused():
    with pytest.raises(ValueError, match="2 spans, but 1 sentinels"):
        cut_out(np.arange(4), np.array([False, True, False, True]), [9])


@pytest.mark.parametrize(("changes", "field"), [
    ({"density": 0.0}, "density"), ({"density": 1.0}, "density"), ({"mean_span": 0.5}, "mean_span"),
    ({"share": 0.0}, "share")])
def test_impossible_denoisers_are_refused_by_name(changes, field):
    with pytest.raises(ValueError, match=f"^{field}: "):
        Denoiser(**changes)
