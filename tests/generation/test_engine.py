"""The engine against a slow reference without any cache, in many random interleavings."""

from __future__ import annotations

import random

import pytest
import torch

from gristmill.core.errors import InternalError, UserError
from gristmill.generation import Engine, Output, Sampling
from gristmill.generation.engine import PREFILL_TOKENS
from gristmill.generation.packing import PackedDecoder, PlainDecoder
from gristmill.models import Decoder
from tests.models.random_models import random_decoder


@pytest.fixture(scope="module")
def model() -> Decoder:
    return random_decoder(kv_heads=2)


@torch.no_grad()
def slow(model: Decoder, prompt: list[int], sampling: Sampling) -> Output:
    """Greedy over the whole text again for every token."""
    ids, out = list(prompt), Output()
    while out.finish != "stop" and len(out.tokens) < sampling.max_tokens and len(ids) < model.config.context:
        logs = model(torch.tensor([ids]))[0, -1].float().log_softmax(-1)
        token = int(logs.argmax())
        ids.append(token)
        out.tokens.append(token)
        out.logprobs.append(float(logs[token]))
        if token in sampling.stop_ids:
            out.finish = "stop"
    return out


def random_prompts(count: int, seed: int, longest: int = 40) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(97) for _ in range(chance.randint(1, longest))] for _ in range(count)]


def test_greedy_equals_the_reference(model):
    prompts = random_prompts(20, 1)
    sampling = Sampling(max_tokens=30, temperature=0, stop_ids=(5, 17))
    for prompt, found in zip(prompts, Engine(model, slots=4).generate(prompts, sampling), strict=True):
        expected = slow(model, prompt, sampling)
        assert (found.tokens, found.finish) == (expected.tokens, expected.finish)
        assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


SETTINGS = [
    Sampling(max_tokens=12, temperature=0), Sampling(max_tokens=20, seed=7), Sampling(max_tokens=9, seed=7, top_k=5),
    Sampling(max_tokens=15, seed=1, top_p=0.7, temperature=1.3), Sampling(max_tokens=11, temperature=0, logprobs=3),
    Sampling(max_tokens=14, temperature=0, repetition_penalty=1.4), Sampling(max_tokens=8, seed=3, stop_ids=(3, 9, 40)),
    Sampling(max_tokens=60, seed=4, temperature=0.4, top_k=9, top_p=0.9, repetition_penalty=1.1),
]


def interleave(model: Decoder, jobs: list[tuple[list[int], Sampling]], seed: int) -> list[Output | None]:
    """Submit, step and cancel in a random order; None for what was cancelled."""
    chance = random.Random(seed)
    engine = Engine(model, slots=chance.choice([1, 2, 3, 5, 8, 16]))
    outputs: dict[int, Output] = {}
    numbers: list[int] = []
    waiting = list(jobs)
    cancelled: set[int] = set()
    while waiting or engine.busy:
        move = chance.random()
        if waiting and move < 0.4:
            number = engine.submit(*waiting.pop(0))
            numbers.append(number)
            outputs[number] = Output()
        elif numbers and move < 0.406:
            cancelled.add(victim := chance.choice(numbers))
            engine.cancel(victim)
        else:
            for event in engine.step():
                assert event.request not in cancelled
                outputs[event.request].take(event)
                if event.finish:
                    numbers.remove(event.request)
        numbers = [n for n in numbers if n not in cancelled]
    return [None if n in cancelled else out for n, out in outputs.items()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_request_depends_on_its_neighbours_bit_for_bit(dtype):
    model = random_decoder(kv_heads=2).to(dtype)
    model.rotary.float()
    if not isinstance(Engine(model)._runner, PackedDecoder) or not Engine(model)._runner.invariant:
        pytest.skip("this processor has no batch-invariant kernels for this precision")
    jobs = list(zip(random_prompts(16, 2), SETTINGS * 2, strict=True))
    alone = [Engine(model, slots=1).generate([prompt], sampling)[0] for prompt, sampling in jobs]
    whole = 0
    for seed in range(12):
        for found, expected in zip(interleave(model, jobs, seed), alone, strict=True):
            if found is not None:
                whole += 1
                assert found == expected
    assert 60 < whole < 12 * len(jobs), "some are cancelled, most are not"


def test_greedy_is_the_same_for_one_to_eight_at_once(model):
    prompts = random_prompts(8, 3)
    sampling = Sampling(max_tokens=20, temperature=0)
    engine = Engine(model)
    alone = [engine.generate([prompt], sampling)[0].tokens for prompt in prompts]
    for count in range(1, 9):
        assert [out.tokens for out in engine.generate(prompts[:count], sampling)] == alone[:count]


def test_a_long_prompt_is_read_in_pieces_and_gives_the_same():
    model = random_decoder(context=1300)
    prompt = random_prompts(1, 4, longest=1)[0] + [i % 97 for i in range(2 * PREFILL_TOKENS + 60)]
    sampling = Sampling(max_tokens=5, temperature=0)
    engine = Engine(model)
    short = engine.submit([1, 2, 3], Sampling(max_tokens=50, temperature=0))
    engine.step()
    long = engine.submit(prompt, sampling)
    seen = {short: 0, long: 0}
    first = 0
    while seen[long] == 0:
        for event in engine.step():
            seen[event.request] += 1
        first += 1
    assert first == 3, "the prompt has three pieces"
    assert seen[short] == 3, "the other request went on meanwhile"
    again = engine.generate([prompt], sampling)[0]
    expected = slow(model, prompt, sampling)
    assert again.tokens == expected.tokens
    assert again.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


def test_cancelling_frees_the_slot_at_once(model):
    engine = Engine(model, slots=1)
    first = engine.submit([1, 2], Sampling(max_tokens=50, temperature=0))
    engine.step()
    second = engine.submit([3], Sampling(max_tokens=1, temperature=0))
    assert {event.request for event in engine.step()} == {first}
    engine.cancel(first)
    assert {event.request for event in engine.step()} == {second}
    assert not engine.busy
    engine.cancel(first)
    engine.cancel(99)


def test_the_context_ends_an_answer(model):
    prompt = [1] * 60
    out = Engine(model).generate([prompt], Sampling(max_tokens=1000, temperature=0))[0]
    assert (len(out.tokens), out.finish) == (4, "length")
    out = Engine(model, context=62).generate([prompt], Sampling(max_tokens=1000, temperature=0))[0]
    assert len(out.tokens) == 2


@pytest.mark.parametrize(("prompt", "said"), [
    ([], "empty"), ([97], "outside the vocabulary of 97"), ([-1], "token id -1"), ([1] * 64, "no room")])
def test_prompts_that_cannot_be_served_are_refused(model, prompt, said):
    with pytest.raises(UserError, match=said):
        Engine(model).submit(prompt)
    engine = Engine(model)
    with pytest.raises(UserError):
        engine.generate([[1], prompt])
    assert not engine.busy, "the good one of the same call does not linger"


@pytest.mark.parametrize("settings", [
    {"max_tokens": 0}, {"max_tokens": -1}, {"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": -1},
    {"top_p": 0.0}, {"top_p": 1.1}, {"repetition_penalty": 0.0}, {"logprobs": -1}, {"temperature": float("inf")}])
def test_sampling_values_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        Sampling(**settings)


def test_scores_equal_the_reference_and_the_generated_logprobs(model):
    sequences = [*random_prompts(9, 5), [], [4]]
    scores = Engine(model).score(sequences, batch_tokens=70)
    for sequence, found in zip(sequences, scores, strict=True):
        if len(sequence) < 2:
            assert found.shape == (0,)
            continue
        with torch.no_grad():
            logs = model(torch.tensor([sequence])).log_softmax(-1)[0]
        expected = logs[torch.arange(len(sequence) - 1), torch.tensor(sequence[1:])]
        assert torch.allclose(found, expected, atol=1e-4)
    assert torch.equal(Engine(model).score(sequences[:1])[0], scores[0]), "neighbours do not matter"
    out = Engine(model).generate([[1, 2]], Sampling(max_tokens=20, seed=1, temperature=0.5, top_p=0.8))[0]
    assert Engine(model).score([[1, 2, *out.tokens]])[0][1:].tolist() == pytest.approx(out.logprobs, abs=1e-4)
    with pytest.raises(UserError, match="do not fit"):
        Engine(model).score([[1] * 65])


def test_new_weights_are_used_and_changed_ones_noticed(model):
    other = random_decoder(seed=9)
    engine = Engine(random_decoder(), slots=2)
    sampling = Sampling(max_tokens=10, temperature=0)
    expected = [slow(m, [1, 2, 3], sampling).tokens for m in (model, other)]
    assert expected[0] != expected[1]
    assert engine.generate([[1, 2, 3]], sampling)[0].tokens == expected[0]
    engine.load_weights(other.state_dict(), version=3)
    assert engine.weights_version == 3
    assert engine.generate([[1, 2, 3]], sampling)[0].tokens == expected[1]
    with torch.no_grad():  # as an optimizer does
        for parameter, value in zip(engine.model.parameters(), model.parameters(), strict=True):
            parameter.copy_(value)
    assert engine.generate([[1, 2, 3]], sampling)[0].tokens == expected[0]
    engine.submit([1])
    with pytest.raises(UserError, match="must wait"):
        engine.load_weights(other.state_dict(), version=4)


def test_the_packed_form_equals_the_model_and_so_does_the_plain_one(model, monkeypatch):
    prompts = random_prompts(6, 6)
    sampling = Sampling(max_tokens=15, temperature=0)
    packed = Engine(model, slots=3)
    monkeypatch.setattr("gristmill.generation.engine.prepare", PlainDecoder)
    plain = Engine(model, slots=3)
    assert not plain._runner.invariant
    found, expected = (engine.generate(prompts, sampling) for engine in (packed, plain))
    assert [out.tokens for out in found] == [out.tokens for out in expected]


def test_rows_beyond_the_tokenizers_vocabulary_are_never_sampled(model):
    engine = Engine(model, vocab_size=10)
    outputs = engine.generate([[1], [9]], [Sampling(max_tokens=30, seed=1, temperature=9.0), Sampling(temperature=0)])
    assert max(token for out in outputs for token in out.tokens) < 10
    with pytest.raises(UserError, match="vocabulary of 10"):
        engine.submit([10])


def test_biases_and_untied_heads_are_packed_too():
    model = random_decoder(qkv_bias=True, output_bias=True, mlp_bias=True, tied_head=True, kv_heads=4)
    sampling = Sampling(max_tokens=10, temperature=0)
    assert Engine(model).generate([[5, 6]], sampling)[0].tokens == slow(model, [5, 6], sampling).tokens


def test_an_engine_made_under_autocast_computes_in_its_precision(model):
    with torch.autocast("cpu", torch.bfloat16):
        engine = Engine(model)
        inside = engine.generate([[1, 2, 3]], Sampling(max_tokens=10, temperature=0))[0]
    assert engine.dtype == torch.bfloat16
    outside = engine.generate([[1, 2, 3]], Sampling(max_tokens=10, temperature=0))[0]
    assert inside == outside
    exact = Engine(model).score([[1, 2, 3, *inside.tokens]])[0][2:]
    assert inside.logprobs == pytest.approx(exact.tolist(), abs=0.2)
    assert inside.logprobs != pytest.approx(exact.tolist(), abs=1e-5)


def test_the_cache_grows_with_need_only(model):
    engine = Engine(random_decoder(context=4096), slots=2)
    engine.generate([[1, 2, 3]], Sampling(max_tokens=10, temperature=0))
    small = engine._cache.nbytes
    engine.generate([[1] * 600], Sampling(max_tokens=2, temperature=0))
    assert engine._cache.capacity < 1300
    assert small < engine._cache.nbytes / 4


def test_events_of_others_are_kept_for_the_next_step(model):
    engine = Engine(model)
    other = engine.submit([9, 8], Sampling(max_tokens=5, temperature=0))
    engine.generate([[1, 2]], Sampling(max_tokens=10, temperature=0))
    assert engine.busy
    events = engine.step()
    assert [event.request for event in events] == [other] * 5
    assert [event.token for event in events] == slow(model, [9, 8], Sampling(max_tokens=5)).tokens
    assert not engine.busy


def test_weights_that_are_not_numbers_are_an_error_not_a_token():
    model = random_decoder()
    with torch.no_grad():
        model.blocks[1].mlp.down.weight[0, 0] = float("nan")
    for sampling in (Sampling(temperature=0), Sampling(seed=1), Sampling(seed=1, top_k=3)):
        with pytest.raises(InternalError, match="not numbers"):
            Engine(model).generate([[1, 2]], sampling)
