"""Llama, Mistral, Qwen and PaLM against transformers: random configs, both ways."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.models import proof
from gristmill.models.families import FAMILIES
from gristmill.models.layers.rotary import Rotary
from gristmill.models.loading import count_parameters
from gristmill.models.saving import save_model
from gristmill.models.spec import ModelSpec
from tests.models.public_decoders import check_both_ways, count_of, randomised
from tests.models.random_models import random_decoder

transformers = pytest.importorskip("transformers")

PUBLISHED = {
    ("llama", "smollm2-135m"): 134_515_008, ("llama", "smollm2-360m"): 361_821_120,
    ("llama", "smollm2-1.7b"): 1_711_376_384, ("llama", "tinyllama-1.1b"): 1_100_048_384,
    ("llama", "llama-2-7b"): 6_738_415_616, ("llama", "llama-2-13b"): 13_015_864_320,
    ("llama", "llama-2-70b"): 68_976_648_192, ("llama", "llama-3-8b"): 8_030_261_248,
    ("llama", "llama-3-70b"): 70_553_706_496, ("llama", "llama-3.1-8b"): 8_030_261_248,
    ("llama", "llama-3.1-405b"): 405_853_388_800, ("llama", "llama-3.2-1b"): 1_235_814_400,
    ("llama", "llama-3.2-3b"): 3_212_749_824, ("mistral", "mistral-7b"): 7_241_732_096,
    ("mistral", "mistral-7b-v0.2"): 7_241_732_096, ("mistral", "mistral-7b-v0.3"): 7_248_023_552,
    ("qwen", "qwen2.5-0.5b"): 494_032_768, ("qwen", "qwen2.5-1.5b"): 1_543_714_304,
    ("qwen", "qwen2.5-3b"): 3_085_938_688, ("qwen", "qwen2.5-7b"): 7_615_616_512,
    ("qwen", "qwen3-0.6b"): 596_049_920, ("qwen", "qwen3-1.7b"): 1_720_574_976,
    ("qwen", "qwen3-4b"): 4_022_468_096, ("qwen", "qwen3-8b"): 8_190_735_360,
}
CLASSES = {"LlamaForCausalLM": "LlamaConfig", "MistralForCausalLM": "MistralConfig", "Qwen2ForCausalLM": "Qwen2Config",
           "Qwen3ForCausalLM": "Qwen3Config", "CohereForCausalLM": "CohereConfig"}
PALM = {"8b": (8_632_012_800, 8.63), "62b": (62_495_662_080, 62.50), "540b": (540_356_474_880, 540.35)}
"""Parameters, and the billions of the paper's table 1, the last of which are cut, not rounded."""


def public_config(family: str, config: Any) -> tuple[Any, Any]:
    """The public class and config that our config stands for."""
    content = FAMILIES[family].config_to_public(config)
    name = content["architectures"][0]
    return getattr(transformers, name), getattr(transformers, CLASSES[name])(**content)


def test_every_preset_has_the_published_number_of_parameters():
    presets = {(family, name) for family in ("llama", "mistral", "qwen") for name in FAMILIES[family].presets}
    assert presets - set(PUBLISHED) == {("llama", "tiny"), ("mistral", "tiny"), ("qwen", "tiny")}
    for (family, name), count in PUBLISHED.items():
        config = FAMILIES[family].presets[name]
        assert count_parameters(config) == count, name
        assert count_of(*public_config(family, config)) == count, name


def test_palm_has_the_sizes_of_the_papers_table():
    for name, (count, billions) in PALM.items():
        config = FAMILIES["palm"].presets[name]
        assert count_parameters(config) == count
        assert abs(count / 1e9 - billions) < 0.01, name
        assert config.logit_scale == config.dim**-0.5
        assert config.kv_heads == 1
    assert count_of(*public_config("palm", FAMILIES["palm"].presets["8b"])) == PALM["8b"][0]


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}
SCALINGS = st.sampled_from([
    {"rope_type": "default"}, {"rope_type": "linear", "factor": 3.0}, LLAMA3, {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    {"rope_type": "yarn", "factor": 2.5, "original_max_position_embeddings": 32, "beta_fast": 8.0, "beta_slow": 2.0,
     "attention_factor": 0.9},
    {"rope_type": "yarn", "factor": 2.5, "original_max_position_embeddings": 64, "mscale": 0.7, "mscale_all_dim": 0.4,
     "truncate": False},
])


@st.composite
def shared(draw) -> dict[str, Any]:
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    return {
        "vocab_size": draw(st.integers(11, 60)), "hidden_size": heads * 2 * draw(st.integers(2, 4)),
        "num_hidden_layers": draw(st.integers(1, 3)), "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "intermediate_size": draw(st.integers(3, 40)), "max_position_embeddings": 64,
        "rope_parameters": {"rope_theta": draw(st.sampled_from([100.0, 10_000.0])), **draw(SCALINGS)},
        "tie_word_embeddings": draw(st.booleans()), "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }


def checked(tmp_path_factory, name: str, options: dict[str, Any], seed: int = 0) -> Any:
    config = getattr(transformers, CLASSES[name])(**options)
    public = randomised(getattr(transformers, name)(config), seed)
    return check_both_ways(public, tmp_path_factory.mktemp("family"), seed=seed)


FEW = settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck),
          phases=(Phase.explicit, Phase.generate))


@FEW
@given(shared(), st.booleans(), st.booleans(), st.integers(0, 9))
def test_llama_is_the_public_one_both_ways(tmp_path_factory, options, attention_bias, mlp_bias, seed):
    head_dim = options["hidden_size"] // options["num_attention_heads"]
    checked(tmp_path_factory, "LlamaForCausalLM", {
        **options, "attention_bias": attention_bias, "mlp_bias": mlp_bias, "rms_norm_eps": 1e-5,
        "head_dim": head_dim + 2 * (seed % 2)}, seed)


@FEW
@given(shared(), st.sampled_from([None, 1, 5, 16, 63]), st.integers(0, 9))
def test_mistral_is_the_public_one_both_ways(tmp_path_factory, options, window, seed):
    model = checked(tmp_path_factory, "MistralForCausalLM", {**options, "sliding_window": window}, seed)
    assert model.config.window == window


@FEW
@given(shared(), st.booleans(), st.integers(0, 3), st.sampled_from([2, 9]), st.integers(0, 9))
def test_qwen2_is_the_public_one_both_ways(tmp_path_factory, options, windows, first, window, seed):
    model = checked(tmp_path_factory, "Qwen2ForCausalLM", {
        **options, "use_sliding_window": windows, "sliding_window": window, "max_window_layers": first}, seed)
    assert [model.config.layer_window(layer) for layer in range(model.config.layers)] == [
        window if windows and layer >= first else None for layer in range(model.config.layers)]
    assert model.config.qkv_bias
    assert not model.config.output_bias


@FEW
@given(shared(), st.booleans(), st.data())
def test_qwen3_is_the_public_one_both_ways(tmp_path_factory, options, bias, data):
    layers = options["num_hidden_layers"]
    kinds = data.draw(st.lists(st.sampled_from(["full_attention", "sliding_attention"]), min_size=layers,
                               max_size=layers))
    checked(tmp_path_factory, "Qwen3ForCausalLM", {
        **options, "attention_bias": bias, "head_dim": data.draw(st.sampled_from([4, 10])), "layer_types": kinds,
        "use_sliding_window": "sliding_attention" in kinds, "sliding_window": 7}, data.draw(st.integers(0, 9)))


@FEW
@given(shared(), st.sampled_from([0.0625, 1.0, 0.3]), st.integers(0, 9))
def test_palm_is_the_public_command_r_both_ways(tmp_path_factory, options, logit_scale, seed):
    """Chosen widely: PaLM itself has one key/value head and 1/sqrt(dim)."""
    model = checked(tmp_path_factory, "CohereForCausalLM", {
        **options, "tie_word_embeddings": True, "logit_scale": logit_scale, "use_qk_norm": False}, seed)
    assert model.config.parallel
    assert model.config.logit_scale == logit_scale


def test_palm_from_scratch_equals_its_slow_reading_from_the_paper(tmp_path):
    traits = FAMILIES["palm"].traits
    model = random_decoder(**{"family": "palm", **traits})
    save_model(model, tmp_path)
    inputs = {"input_ids": torch.tensor([proof.proof_ids(97, 20)])}
    for other in (proof.trace_reference(tmp_path, inputs), proof.trace_transformers(tmp_path, inputs)):
        assert proof.compare(proof.trace(model, inputs), other)["largest"] < 1e-5
    assert model.config.kv_heads == 1
    assert not [name for name, _ in model.named_parameters() if name.endswith("bias")]


@FEW
@given(SCALINGS, st.sampled_from([8, 64, 128]), st.sampled_from([10_000.0, 1_000_000.0]))
def test_rotary_tables_are_transformers_to_the_last_digits(scaling, head_dim, theta):
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = transformers.LlamaConfig(hidden_size=head_dim, num_attention_heads=1, head_dim=head_dim,
                                      max_position_embeddings=64, rope_parameters={"rope_theta": theta, **scaling})
    theirs = LlamaRotaryEmbedding(config)
    ours = Rotary(head_dim, theta, None if scaling["rope_type"] == "default" else scaling, context=64)
    torch.testing.assert_close(ours.frequencies, theirs.inv_freq, rtol=2e-6, atol=0)
    assert ours.amplitude == pytest.approx(theirs.attention_scaling, rel=1e-12)


@pytest.mark.parametrize(("family", "change", "said"), [
    ("mistral", {"sliding_window": 0}, "window"), ("mistral", {"hidden_act": "gelu"}, "hidden_act"),
    ("mistral", {"layer_types": ["full_attention"] * 4}, "layer_types"),
    ("qwen", {"use_sliding_window": True, "layer_types": ["full_attention"]}, "for each of 4 layers"),
    ("qwen", {"rope_scaling": {"type": "mrope", "mrope_section": [1, 2]}}, "mrope"),
    ("palm", {"use_qk_norm": True}, "use_qk_norm"), ("palm", {"tie_word_embeddings": False}, "tie_word_embeddings"),
    ("palm", {"logit_scale": "big"}, "logit_scale"),
    ("llama", {"sliding_window": 9}, "sliding_window"), ("llama", {"rope_scaling": {"rope_type": "yarn"}}, "factor"),
])
def test_what_we_cannot_compute_is_refused(family, change, said):
    public = FAMILIES[family].config_to_public(FAMILIES[family].presets["tiny"])
    with pytest.raises(UserError, match=said):
        FAMILIES[family].config_from_public({**public, **change})


@pytest.mark.parametrize(("family", "options", "lost"), [
    ("llama", {"window": 64}, "window = 64"), ("llama", {"qk_norm": True}, "qk_norm"),
    ("llama", {"mlp": "gelu"}, "mlp"),
    ("mistral", {"attention": ["full", "window"], "window": 8}, "attention"), ("qwen", {"mlp_bias": True}, "mlp_bias"),
    ("palm", {"parallel": False}, "parallel"), ("palm", {"window": 9}, "window = 9"),
])
def test_a_recipe_that_no_public_format_can_say_is_refused_before_it_is_trained(family, options, lost):
    with pytest.raises(UserError, match=lost) as caught:
        ModelSpec(family=family, depth=2, options=options).resolve(512)
    assert "choose a family that has it" in str(caught.value)
