"""Exact parameter counts, from presets and from folders that hold nothing but a public config.json."""

from __future__ import annotations

import json

import pytest

from gristmill.cli.plan_source import config_of, read_source
from gristmill.core.errors import UserError
from gristmill.models.families import FAMILIES
from gristmill.planning.anatomy import anatomy
from gristmill.planning.model import plan_model

GOLDEN = {
    "gpt2:124m": 124_439_808, "gpt2:xl": 1_557_611_200, "llama:llama-2-7b": 6_738_415_616,
    "llama:llama-3-8b": 8_030_261_248, "llama:llama-3-70b": 70_553_706_496, "llama:llama-3.1-405b": 405_853_388_800,
    "llama:llama-3.2-1b": 1_235_814_400, "qwen:qwen2.5-0.5b": 494_032_768, "llama:smollm2-135m": 134_515_008,
    "llama:tinyllama-1.1b": 1_100_048_384,
    # What others publish, or transformers counts for the class that the preset is saved as.
    "bert:base": 110_106_428, "bert:large": 336_226_108, "roberta:base": 124_697_433, "t5:small": 60_506_624,
    "t5:base": 222_903_552, "t5:large": 737_668_096, "t5:3b": 2_851_598_336, "t5:11b": 11_307_321_344,
    "mixtral:mixtral-8x7b": 46_702_792_704,
}
COMPLETE = {"experts", "attention", "mlp", "embedding", "positions", "norms", "head", "router", "other"}


@pytest.mark.parametrize("name", GOLDEN)
def test_counts_are_exact(name):
    assert anatomy(read_source(name).config).total == GOLDEN[name]


def test_gpt3_has_174_6_billion():
    assert anatomy(read_source("gpt3:175b").config).total / 1e9 == pytest.approx(174.6, abs=0.005)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_config_alone_is_enough(family, tmp_path):
    for name, preset in FAMILIES[family].presets.items():
        public = FAMILIES[family].config_to_public(preset)
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(public))
        found = read_source(str(folder))
        assert found.name == name
        assert anatomy(found.config).total == anatomy(preset).total
        assert anatomy(config_of(public)).total == anatomy(preset).total


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_json_is_complete_and_adds_up(family):
    for source in (family, f"{family}:{list(FAMILIES[family].presets)[-1]}"):
        value = plan_model(source, read_source(source).config).as_json()
        parameters = value["parameters"]
        assert set(parameters) - {"total", "active", "matmul", "largest_block"} <= COMPLETE
        assert sum(n for part, n in parameters.items() if part in COMPLETE) == parameters["total"]
        assert parameters["active"] <= parameters["total"]
        assert value["weights_bytes"]["bf16"] == 2 * parameters["total"]
        counted = value["flops_per_token"]
        assert counted["train"] == pytest.approx(counted["matmul"]["train"] + counted["attention"]["train"])
        assert counted["attention"]["train"] <= counted["attention"]["train_full"]
        json.dumps(value)


def test_the_cache_of_a_token_is_two_times_layers_times_key_heads():
    value = plan_model("x", FAMILIES["llama"].presets["llama-3-8b"]).as_json()
    assert value["kv_cache_bytes_per_token"]["bf16"] == 2 * 32 * 8 * 128 * 2
    assert value["kv_cache_bytes_at_context"]["bf16"] == 2 * 32 * 8 * 128 * 2 * 8192
    windowed = plan_model("x", FAMILIES["mistral"].presets["mistral-7b"], 32_768).as_json()
    assert windowed["kv_cache_bytes_at_context"]["bf16"] == 2 * 32 * 8 * 128 * 2 * 4096
    assert plan_model("x", FAMILIES["bert"].presets["base"]).as_json()["kv_cache_bytes_per_token"]["bf16"] == 0


def test_rows_have_tokens():
    config = FAMILIES["llama"].presets["tiny"]
    for wrong in ({"context": 0}, {"context": -5}, {"targets": 0}):
        with pytest.raises(UserError, match="tokens a row"):
            plan_model("x", config, **wrong)


@pytest.mark.parametrize(("text", "said"), [
    ("lama", "is no family"), ("llama:9b", "no preset"), ("no/such/folder", "no recipe and no folder"),
    ("gpt2:no", "choose one of"),
])
def test_unknown_models_name_the_known(text, said):
    with pytest.raises(UserError) as caught:
        read_source(text)
    assert said in str(caught.value)


def test_an_architecture_that_is_not_ours_names_ours():
    with pytest.raises(UserError, match="FalconForCausalLM") as caught:
        config_of({"architectures": ["FalconForCausalLM"]})
    assert "LlamaForCausalLM" in str(caught.value)
