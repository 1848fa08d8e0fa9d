"""Scoring: every token once, known values exactly, one pass equal to many, and NaN refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gristmill.core.errors import InternalError
from gristmill.evaluation.perplexity import bits_per_byte, score_tokens, windows
from gristmill.models import Decoder, DecoderConfig


class Uniform(nn.Module):
    """Logits of zero for every token."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.vocab = vocab

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*ids.shape, self.vocab)


class Broken(Uniform):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids) * float("nan")


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.set_num_threads(1)
    model = Decoder(DecoderConfig(vocab_size=31, dim=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp_dim=24,
                                  context=16))
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.eval()


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=5), st.integers(1, 12), st.data())
def test_windows_score_every_token_but_the_first_once_with_enough_before_it(lengths, context, data):
    stride = data.draw(st.integers(1, context))
    seen = [[0] * n for n in lengths]
    for w in windows(lengths, context, stride):
        assert 0 < w.length <= context
        for token in range(w.first, w.stop):
            seen[w.document][token] += 1
            assert token - w.start >= min(token, context - stride + 1)
    assert all(counts[1:] == [1] * (len(counts) - 1) and not sum(counts[:1]) for counts in seen)


def test_a_uniform_model_scores_the_logarithm_of_its_vocabulary():
    scores = score_tokens(Uniform(50), [np.arange(40), np.arange(7)], context=16)
    np.testing.assert_allclose(scores.nats / math.log(2) / scores.tokens, math.log2(50), rtol=1e-6)
    assert scores.tokens.tolist() == [39, 6]


def test_a_uniform_model_over_bytes_scores_eight_bits_a_byte():
    text = "naïve café — 30 €".encode()
    scores = score_tokens(Uniform(256), [np.array([0, *text])], context=8)
    assert bits_per_byte(scores.nats[0], len(text)) == pytest.approx(8.0, abs=1e-6)


def test_windows_as_long_as_the_text_equal_one_pass_and_batching_changes_nothing(decoder):
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 31, size=n) for n in (2, 16, 9, 13)]
    together = score_tokens(decoder, rows, context=16)
    for number, row in enumerate(rows):
        ids = torch.from_numpy(row)[None]
        logits = decoder(ids[:, :-1])[0]
        expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        assert together.nats[number] == pytest.approx(expected, rel=1e-5)
        assert together.correct[number] == (logits.argmax(-1) == ids[0, 1:]).sum().item()
        assert score_tokens(decoder, [row], context=16).nats[0] == pytest.approx(together.nats[number], rel=1e-5)


def test_a_sliding_window_gives_each_token_what_its_own_window_would(decoder):
    row = np.random.default_rng(1).integers(0, 31, size=37)
    found = score_tokens(decoder, [row], context=12, stride=5).nats[0]
    expected = 0.0
    for w in windows([37], 12, 5):
        logs = decoder(torch.from_numpy(row[w.start:w.stop - 1])[None])[0].log_softmax(-1)
        expected -= sum(logs[t - 1 - w.start, row[t]].item() for t in range(w.first, w.stop))
    assert found == pytest.approx(expected, rel=1e-5)


def test_only_the_answer_is_scored_when_asked(decoder):
    row = np.random.default_rng(2).integers(0, 31, size=15)
    whole, head = (score_tokens(decoder, [part], context=16).nats[0] for part in (row, row[:9]))
    answer = score_tokens(decoder, [row], context=16, first_scored=[9])
    assert answer.nats[0] == pytest.approx(whole - head, rel=1e-4)
    assert answer.tokens[0] == 6


def test_logits_that_are_not_numbers_name_the_model():
    with pytest.raises(InternalError, match="aligned gives a loss that is not a finite number"):
        score_tokens(Broken(9), [np.arange(5)], context=8, name="aligned")


def test_an_empty_document_scores_nothing():
    scores = score_tokens(Uniform(9), [np.array([1]), np.array([1, 2])], context=8)
    assert scores.tokens.tolist() == [0, 1]
