"""Who sees whom: patterns against their meaning told in plain words, and no model sees what they forbid."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.models import DecoderConfig
from gristmill.models.decoder import layer_pattern
from gristmill.models.layers.masks import GRAIN, Pattern, allowed, cut
from tests.models.patterns import PATTERNS, seen, sees
from tests.models.random_models import random_decoder

CPU = torch.device("cpu")


@st.composite
def patterns(draw) -> Pattern:
    return Pattern(
        causal=draw(st.booleans()), window=draw(st.none() | st.integers(1, 9)), dilation=draw(st.integers(1, 4)),
        stride=draw(st.none() | st.integers(1, 9)), global_tokens=draw(st.integers(0, 3)),
        block=draw(st.integers(1, 5)))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(patterns(), st.integers(1, 24), st.integers(0, 9))
def test_a_pattern_is_what_its_fields_say(pattern, time, seed):
    generator = torch.Generator().manual_seed(seed)
    documents = torch.randint(0, 2, (1, time), generator=generator).cumsum(1)
    prefix = torch.rand(1, time, generator=generator) < 0.3
    for document_ids, given_prefix in ((None, None), (documents, None), (documents, prefix)):
        found = allowed(pattern, 0, time, time, CPU, document_ids, None, given_prefix)[0, 0]
        expected = seen(pattern, time, None if document_ids is None else document_ids[0],
                        None if given_prefix is None else given_prefix[0])
        assert torch.equal(found, expected)
    assert all(sees(pattern, i, i) for i in range(time)) or (pattern.window is None and pattern.stride is None)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(patterns(), st.integers(1, 5 * GRAIN), st.integers(0, 200), st.integers(1, 150))
def test_what_lies_outside_the_reach_is_never_seen(pattern, keys, start, count):
    start = min(start, keys - 1)
    stop = min(start + count, keys)
    whole = allowed(pattern, start, stop, keys, CPU)[0, 0]
    runs = pattern.reach(start, stop, keys)
    within = torch.zeros(keys, dtype=torch.bool)
    for low, high in runs:
        within[low:high] = True
    assert not whole[:, ~within].any()
    assert torch.equal(allowed(pattern, start, stop, runs, CPU)[0, 0], cut(whole, runs))


def test_sparse_blocks_reach_little():
    """What the reach is for: a window of 64 in a row of 4096 reads 192 keys a block of queries, not all."""
    runs = Pattern(window=64).reach(2048, 2176, 4096)
    assert sum(high - low for low, high in runs) == 192
    runs = Pattern(window=1, stride=16, global_tokens=1, block=64).reach(4032, 4096, 4096)
    assert [low // 64 for low, _ in runs] == [0, 15, 31, 47, 63]


def test_cross_attention_goes_by_the_documents_of_the_keys():
    queries, keys = torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 1, -1]])
    found = allowed(Pattern(causal=False), 0, 3, 4, CPU, queries, keys)[0, 0]
    assert found.tolist() == [[True, False, False, False], [True, False, False, False], [False, True, True, False]]


def attention_options(pattern: Pattern) -> dict:
    return {"attention": ("sparse",), "window": pattern.window, "dilation": pattern.dilation, "stride": pattern.stride,
            "global_tokens": pattern.global_tokens, "attention_block": pattern.block}


MODELS = {
    "causal": {}, "sliding window": {"window": 5}, "full and window": {"attention": ("full", "window"), "window": 3},
    "learned positions": {"positions": "learned", "norm": "layer", "mlp": "gelu", "window": 6},
    "side by side": {"parallel": True, "kv_heads": 1, "norm": "layer", "norm_bias": False},
    **{name: attention_options(PATTERNS[name]) for name in (
        "dilated", "strided", "only strided", "global and local", "block-sparse", "dilated blocks")},
}


def reachable(config: DecoderConfig, time: int, document_ids=None, prefix=None) -> torch.Tensor:
    """(time, time): whether what stands at the second place can move the first, through all layers."""
    masks = [seen(layer_pattern(config, layer), time, document_ids, prefix) for layer in range(config.layers)]
    found = torch.eye(time, dtype=torch.bool)
    for mask in masks:  # each layer keeps what a place has, and adds what it sees
        found = ((mask | torch.eye(time, dtype=torch.bool)).float() @ found.float()) > 0
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", ["alone", "packed", "prefix"])
@torch.no_grad()
def test_no_position_sees_a_token_that_its_mask_forbids(name, form):
    time = 34
    model = random_decoder(**{"layers": 2, "mlp_dim": 16, **MODELS[name]})
    ids = torch.randint(0, 96, (1, time), generator=torch.Generator().manual_seed(1))
    documents = None if form == "alone" else (torch.arange(time) // 13)[None]
    prefix = (torch.arange(time) % 13 < 4)[None] if form == "prefix" else None
    before = model(ids, document_ids=documents, prefix=prefix)[0]
    expected = reachable(model.config, time, None if documents is None else documents[0],
                         None if prefix is None else prefix[0])
    for changed in range(0, time, 3):
        other = ids.clone()
        other[0, changed] = (other[0, changed] + 1) % 97
        after = model(other, document_ids=documents, prefix=prefix)[0]
        moved = ((after - before).abs().amax(-1) > 0)
        assert not (moved & ~expected[:, changed]).any(), f"a forbidden token {changed} was seen"
        assert torch.equal(moved, expected[:, changed]), f"an allowed token {changed} was not seen"
