"""Generation with a cache against the whole text computed again, for every kind of decoder."""

from __future__ import annotations

import pytest
import torch

from gristmill.generation import Engine, Sampling
from gristmill.generation.engine import PREFILL_TOKENS
from gristmill.generation.packing import PackedDecoder, PlainDecoder
from gristmill.models import Decoder
from tests.models.random_models import random_decoder

GPT = {"positions": "learned", "norm": "layer", "mlp": "gelu_tanh", "tied_head": True, "qkv_bias": True,
       "output_bias": True, "mlp_bias": True, "kv_heads": 4}
SPARSE = {"attention": ("sparse",), "window": 4}
KINDS = {
    "gpt2": GPT, "gpt3": {**GPT, "attention": ("full", "window"), "window": 5, "layers": 4},
    "gelu without tanh": {**GPT, "mlp": "gelu", "tied_head": False}, "squared relu": {"mlp": "relu2"},
    "sliding window": {"window": 6}, "window of one": {"window": 1},
    "full after windows": {"attention": ("window", "window", "full"), "window": 3},
    "norms of queries and keys": {"qk_norm": True, "qkv_bias": True}, "gated gelu": {"mlp": "geglu", "mlp_bias": True},
    "side by side": {"parallel": True, "kv_heads": 1, "norm": "layer", "norm_bias": False, "tied_head": True,
                     "logit_scale": 0.3},
    "dilated": {**SPARSE, "dilation": 3}, "strided": {**SPARSE, "stride": 7}, "global": {**SPARSE, "global_tokens": 2},
    "sparse blocks": {**SPARSE, "window": 2, "stride": 3, "global_tokens": 1, "attention_block": 4},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
}


@torch.no_grad()
def again_and_again(model: Decoder, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    """Greedy tokens and their log-probabilities, the whole text computed anew for each."""
    ids, logprobs = list(prompt), []
    for _ in range(count):
        logs = model(torch.tensor([ids]))[0, -1].float().log_softmax(-1)
        ids.append(int(logs.argmax()))
        logprobs.append(float(logs[ids[-1]]))
    return ids[len(prompt):], logprobs


@pytest.mark.parametrize("form", ["packed", "plain"])
@pytest.mark.parametrize("kind", KINDS)
def test_generation_equals_full_recomputation(kind, form, monkeypatch):
    model = random_decoder(**KINDS[kind])
    if form == "plain":
        monkeypatch.setattr("gristmill.generation.packing.packable", lambda model: False)
    engine = Engine(model, slots=3)
    assert isinstance(engine._runner, PackedDecoder if form == "packed" else PlainDecoder)
    prompts = [[7], list(range(20)), [96 - i % 50 for i in range(33)]]
    for prompt, out in zip(prompts, engine.generate(prompts, Sampling(max_tokens=14, temperature=0)), strict=True):
        tokens, logprobs = again_and_again(model, prompt, 14)
        assert out.tokens == tokens
        assert out.logprobs == pytest.approx(logprobs, abs=1e-4)
    with torch.no_grad():
        logs = model(torch.tensor(prompts[2:])).log_softmax(-1)[0]
    expected = logs[torch.arange(32), torch.tensor(prompts[2][1:])]
    torch.testing.assert_close(engine.score([prompts[2]])[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["sliding window", "gpt3", "sparse blocks"])
def test_a_long_prompt_read_in_pieces_is_seen_through_the_same_pattern(kind):
    model = random_decoder(**{**KINDS[kind], "layers": 2, "context": PREFILL_TOKENS + 100})
    prompt = [(i * i) % 97 for i in range(PREFILL_TOKENS + 60)]
    out = Engine(model).generate([prompt], Sampling(max_tokens=4, temperature=0))[0]
    tokens, logprobs = again_and_again(model, prompt, 4)
    assert out.tokens == tokens
    assert out.logprobs == pytest.approx(logprobs, abs=1e-4)


def test_the_window_decides_what_is_generated():
    """Without it the same weights say something else: the tests above would notice a forgotten pattern."""
    prompt = list(range(30))
    sampling = Sampling(max_tokens=20, temperature=0)
    found = [Engine(random_decoder(**options)).generate([prompt], sampling)[0].tokens
             for options in ({}, {"window": 6}, KINDS["dilated"], KINDS["strided"], KINDS["global"])]
    assert len({tuple(tokens) for tokens in found}) == len(found)
