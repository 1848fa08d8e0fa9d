"""Public folders in both directions, with transformers and our own slow reader as oracles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gristmill.core.errors import InternalError, UserError
from gristmill.models import proof
from gristmill.models.loading import load_model, read_safetensors
from gristmill.models.saving import save_model
from tests.models.random_models import random_decoder

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}
SHAPES = {
    "plain": {}, "tied": {"tied_head": True}, "one kv head": {"kv_heads": 1}, "as many kv heads": {"kv_heads": 4},
    "wide heads": {"head_dim": 20}, "biases": {"qkv_bias": True, "output_bias": True, "mlp_bias": True},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 3.0}}, "llama3": {"rope_scaling": LLAMA3},
    "theta": {"rope_theta": 77.0, "norm_eps": 1e-3},
}


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_and_the_slow_reader_compute_the_same_from_what_we_write(shape, tmp_path, transformers):
    model = random_decoder(**SHAPES[shape])
    save_model(model, tmp_path)
    inputs = {"input_ids": torch.tensor([proof.proof_ids(97, 40)])}
    ours = proof.trace(model, inputs)
    for other in (proof.trace_transformers(tmp_path, inputs), proof.trace_reference(tmp_path, inputs)):
        found = proof.compare(ours, other)
        assert found["largest"] < 1e-5
        assert found["same_greedy_tokens"]
    again = load_model(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert torch.equal(again(**inputs), model(**inputs))


@pytest.mark.parametrize("tied", [True, False])
def test_we_compute_the_same_from_what_transformers_writes(tied, tmp_path, transformers):
    torch.manual_seed(3)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=40, max_position_embeddings=64, initializer_range=0.3, tie_word_embeddings=tied,
        rope_parameters={"rope_theta": 500.0, **LLAMA3},
    )).eval()
    theirs.save_pretrained(tmp_path)
    ids = torch.randint(0, 64, (2, 30), generator=torch.Generator().manual_seed(0))
    ours = load_model(tmp_path)
    with torch.no_grad():
        expected, found = theirs(ids).logits, ours(ids)
    assert (expected - found).abs().max() < 1e-5 * expected.abs().max()
    row = {"input_ids": ids[:1]}
    assert proof.compare(proof.trace(ours, row), proof.trace_reference(tmp_path, row))["largest"] < 1e-5

    long = theirs.generate(ids[:1, :5], attention_mask=torch.ones(1, 5), max_new_tokens=20, do_sample=False,
                           eos_token_id=None, pad_token_id=0)[0]
    grown = ids[:1, :5]
    with torch.no_grad():
        for _ in range(20):
            grown = torch.cat([grown, ours(grown)[:, -1:].argmax(-1)], dim=1)
    assert grown[0].tolist() == long.tolist()


def test_same_model_same_bytes_and_a_tied_head_is_stored_once(tmp_path):
    model = random_decoder(tied_head=True)
    for name in ("a", "b"):
        save_model(model, tmp_path / name)
    data = (tmp_path / "a/model.safetensors").read_bytes()
    assert data == (tmp_path / "b/model.safetensors").read_bytes()
    assert b"lm_head" not in data
    assert b'"format":"pt"' in data


def test_shards_are_written_and_read(tmp_path, transformers):
    model = random_decoder()
    save_model(model, tmp_path, shard_bytes=20_000)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    inputs = {"input_ids": torch.tensor([proof.proof_ids(97, 20)])}
    ours = proof.trace(load_model(tmp_path), inputs)
    assert proof.compare(ours, proof.trace(model, inputs))["largest"] == 0
    assert proof.compare(ours, proof.trace_transformers(tmp_path, inputs))["largest"] < 1e-5
    assert proof.compare(ours, proof.trace_reference(tmp_path, inputs))["largest"] < 1e-5

    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(UserError, match="missing"):
        load_model(tmp_path)


def test_rotary_tables_stay_fp32_in_a_bf16_model(tmp_path):
    save_model(random_decoder(), tmp_path, dtype=torch.bfloat16)
    model = load_model(tmp_path, dtype=None)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.rotary.frequencies.dtype == torch.float32
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert {p.dtype for p in load_model(tmp_path).parameters()} == {torch.float32}


def damaged(folder: Path, how: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    if how == "cut short":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "not safetensors":
        weights.write_bytes(b"\x80\x04pickle?")
    elif how == "no weights":
        weights.unlink()
    elif how == "no config":
        config.unlink()
    elif how == "other architecture":
        config.write_text(config.read_text().replace("LlamaForCausalLM", "FalconForCausalLM"))
    elif how == "other shape":
        config.write_text(config.read_text().replace('"intermediate_size": 48', '"intermediate_size": 47'))
    elif how == "broken config":
        config.write_text("{")


@pytest.mark.parametrize(("how", "said"), [
    ("cut short", "damaged or cut short"), ("not safetensors", "damaged or cut short"), ("no weights", "no weights"),
    ("no config", "missing"), ("other architecture", "supported: LlamaForCausalLM"), ("other shape", "another shape"),
    ("broken config", "not valid JSON"),
])
def test_damaged_folders_are_refused_with_a_reason(how, said, tmp_path):
    save_model(random_decoder(), tmp_path)
    damaged(tmp_path, how)
    with pytest.raises(UserError, match=said):
        load_model(tmp_path)


@pytest.mark.parametrize("files", [1, 3])
def test_bin_files_are_read_whole_or_in_shards(files, tmp_path):
    model = random_decoder()
    save_model(model, tmp_path)
    tensors = read_safetensors(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    if files == 1:
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    else:
        shards = {f"pytorch_model-{i + 1:05d}-of-{files:05d}.bin": names[i::files] for i in range(files)}
        for file, held in shards.items():
            torch.save({name: tensors[name] for name in held}, tmp_path / file)
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(
            {"weight_map": {name: file for file, held in shards.items() for name in held}}))
    read = load_model(tmp_path).state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in model.state_dict().items())
    lost = sorted(tmp_path.glob("pytorch_model*.bin"))[-1]
    lost.unlink()
    with pytest.raises(UserError, match="missing" if files > 1 else "no weights"):
        load_model(tmp_path)


def test_a_pickle_that_holds_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    save_model(random_decoder(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Trap()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="more than weights"):
        load_model(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_an_index_cannot_lead_out_of_the_folder(tmp_path):
    save_model(random_decoder(), tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path.parent / "elsewhere.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}))
    with pytest.raises(UserError, match="no file of this folder"):
        load_model(tmp_path)


def test_a_proof_finds_one_changed_weight_and_names_the_block(tmp_path):
    model = random_decoder()
    save_model(model, tmp_path)
    with torch.no_grad():
        model.blocks[1].mlp.up.weight[3, 5] += 0.5
    with pytest.raises(InternalError, match="first difference at block 1"):
        proof.prove(model, {"slow reading": lambda inputs: proof.trace_reference(tmp_path, inputs)}, "here")


def test_a_proof_runs_in_full_precision_whatever_training_left(tmp_path):
    model, seen = random_decoder(), []
    save_model(model, tmp_path)

    def witness(inputs):
        seen.append((torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))
        return proof.trace_reference(tmp_path, inputs)

    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            proof.prove(model, {"slow reading": witness}, "here")
        assert seen == [("highest", False)]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
