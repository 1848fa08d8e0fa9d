"""A release: proven, described, and refused when anything in it is not what was proven."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch

from gristmill.core.artifact import Artifact
from gristmill.core.errors import InternalError, UserError
from gristmill.core.stage import StageContext
from gristmill.export import Export, verify_release
from gristmill.models import saving
from gristmill.models.families.llama import LLAMA
from gristmill.models.loading import load_model


def export(lineage: dict[str, Artifact], folder: Path, **options) -> dict:
    folder.mkdir()
    config = Export(model="tuned", **options)
    return config.run(StageContext(name="toy/release@1", seed=0, work=folder, cache=folder.parent, inputs=lineage))


def test_a_release_opens_with_transformers_and_verifies(lineage, tmp_path):
    transformers = pytest.importorskip("transformers")
    out = tmp_path / "release"
    metrics = export(lineage, out, evaluation="scores", licence="Apache-2.0")
    assert metrics["witnesses"] == ["slow reading", "transformers"]
    assert metrics["proof_largest_difference"] < 1e-5
    model = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    ids = tokenizer("def f(x):", return_tensors="pt").input_ids
    with torch.no_grad():
        assert (model(ids).logits - load_model(lineage["tuned"].path)(ids)).abs().max() < 1e-4
    checked = verify_release(out)
    assert checked["files_checked"] >= 6
    proof = json.loads((out / "proof.json").read_text())
    assert len(proof["witnesses"]["slow reading"]["blocks"]) == 3


def test_the_card_tells_data_training_evaluation_and_lineage(lineage, tmp_path):
    export(lineage, tmp_path / "release", evaluation="scores", licence="Apache-2.0", limits=["Knows Python only."])
    card = (tmp_path / "release/README.md").read_text()
    for said in ("license: apache-2.0", "documents: 1,234", "PSF-2.0", "valid_bits_per_byte 1.731", "toy/base@1",
                 "1.731 (1.71 to 1.75)", "**tuned** (this one)", "5-gram (baseline)", "tuned improves on base",
                 "Knows Python only.", lineage["corpus"].digest[:16], "AutoModelForCausalLM"):
        assert said in card, said
    assert card.index("toy/corpus@1 | corpus") < card.index("toy/base@1 | model") < card.index("toy/tuned@1 | model")
    assert str(tmp_path) not in card


def test_the_payload_is_the_same_every_time(lineage, tmp_path):
    for name in ("a", "b"):
        export(lineage, tmp_path / name, name="toy")
    names = {p.name for p in (tmp_path / "a").iterdir()}
    assert names == {"config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "proof.json",
                     "tokenizer_config.json", "special_tokens_map.json", "README.md"}
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)


def test_bfloat16_is_proven_on_the_stored_values(lineage, tmp_path):
    metrics = export(lineage, tmp_path / "release", dtype="bfloat16")
    assert metrics["proof_largest_difference"] < 1e-5
    stored = load_model(tmp_path / "release", dtype=None)
    assert {p.dtype for p in stored.parameters()} == {torch.bfloat16}


def change_one_weight(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    begin = 8 + struct.unpack("<Q", data[:8])[0] + header["model.layers.1.mlp.up_proj.weight"]["data_offsets"][0]
    data[begin : begin + 4] = struct.pack("<f", 3.0)
    path.write_bytes(data)


def test_a_writer_that_spoils_one_weight_is_caught(lineage, tmp_path, monkeypatch):
    write = saving.save_tensors

    def spoil(tensors, folder, shard_bytes):
        write(tensors, folder, shard_bytes)
        change_one_weight(folder)

    monkeypatch.setattr(saving, "save_tensors", spoil)
    with pytest.raises(InternalError, match="first difference at block 1"):
        export(lineage, tmp_path / "release")
    assert not (tmp_path / "release/proof.json").exists()


@pytest.mark.parametrize(("field", "value"), [("rope_theta", 20_000.0), ("rms_norm_eps", 1e-2)])
def test_a_writer_and_a_reader_that_agree_on_a_wrong_number_are_caught(field, value, lineage, tmp_path, monkeypatch):
    stated = LLAMA.config_to_public(load_model(lineage["tuned"].path).config)[field]
    monkeypatch.setitem(LLAMA.__dict__, "config_to_public",
                        lambda config, right=LLAMA.config_to_public: {**right(config), field: value})
    monkeypatch.setitem(LLAMA.__dict__, "config_from_public",
                        lambda public, right=LLAMA.config_from_public: right({**public, field: stated}))
    with pytest.raises(InternalError, match="first difference at block 0"):
        export(lineage, tmp_path / "release")


@pytest.mark.parametrize("how", ["weight", "theta", "tokenizer", "gone"])
def test_a_release_changed_later_is_refused(how, lineage, tmp_path):
    out = tmp_path / "release"
    export(lineage, out)
    name = {"weight": "model.safetensors", "theta": "config.json"}.get(how, "tokenizer.json")
    if how == "weight":
        change_one_weight(out)
    elif how == "theta":
        (out / name).write_text((out / name).read_text().replace("10000.0", "10001.0"))
    elif how == "tokenizer":
        (out / name).write_text((out / name).read_text() + " ")
    else:
        (out / name).unlink()
    with pytest.raises(InternalError, match="not the one that was proven") as caught:
        verify_release(out)
    assert name in str(caught.value)


def test_a_model_without_records_gets_an_honest_card(lineage, tmp_path):
    outside = Artifact.from_folder(lineage["tuned"].path, "model")
    export({"tuned": outside}, tmp_path / "release")
    card = (tmp_path / "release/README.md").read_text()
    assert "Unknown: the records of this model name no corpus." in card
    assert "None was given to this export." in card
    assert "Not stated." in card


def test_no_format_and_no_model_are_refused(tmp_path):
    with pytest.raises(ValueError, match="formats"):
        Export(model="x", formats=[])
    with pytest.raises(UserError):
        verify_release(tmp_path)
