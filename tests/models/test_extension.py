"""A longer context for a trained model: equal to the public one, and text past the old end becomes readable."""

from __future__ import annotations

import pytest
import torch

import gristmill
from gristmill.core.errors import UserError
from gristmill.core.stage import StageContext
from gristmill.generation import Engine, LanguageModel, Sampling
from gristmill.models import proof
from gristmill.models.extension import extend_context, extended_config, trained_context
from gristmill.models.families import FAMILIES
from gristmill.models.import_stage import ImportModel
from gristmill.models.loading import load_model
from gristmill.models.saving import save_model
from tests.models.random_models import random_decoder
from tests.shared import DATA

MODEL_DATA = DATA / "model"
BIN = MODEL_DATA / "aidreams260K.bin"
WAYS = {"yarn": {"context": 256}, "linear": {"context": 256, "rope_scaling": "linear"},
        "dynamic": {"rope_scaling": "dynamic"}, "a dictionary": {"rope_scaling": {"type": "linear", "factor": 3}}}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("start", ["plain", "already by yarn"])
def test_an_extended_model_equals_the_public_one_past_the_old_context(way, start, tmp_path):
    """48 to 200 tokens, by the models of transformers and by the slow reading, from the folder that we write."""
    pytest.importorskip("transformers")
    old = None if start == "plain" else {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}
    model = random_decoder(rope_scaling=old)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if way == "dynamic" and old:
        with pytest.raises(UserError, match="stays 32"):
            extend_context(model, **WAYS[way])
        return
    save_model(model, tmp_path / "old")
    extend_context(model, **WAYS[way])
    opened = load_model(tmp_path / "old", **WAYS[way])
    assert opened.config == model.config
    save_model(model, tmp_path / "new")
    assert load_model(tmp_path / "new").config == model.config
    for length in (40, 200):
        inputs = {"input_ids": torch.tensor([proof.proof_ids(97, length)])}
        ours = proof.trace(opened, inputs)
        assert proof.compare(ours, proof.trace(model, inputs))["largest"] == 0
        for other in (proof.trace_transformers, proof.trace_reference):
            assert proof.compare(ours, other(tmp_path / "new", inputs))["largest"] < 1e-5, (length, other)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_the_factor_follows_from_the_trained_context():
    config = FAMILIES["llama"].presets["tiny"]
    yarn = extended_config(config, 1024)
    assert yarn.rope_scaling == {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    assert extended_config(yarn, 2048).rope_scaling["factor"] == 8.0
    linear = extended_config(config, 768, "linear")
    assert linear.rope_scaling == {"rope_type": "linear", "factor": 3.0}
    assert trained_context(linear) == trained_context(yarn) == 256
    assert extended_config(linear, 1024).rope_scaling == yarn.rope_scaling
    assert extended_config(config, 128) == extended_config(extended_config(config, 128), 128)
    assert extended_config(config, 1024, "none").rope_scaling is None
    llama3 = FAMILIES["llama"].presets["llama-3.2-1b"]
    assert extended_config(llama3, 4096).rope_scaling == llama3.rope_scaling


@pytest.mark.parametrize(("change", "said"), [
    ({"context": 100, "rope_scaling": "yarn"}, "needs no scaling"), ({"rope_scaling": "alibi"}, "'alibi' is not known"),
    ({"context": 512, "rope_scaling": "dynamic"}, "stays 256"), ({"context": 0}, "context"),
    ({"rope_scaling": {"rope_type": "yarn"}}, "lacks factor"), ({"rope_scaling": {"rope_type": "ntk"}}, "'ntk'"),
])
def test_what_makes_no_sense_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        extended_config(FAMILIES["llama"].presets["tiny"], **change)


def test_only_rotary_positions_stretch():
    for family in ("gpt2", "bert"):
        with pytest.raises(UserError, match="no rotary positions"):
            extended_config(FAMILIES[family].presets["tiny"], 4096)


def test_dynamic_scaling_reads_long_texts_alone_only():
    model = extend_context(random_decoder(), rope_scaling="dynamic")
    ids = torch.arange(90)[None]
    short = torch.cat([torch.zeros(40, dtype=torch.int64), torch.ones(50, dtype=torch.int64)])[None]
    torch.testing.assert_close(model(ids, document_ids=short)[:, 40:], model(ids[:, 40:]), atol=2e-4, rtol=1e-4)
    with pytest.raises(UserError, match="its length would change the others"):
        model(ids, document_ids=torch.zeros_like(ids).index_fill(1, torch.arange(80, 90), 1))
    assert Engine(model).context == 64


def own_text(model, tokens: int) -> torch.Tensor:
    """What the model writes itself, many short texts one after the other: (1, tokens)."""
    outputs = Engine(model, slots=12).generate(
        [[1]] * 12, [Sampling(max_tokens=100, temperature=0.8, seed=seed, stop_ids=(1, 2)) for seed in range(12)])
    ids = [token for out in outputs for token in (1, *out.tokens) if token != 2]
    assert len(ids) >= tokens
    return torch.tensor([ids[:tokens]])


@pytest.mark.skipif(not BIN.exists(), reason="the shared test data are not here")
@torch.no_grad()
def test_a_real_model_reads_four_times_its_context():
    """Measured: 2.8 nats a token past the old end without scaling, 1.7 with yarn, 1.9 with dynamic scaling; 3.1 with
    linear scaling, which is made for training on."""
    plain = load_model(BIN)
    row, old = own_text(plain, 512), plain.config.context
    assert old == 128

    def past(model) -> float:
        logs = model(row)[0].log_softmax(-1)
        return float(-logs[old - 1 : -1].gather(-1, row[0, old:, None]).mean())

    before = past(plain)
    assert past(load_model(BIN, context=512)) < before - 0.5
    assert past(load_model(BIN, rope_scaling="dynamic")) < before - 0.3


def test_a_user_opens_and_imports_with_a_longer_context(tmp_path):
    from tests.export.conftest import byte_level

    LanguageModel(random_decoder(vocab_size=320), byte_level()).save(tmp_path / "public")
    lm = gristmill.load(tmp_path / "public", context=128)
    assert lm.engine.context == 128
    assert len(lm.generate("x" * 80, max_tokens=30, greedy=True).token_ids) > 0
    with pytest.raises(UserError, match="no room for an answer"):
        gristmill.load(tmp_path / "public").generate("x" * 80, max_tokens=30)

    work = tmp_path / "imported"
    work.mkdir()
    ImportModel(source=str(tmp_path / "public"), context=128, rope_scaling="linear").run(
        StageContext(name="toy/import@1", seed=0, work=work, cache=tmp_path / "cache"))
    imported = load_model(work).config
    assert (imported.context, imported.rope_scaling) == (128, {"rope_type": "linear", "factor": 2.0})
    with pytest.raises(ValueError, match="context"):
        ImportModel(source="x", context=1)
