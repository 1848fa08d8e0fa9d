"""Presets and configs against published numbers, and both directions of the mapping against each other."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.models import DecoderConfig
from gristmill.models.families import FAMILIES
from gristmill.models.loading import count_parameters, skeleton

LLAMA = FAMILIES["llama"]
PUBLISHED = {
    "smollm2-135m": 134_515_008, "tinyllama-1.1b": 1_100_048_384, "llama-2-7b": 6_738_415_616,
    "llama-3-8b": 8_030_261_248, "llama-3.2-1b": 1_235_814_400, "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_a_preset_has_the_published_number_of_parameters(preset):
    assert count_parameters(LLAMA.presets[preset]) == PUBLISHED[preset]


SCALINGS = st.sampled_from([
    None, {"rope_type": "linear", "factor": 4.0}, {"rope_type": "yarn", "factor": 2.0, "beta_fast": 16,
                                                   "original_max_position_embeddings": 32},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 32},
])


@st.composite
def configs(draw) -> DecoderConfig:
    kv_heads, biased = draw(st.integers(1, 3)), draw(st.booleans())
    return DecoderConfig(
        vocab_size=draw(st.integers(2, 60)), dim=draw(st.integers(1, 24)), layers=draw(st.integers(1, 3)),
        heads=kv_heads * draw(st.integers(1, 3)), kv_heads=kv_heads, head_dim=2 * draw(st.integers(1, 6)),
        mlp_dim=draw(st.integers(1, 30)), context=draw(st.integers(1, 99)),
        rope_theta=draw(st.sampled_from([10_000.0, 500_000.0])), rope_scaling=draw(SCALINGS),
        norm_eps=draw(st.sampled_from([1e-5, 1e-6])), tied_head=draw(st.booleans()),
        qkv_bias=biased, output_bias=biased, mlp_bias=draw(st.booleans()),
    )


@given(configs())
@settings(max_examples=40, deadline=None)
def test_config_and_weight_names_are_exact_inverses(config):
    assert LLAMA.config_from_public(LLAMA.config_to_public(config)) == config
    state = {name: torch.empty(0) for name in skeleton(config).state_dict()}
    public = LLAMA.to_public(state, config)
    back = LLAMA.from_public(public, config, "here")
    assert back.keys() == state.keys()
    assert all(back[name] is state[name] for name in state)


def test_the_newer_form_of_rope_settings_means_the_same():
    public = LLAMA.config_to_public(LLAMA.presets["llama-3.2-1b"])
    scaling, theta = public.pop("rope_scaling"), public.pop("rope_theta")
    newer = {**public, "rope_parameters": {**scaling, "rope_theta": theta}}
    assert LLAMA.config_from_public(newer) == LLAMA.presets["llama-3.2-1b"]


@pytest.mark.parametrize(("change", "said"), [
    ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "supported: default, linear, llama3, dynamic, "),
    ({"rope_scaling": {"rope_type": "dynamic"}}, "lacks factor"),
    ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "factor is '2'"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "lacks low_freq_factor"),
    ({"hidden_act": "gelu"}, "silu"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ({"hidden_size": None}, "hidden_size is None"),
    ({"num_key_value_heads": 5}, "kv_heads"),
    ({"head_dim": 7}, "head_dim"),
])
def test_what_we_cannot_compute_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        LLAMA.config_from_public({**LLAMA.config_to_public(LLAMA.presets["tiny"]), **change})


def test_missing_and_unexpected_tensors_are_listed():
    config = dataclasses.replace(LLAMA.presets["tiny"], layers=1)
    public = LLAMA.to_public(skeleton(config).state_dict(), config)
    public["model.layers.0.self_attn.quirk.weight"] = public.pop("model.layers.0.mlp.up_proj.weight")
    with pytest.raises(UserError, match=r"1 missing: model.layers.0.mlp.up_proj.weight; "
                                        r"1 unexpected: model.layers.0.self_attn.quirk.weight"):
        LLAMA.from_public(public, config, "here")


def test_a_tied_head_may_be_stored_twice_if_it_is_the_same():
    config = LLAMA.presets["tiny"]
    state = {name: torch.zeros(2) for name in skeleton(config).state_dict()}
    public = LLAMA.to_public(state, config)
    assert LLAMA.from_public({**public, "lm_head.weight": torch.zeros(2)}, config, "here").keys() == state.keys()
    with pytest.raises(UserError, match="tied"):
        LLAMA.from_public({**public, "lm_head.weight": torch.ones(2)}, config, "here")
