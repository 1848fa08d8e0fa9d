"""Sampling against transformers' processors and against the distribution it must follow."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.generation.sampling import Sampling, SamplingTable, draw, uniform


def table(samplings: list[Sampling], vocab: int, prompts: list[list[int]] | None = None) -> SamplingTable:
    made = SamplingTable(len(samplings), vocab, torch.device("cpu"))
    for slot, sampling in enumerate(samplings):
        made.fill(slot, sampling, prompts[slot] if prompts else [0])
    return made


def expected_distribution(logits: torch.Tensor, sampling: Sampling, prompt: list[int]) -> torch.Tensor:
    """What transformers' processors leave, as probabilities."""
    process = pytest.importorskip("transformers.generation.logits_process")
    steps = []
    if sampling.repetition_penalty != 1:
        steps.append(process.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    steps.append(process.TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        steps.append(process.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(process.TopPLogitsWarper(sampling.top_p))
    scores = logits[None].clone()
    for step in steps:
        scores = step(torch.tensor([prompt]), scores)
    return scores[0].double().softmax(-1)


@pytest.mark.parametrize("sampling", [
    Sampling(), Sampling(temperature=0.6), Sampling(top_k=4), Sampling(top_p=0.6), Sampling(top_p=0.999),
    Sampling(temperature=1.7, top_k=7, top_p=0.8), Sampling(repetition_penalty=1.5, top_p=0.9),
    Sampling(top_k=1000), Sampling(repetition_penalty=0.7),
])
def test_frequencies_follow_the_distribution_of_transformers(sampling):
    logits = torch.randn(30, generator=torch.Generator().manual_seed(1)) * 2
    prompt = [3, 4, 4, 9]
    wanted = expected_distribution(logits, sampling, prompt)
    scores = logits[None]
    if sampling.repetition_penalty != 1:
        penalised = torch.where(logits > 0, logits / sampling.repetition_penalty, logits * sampling.repetition_penalty)
        scores = torch.where(torch.isin(torch.arange(30), torch.tensor(prompt)), penalised, logits)[None]
    # A grid of u walks through the distribution itself; only a second attempt of top-p is left to chance.
    count = 20_000
    seeds = torch.arange(count)

    def noise(rows, attempt):
        return (rows.double() + 0.5) / count if attempt in (0, 16) else uniform(seeds[rows], rows * 0 + attempt)

    scores = (scores / sampling.temperature).expand(count, -1)
    tokens = draw(scores, noise, [sampling.top_k] * count, [sampling.top_p] * count)
    found = torch.bincount(tokens, minlength=30) / count
    assert (found - wanted).abs().max() < (2e-4 if sampling.top_p == 1 or sampling.top_k else 5e-3)
    assert set(tokens.tolist()) <= set(wanted.nonzero()[:, 0].tolist())


def test_the_table_applies_penalty_and_temperature_in_the_same_order():
    logits = torch.randn(1, 30, generator=torch.Generator().manual_seed(2)) * 3
    sampling, prompt = Sampling(temperature=0.8, repetition_penalty=1.8, seed=0), [3, 4, 9]
    wanted = expected_distribution(logits[0], sampling, prompt)
    counts = torch.zeros(30)
    made = table([Sampling(temperature=0.8, repetition_penalty=1.8, seed=s) for s in range(3000)], 30, [prompt] * 3000)
    tokens, logprobs, _ = made.choose(logits.expand(3000, -1), list(range(3000)))
    counts += torch.bincount(torch.tensor(tokens), minlength=30)
    assert (counts / 3000 - wanted).abs().max() < 0.03
    raw = logits[0].log_softmax(-1)
    assert logprobs == pytest.approx([float(raw[t]) for t in tokens], abs=1e-5)


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.49, 0.5, 0.9, 0.999])
def test_trial_and_sorting_keep_the_same_nucleus(top_p):
    scores = torch.randn(1, 2000, generator=torch.Generator().manual_seed(4)).expand(4000, -1)
    weights, order = scores[0].double().softmax(-1).sort(descending=True)
    size = int((weights.cumsum(-1) - weights < top_p).sum())
    seeds = torch.arange(4000)
    tokens = draw(scores, lambda rows, attempt: uniform(seeds[rows], rows * 0 + attempt), [0] * 4000, [top_p] * 4000)
    assert set(tokens.tolist()) <= set(order[:size].tolist())
    likely = order[: max(1, size // 10)]
    share = float(torch.isin(tokens, likely).double().mean())
    assert share == pytest.approx(float(weights[: len(likely)].sum() / weights[:size].sum()), abs=0.03)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 40)), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_noise_is_a_function_of_seed_and_position(pairs):
    seeds = [s - 2**64 if s >= 2**63 else s for s, _ in pairs]
    together = uniform(torch.tensor(seeds), torch.tensor([p for _, p in pairs]))
    alone = [float(uniform(torch.tensor([s]), torch.tensor([p]))[0]) for s, (_, p) in zip(seeds, pairs, strict=True)]
    assert together.tolist() == alone
    assert all(0 <= u < 1 for u in alone)


def test_noise_is_even_over_positions_and_over_seeds():
    count = 20_000
    many, zero = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    for values in (uniform(zero + 5, many), uniform(many, zero), uniform(many, zero + 3)):
        histogram = torch.histc(values.float(), 20, 0, 1) / count
        assert (histogram - 0.05).abs().max() < 0.006
        assert torch.corrcoef(torch.stack([values[1:], values[:-1]]))[0, 1].abs() < 0.03


def test_same_seed_same_tokens_and_none_is_fresh():
    logits = torch.zeros(4, 1000)
    made = table([Sampling(seed=5), Sampling(seed=5), Sampling(seed=6), Sampling()], 1000)
    tokens, *_ = made.choose(logits, [0, 1, 2, 3])
    assert tokens[0] == tokens[1] != tokens[2]
    draws = {table([Sampling()], 1000).choose(logits[:1], [0])[0][0] for _ in range(8)}
    assert len(draws) > 1


def test_top_logprobs_are_as_many_as_asked_for_and_sorted():
    logits = torch.randn(2, 50)
    _, _, top = table([Sampling(temperature=0, logprobs=3), Sampling(temperature=0)], 50).choose(logits, [0, 1])
    assert [i for i, _ in top[0]] == logits[0].topk(3).indices.tolist()
    assert [p for _, p in top[0]] == pytest.approx(logits[0].log_softmax(-1).topk(3).values.tolist(), abs=1e-5)
    assert top[1] == []


def test_a_certain_token_is_taken_whatever_the_noise():
    logits = torch.full((1, 10), -1e4)
    logits[0, 7] = 0
    for u in (0.0, 0.5, 1 - 2**-53):
        for k, p in ((0, 1.0), (3, 1.0), (0, 0.5)):
            noise = torch.tensor([u], dtype=torch.float64)
            assert draw(logits, lambda rows, attempt, noise=noise: noise, [k], [p]).item() == 7
