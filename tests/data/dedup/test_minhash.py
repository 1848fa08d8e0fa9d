"""Everything here is a matter of chance, so it is held against theory."""

import math

import numpy as np
import pytest

from gristmill.data.dedup.minhash import (
    _MULTIPLIERS,
    EMPTY,
    MISSED,
    PERMUTATIONS,
    band_hashes,
    banding,
    candidate_chance,
    signatures,
    sketches,
    smallest,
)
from gristmill.data.dedup.shingles import shingles
from gristmill.data.dedup.words import mix

SIZE = 300


def minima_of_pairs(count: int, similarity: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Signatures of both sides of many pairs of random sets, and their Jaccard similarity."""
    shared = round(2 * SIZE * similarity / (1 + similarity))
    values = mix(np.arange(count * (2 * SIZE - shared), dtype=np.uint64)).reshape(count, -1)
    sides = []
    for part in (values[:, :SIZE], values[:, SIZE - shared :]):
        sides.append(smallest((part.ravel() >> np.uint64(32)).astype(np.uint32), np.arange(count + 1) * SIZE))
    return sides[0], sides[1], shared / (2 * SIZE - shared)


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.8, 0.95])
def test_signatures_estimate_jaccard_without_bias_and_as_exactly_as_theory_says(similarity: float) -> None:
    a, b, truth = minima_of_pairs(600, similarity)
    error = (a == b).mean(axis=1) - truth
    expected = math.sqrt(truth * (1 - truth) / PERMUTATIONS)
    assert abs(error.mean()) < 4 * expected / math.sqrt(600)
    assert 0.85 < math.sqrt((error**2).mean()) / expected < 1.15


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.6, 0.7])
def test_candidates_follow_the_s_curve(similarity: float) -> None:
    bands, rows = banding(0.8)
    a, b, truth = minima_of_pairs(1500, similarity)
    together = (band_hashes(a, bands, rows) == band_hashes(b, bands, rows)).any(axis=0).mean()
    expected = candidate_chance(truth, bands, rows)
    assert abs(together - expected) < 4 * math.sqrt(expected * (1 - expected) / 1500)


def test_a_pair_at_the_threshold_is_hardly_ever_missed() -> None:
    bands, rows = banding(0.8)
    a, b, _ = minima_of_pairs(1500, 0.8)
    missed = ~(band_hashes(a, bands, rows) == band_hashes(b, bands, rows)).any(axis=0)
    assert missed.sum() <= 8  # at most 1.5 are expected


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.999, 1.0])
def test_banding_misses_few_and_wastes_no_row(threshold: float) -> None:
    bands, rows = banding(threshold)
    assert bands * rows <= PERMUTATIONS
    assert (1 - threshold**rows) ** bands <= MISSED
    if rows < PERMUTATIONS:
        longer = rows + 1
        assert (1 - threshold**longer) ** (PERMUTATIONS // longer) > MISSED


def test_sketches_agree_by_chance_once_in_256() -> None:
    for similarity in (0.0, 0.7):
        a, b, truth = minima_of_pairs(600, similarity)
        agreeing = (sketches(a) == sketches(b)).mean()
        expected = truth + (1 - truth) / 256
        assert abs(agreeing - expected) < 5 * math.sqrt(expected * (1 - expected) / (600 * PERMUTATIONS))


def test_a_batch_gives_what_single_texts_give() -> None:
    texts = ["", "one two three four five six seven", "...", "x", " ".join(map(str, range(20_000)))] * 2
    together = signatures(texts)
    assert together.shape == (10, PERMUTATIONS)
    for text, row in zip(texts, together, strict=True):
        assert row.tolist() == signatures([text])[0].tolist()
        values = shingles(text) >> np.uint64(32)
        expected = (values.astype(np.uint32)[:, None] * _MULTIPLIERS).min(axis=0, initial=EMPTY)
        assert row.tolist() == expected.tolist()
    assert (together[0] == EMPTY).all()
    assert signatures([]).shape == (0, PERMUTATIONS)


def test_only_documents_without_shingles_have_band_zero() -> None:
    hashes = band_hashes(signatures(["", "a b c", "!"]), 4, 3)
    assert (hashes[:, [0, 2]] == 0).all()
    assert (hashes[:, 1] != 0).all()
