"""FLOPs against torch's own counter: products exactly, attention as its unfused backend counts it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from saved_tensors import small
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gristmill.models.config import DecoderConfig
from gristmill.models.families import FAMILIES
from gristmill.models.layers import attention, experts
from gristmill.models.layers.masks import Pattern
from gristmill.models.loading import skeleton
from gristmill.planning.activations import forward
from gristmill.planning.anatomy import anatomy
from gristmill.planning.flops import cached, flops

PRESETS = [(family.name, name) for family in FAMILIES.values() for name in family.presets]


def config_of(family: str):
    presets = FAMILIES[family].presets
    return small(presets.get("tiny", next(iter(presets.values()))))


def counted(config, time: int, rows: int = 2, backward: bool = False) -> tuple[int, int]:
    """What torch counts in a pass up to the head's logits: products with weights, and attention, which is unfused."""
    model = FAMILIES[config.family].body(config)
    model.initialise(0)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        states = forward(model.train(), rows, time)
        logits = torch.nn.functional.linear(states, model.head_weight)
        if backward:
            logits.sum().backward()
    found = counter.get_flop_counts()["Global"]
    with_weights = sum(n for operation, n in found.items() if operation in (torch.ops.aten.mm, torch.ops.aten.addmm))
    return with_weights, counter.get_total_flops() - with_weights


@pytest.fixture
def unfused(monkeypatch):
    """Kernels that torch's counter knows: no blocked or fused attention, no grouped products."""
    monkeypatch.setattr(attention, "blocked", attention.sdpa)
    monkeypatch.setattr(experts, "can_group", lambda rows, stacks: False)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_products_and_attention_are_what_torch_counts(family, backward, unfused):
    config, time, rows = config_of(family), 48, 2
    if getattr(config, "moe", None) is not None:  # which tokens find no room depends on what they say
        config = dataclasses.replace(config, moe=dataclasses.replace(config.moe, capacity=None))
    products, attended = (number / (rows * time) for number in counted(config, time, rows, backward))
    found, ours = anatomy(config), flops(config, time)
    times = 3 if backward else 1
    if found.two_streams:
        # Distances are projected once a micro-batch, not once a token, and their vectors learn nothing: left out.
        distances = config.layers * 2 * config.dim * config.inner * 2 * time
        products -= distances * (2 if backward else 1) / (rows * time)
    assert times * ours.matmul == pytest.approx(products, rel=1e-9)
    assert times * ours.attention_full == pytest.approx(attended, rel=1e-9)
    if not (found.two_stacks or found.two_streams):
        assert ours.matmul == pytest.approx(2 * config.matmul_parameters, rel=1e-9)


def test_active_experts_count_and_idle_ones_do_not():
    config = FAMILIES["mixtral"].presets["mixtral-8x7b"]
    found = anatomy(config)
    dense = found.total - found.parameters["experts"]
    assert found.active == dense + found.parameters["experts"] // 4
    more = dataclasses.replace(config, moe=dataclasses.replace(config.moe, experts=16))
    router = config.layers * config.dim * 8  # the only part of a token's work that grows with idle experts
    assert flops(more, 64).matmul - flops(config, 64).matmul == 2 * router


@pytest.mark.parametrize(("family", "preset"), PRESETS)
def test_configs_and_bodies_agree(family, preset):
    config = FAMILIES[family].presets[preset]
    context = min(config.context, 2048)
    assert round(anatomy(config).matmul_parameters) == config.matmul_parameters
    predicted = 1.0
    assert flops(config, context, predicted=predicted).train == pytest.approx(config.flops_per_token(context), rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(context=st.integers(64, 512), window=st.integers(1, 600))
def test_windows_count_what_they_show(context, window):
    config = DecoderConfig(vocab_size=64, dim=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_dim=16,
                           context=context, window=window)
    places = torch.arange(context)
    shown = Pattern(window=window).visible(places, places).sum().item() / context
    pair = 4 * 16
    assert flops(config, context).attention / pair == pytest.approx(shown, abs=1.0)
    assert flops(config, context).attention_full / pair == context


def test_attention_of_a_whole_row_is_half_of_all_pairs():
    config = FAMILIES["llama"].presets["smollm2-135m"]
    ours = flops(config, 1000)
    assert ours.attention == ours.attention_full / 2 == 2 * config.layers * config.heads * config.head_dim * 1000
    assert ours.decode == 2 * config.matmul_parameters + 4 * config.layers * config.heads * config.head_dim * 1000


def test_masked_models_pay_for_the_logits_they_need():
    config = FAMILIES["bert"].presets["base"]
    whole, some = flops(config, 512), flops(config, 512, predicted=0.15)
    head = 2 * (config.dim * config.vocab_size + config.dim**2)
    assert whole.matmul - some.matmul == pytest.approx(0.85 * head)
    assert whole.read == some.read


def test_a_window_bounds_the_cache():
    assert cached(Pattern(window=100), 4096) == 100
    assert cached(Pattern(), 4096) == 4096
    assert cached(Pattern(window=64, stride=128), 4096) == 64 + 32


def test_counting_is_free_of_memory():
    assert all(p.device.type == "meta" for p in skeleton(FAMILIES["llama"].presets["llama-3-8b"]).parameters())
