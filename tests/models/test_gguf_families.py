"""GGUF files of GPT-2, Qwen and Mistral, written here with the names and orders of llama.cpp's own converter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gristmill.core.errors import UserError
from gristmill.models import proof
from gristmill.models.loading import load_model
from tests.models.random_models import random_decoder

gguf = pytest.importorskip("gguf")
from gguf import GGMLQuantizationType as Q  # noqa: E402

QWEN = {"attn_norm": "attention_norm", "attn_q": "attention.query", "attn_k": "attention.key",
        "attn_v": "attention.value", "attn_output": "attention.output", "attn_q_norm": "attention.query_norm",
        "attn_k_norm": "attention.key_norm", "ffn_norm": "mlp_norm", "ffn_gate": "mlp.gate", "ffn_up": "mlp.up",
        "ffn_down": "mlp.down"}
GPT2 = {"attn_norm": "attention_norm", "attn_output": "attention.output", "ffn_norm": "mlp_norm", "ffn_up": "mlp.up",
        "ffn_down": "mlp.down"}
FAMILIES = {
    "qwen2": {"family": "qwen", "qkv_bias": True, "tied_head": True, "norm_eps": 1e-6, "rope_theta": 1_000_000.0},
    "qwen3": {"family": "qwen", "qk_norm": True, "head_dim": 16, "norm_eps": 1e-6},
    "gpt2": {"family": "gpt2", "positions": "learned", "norm": "layer", "mlp": "gelu_tanh", "tied_head": True,
             "qkv_bias": True, "output_bias": True, "mlp_bias": True, "kv_heads": 4},
    "llama": {"family": "mistral", "window": 9},
}


def write(path, architecture, model, kind=Q.F32, change=None):
    c, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_vocab_size(c.vocab_size)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.dim)
    writer.add_block_count(c.layers)
    writer.add_feed_forward_length(c.mlp_dim)
    writer.add_head_count(c.heads)
    if architecture == "gpt2":
        writer.add_layer_norm_eps(c.norm_eps)
    else:
        writer.add_head_count_kv(c.kv_heads)
        writer.add_key_length(c.head_dim)
        writer.add_rope_freq_base(c.rope_theta)
        writer.add_layer_norm_rms_eps(c.norm_eps)
    if c.window:
        writer.add_sliding_window(c.window)
    top = {"token_embd": "embedding", "position_embd": "positions", "output_norm": "norm", "output": "head"}
    tensors = {f"{theirs}.{part}": state[f"{ours}.{part}"] for theirs, ours in top.items()
               for part in ("weight", "bias") if f"{ours}.{part}" in state}
    for i in range(c.layers):
        for theirs, ours in (GPT2 if architecture == "gpt2" else QWEN).items():
            for part in ("weight", "bias"):
                if f"blocks.{i}.{ours}.{part}" in state:
                    tensors[f"blk.{i}.{theirs}.{part}"] = state[f"blocks.{i}.{ours}.{part}"]
        if architecture == "gpt2":
            for part in ("weight", "bias"):
                tensors[f"blk.{i}.attn_qkv.{part}"] = torch.cat(
                    [state[f"blocks.{i}.attention.{name}.{part}"] for name in ("query", "key", "value")])
        if architecture == "llama":  # whose converter turns the rows into neighbouring pairs
            for name, heads in (("attn_q", c.heads), ("attn_k", c.kv_heads)):
                weight = tensors[f"blk.{i}.{name}.weight"]
                tensors[f"blk.{i}.{name}.weight"] = weight.reshape(heads, 2, -1, c.dim).swapaxes(1, 2).reshape(
                    weight.shape)
    if change:
        change(tensors)
    for name, tensor in tensors.items():
        array = tensor.numpy().astype(np.float32)
        if array.ndim == 1 or kind == Q.F32 or "position" in name:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("architecture", FAMILIES)
def test_weights_and_config_come_back(architecture, tmp_path):
    model = random_decoder(**FAMILIES[architecture])
    write(tmp_path / "m.gguf", architecture, model)
    read = load_model(tmp_path / "m.gguf")
    assert read.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(read.state_dict().values(), model.state_dict().values(), strict=True))
    inputs = {"input_ids": torch.tensor([proof.proof_ids(97, 30)])}
    found = proof.compare(proof.trace(read, inputs), proof.trace_reference(tmp_path / "m.gguf", inputs))
    assert found["largest"] < 1e-5


@pytest.mark.parametrize("kind", [Q.Q8_0, Q.Q4_0, Q.Q4_1])
@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
def test_quantised_files_are_what_the_package_itself_reads(architecture, kind, tmp_path):
    model = random_decoder(**{**FAMILIES[architecture], "mlp_dim": 64, "head_dim": 8})
    write(tmp_path / "m.gguf", architecture, model, kind)
    read, state = load_model(tmp_path / "m.gguf").state_dict(), model.state_dict()
    for name in ("embedding.weight", "blocks.1.attention.key.weight", "blocks.2.mlp.down.weight"):
        stored = gguf.quants.dequantize(gguf.quants.quantize(state[name].numpy(), kind), kind)
        assert np.array_equal(read[name].numpy(), stored), name
    inputs = {"input_ids": torch.tensor([proof.proof_ids(97, 20)])}
    found = proof.compare(proof.trace(load_model(tmp_path / "m.gguf"), inputs),
                          proof.trace_reference(tmp_path / "m.gguf", inputs))
    assert found["largest"] < 1e-5


@pytest.mark.parametrize(("change", "said"), [
    (lambda tensors: tensors.pop("blk.1.attn_q_norm.weight"), r"missing: blocks\.1\.attention\.query_norm"),
    (lambda tensors: tensors.update({"blk.0.ssm_a.weight": torch.zeros(3)}), r"unexpected: blk\.0\.ssm_a"),
    (lambda tensors: tensors.update({"blk.0.ffn_up.weight": torch.zeros(3, 3)}), r"blocks\.0\.mlp\.up\.weight is"),
])
def test_what_does_not_fit_is_listed(change, said, tmp_path):
    write(tmp_path / "m.gguf", "qwen3", random_decoder(**FAMILIES["qwen3"]), change=change)
    with pytest.raises(UserError, match=said):
        load_model(tmp_path / "m.gguf")


def test_other_architectures_are_refused_with_the_list(tmp_path):
    write(tmp_path / "m.gguf", "falcon", random_decoder(**FAMILIES["qwen3"]))
    with pytest.raises(UserError, match="'falcon' is not supported") as caught:
        load_model(tmp_path / "m.gguf")
    assert "llama, qwen2, qwen3, gpt2" in str(caught.value)
