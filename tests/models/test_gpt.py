"""GPT-2 against transformers, and GPT-3's banded attention against the slow reading and GPT-Neo's."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.models import proof
from gristmill.models.families import FAMILIES
from gristmill.models.loading import count_parameters, load_model
from gristmill.models.saving import save_model
from tests.models.public_decoders import check_both_ways, count_of, randomised
from tests.models.random_models import random_decoder

transformers = pytest.importorskip("transformers")
from transformers import GPT2Config, GPT2LMHeadModel  # noqa: E402

GPT2, GPT3 = FAMILIES["gpt2"], FAMILIES["gpt3"]
PUBLISHED = {"124m": 124_439_808, "medium": 354_823_168, "large": 774_030_080, "xl": 1_557_611_200}
TRAITS = {**GPT2.traits, "family": "gpt2", "kv_heads": 4}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_presets_have_the_published_number_of_parameters(preset):
    config = GPT2.presets[preset]
    assert count_parameters(config) == PUBLISHED[preset]
    assert count_of(GPT2LMHeadModel, GPT2Config(**GPT2.config_to_public(config))) == PUBLISHED[preset]


def test_gpt3_has_the_sizes_of_the_papers_table():
    """Table 2.1 names the sizes; 174.6 B is what its last row makes with GPT-2's vocabulary."""
    counts = {name: count_parameters(config) for name, config in GPT3.presets.items() if name != "tiny"}
    assert counts["175b"] == 174_604_259_328
    for name, count in counts.items():
        stated = float(name[:-1]) * (1e6 if name.endswith("m") else 1e9)
        assert abs(count / stated - 1) < 0.025, (name, count)
    config = GPT3.presets["175b"]
    assert [config.layer_window(layer) for layer in range(4)] == [None, 256, None, 256]


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck),
          phases=(Phase.explicit, Phase.generate))
@given(st.data())
def test_gpt2_is_the_public_one_both_ways(tmp_path_factory, data):
    heads = data.draw(st.integers(1, 4))
    config = GPT2Config(
        vocab_size=data.draw(st.integers(11, 70)), n_positions=data.draw(st.integers(24, 40)), n_head=heads,
        n_embd=heads * data.draw(st.integers(4, 9)), n_layer=data.draw(st.integers(1, 3)),
        n_inner=data.draw(st.sampled_from([None, 17, 40])),
        activation_function=data.draw(st.sampled_from(["gelu_new", "gelu", "relu", "gelu_pytorch_tanh"])),
        layer_norm_epsilon=data.draw(st.sampled_from([1e-5, 1e-3])), tie_word_embeddings=data.draw(st.booleans()),
        bos_token_id=None, eos_token_id=None)
    seed = data.draw(st.integers(0, 9))
    check_both_ways(randomised(GPT2LMHeadModel(config), seed), tmp_path_factory.mktemp("gpt2"), seed=seed)


def test_files_without_the_prefix_and_with_stored_masks_are_read(tmp_path):
    """The weights on the hub were saved without the head's prefix, and with the causal mask as a tensor."""
    from safetensors.torch import load_file, save_file

    model = random_decoder(**TRAITS)
    save_model(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
    save_file(bare, tmp_path / "model.safetensors")
    ids = torch.arange(30)[None]
    assert torch.equal(load_model(tmp_path)(ids), model(ids))


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck),
          phases=(Phase.explicit, Phase.generate))
@given(layers=st.integers(1, 4), window=st.integers(1, 30), time=st.integers(1, 40), tied=st.booleans())
def test_gpt3_equals_its_slow_reading_from_the_paper(tmp_path_factory, layers, window, time, tied):
    check_gpt3(tmp_path_factory.mktemp("gpt3"), time, layers=layers, attention=("full", "window"), window=window,
               tied_head=tied)


@pytest.mark.parametrize("numbers", [
    {"window": 3, "dilation": 4}, {"window": 4, "stride": 6}, {"stride": 5}, {"window": 3, "global_tokens": 2},
    {"window": 2, "stride": 3, "global_tokens": 1, "attention_block": 4},
])
def test_sparse_layers_beside_dense_ones_equal_the_slow_reading(numbers, tmp_path):
    check_gpt3(tmp_path, 37, layers=3, attention=("full", "sparse", "sparse"), **numbers)


def check_gpt3(folder, time, **changes) -> None:
    model = random_decoder(**{**TRAITS, "family": "gpt3", **changes})
    save_model(model, folder)
    inputs = {"input_ids": torch.tensor([proof.proof_ids(97, time)])}
    assert proof.compare(proof.trace(model, inputs), proof.trace_reference(folder, inputs))["largest"] < 1e-5
    again = load_model(folder)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))
    assert not proof.has_transformers(model.config)


@pytest.mark.parametrize(("family", "changes", "lost"), [
    ("gpt2", {"attention": ("window",), "window": 5}, "window = 5"), ("gpt2", {"qkv_bias": False}, "qkv_bias = False"),
    ("gpt3", {"parallel": True}, "parallel = True"), ("gpt3", {"positions": "rotary"}, "positions = 'rotary'"),
])
def test_what_the_public_format_has_no_word_for_is_not_written(family, changes, lost, tmp_path):
    with pytest.raises(UserError, match=lost):
        save_model(random_decoder(**{**TRAITS, "family": family, **changes}), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_the_band_is_gpt_neos():
    """Without biases on queries, keys and values, and with its missing scale put into the queries, GPT-Neo is GPT-3."""
    window, heads, dim = 7, 4, 32
    config = transformers.GPTNeoConfig(
        vocab_size=61, hidden_size=dim, num_layers=4, num_heads=heads, intermediate_size=50, window_size=window,
        max_position_embeddings=64, attention_types=[[["global", "local"], 2]], resid_dropout=0.0, embed_dropout=0.0,
        attention_dropout=0.0)
    neo = randomised(transformers.GPTNeoForCausalLM(config), 3)
    ours = random_decoder(**{**TRAITS, "family": "gpt3", "layers": 4, "attention": ("full", "window"),
                             "window": window, "qkv_bias": False, "vocab_size": 61, "mlp_dim": 50})
    public = neo.state_dict()
    names = {"embedding.weight": "wte.weight", "positions.weight": "wpe.weight", "norm.weight": "ln_f.weight",
             "norm.bias": "ln_f.bias"}
    parts = {"attention_norm": "ln_1", "mlp_norm": "ln_2", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj",
             "attention.query": "attn.attention.q_proj", "attention.key": "attn.attention.k_proj",
             "attention.value": "attn.attention.v_proj", "attention.output": "attn.attention.out_proj"}
    state = {}
    for name in ours.state_dict():
        stem, _, ending = name.rpartition(".")
        if name in names:
            state[name] = public["transformer." + names[name]]
            continue
        _, layer, part = stem.split(".", 2)
        state[name] = public[f"transformer.h.{layer}.{parts[part]}.{ending}"]
        if part == "attention.query":
            state[name] = state[name] * (dim // heads) ** 0.5
    ours.load_state_dict(state)
    ids = torch.randint(0, 61, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = neo(ids).logits
        assert (ours(ids) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("change", "said"), [
    ({"activation_function": "swish"}, "activation_function"),
    ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ({"add_cross_attention": True}, "add_cross_attention"), ({"embd_pdrop": 0.3}, "embd_pdrop"),
    ({"n_head": 5}, "cannot be cut"), ({"n_embd": "wide"}, "n_embd is 'wide'"), ({"n_layer": 0}, "layers"),
])
def test_what_we_cannot_compute_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        GPT2.config_from_public({**GPT2.config_to_public(GPT2.presets["tiny"]), **change})


def test_a_band_for_some_layers_only_must_name_all_of_them(tmp_path):
    save_model(random_decoder(**{**TRAITS, "family": "gpt3", "attention": ("full", "window"), "window": 4}), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "attention_layers": ["global", "local"]}))
    with pytest.raises(UserError, match="attention_layers"):
        load_model(tmp_path)


def test_a_text_longer_than_the_learned_positions_is_refused_by_name():
    model = random_decoder(**TRAITS)
    assert model(torch.zeros(1, 64, dtype=torch.int64)).shape == (1, 64, 97)
    with pytest.raises(UserError, match="65 tokens does not fit a model that has learned 64 positions"):
        model(torch.zeros(1, 65, dtype=torch.int64))
    packed = torch.arange(2).repeat_interleave(40)[None]
    assert model(torch.zeros(1, 80, dtype=torch.int64), document_ids=packed).shape == (1, 80, 97)
    with pytest.raises(UserError, match="70 tokens"):
        model(torch.zeros(1, 80, dtype=torch.int64), document_ids=torch.tensor([[0] * 70 + [1] * 10]))
