"""RoBERTa and XLM-R against transformers: positions after the padding token, another head, another vocabulary."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gristmill.core.errors import UserError
from gristmill.models.families import FAMILIES
from gristmill.models.loading import count_parameters, load_model
from gristmill.models.saving import save_model
from gristmill.models.spec import ModelSpec
from tests.models.random_encoders import (
    check_family,
    check_training_folder,
    configs,
    public_model,
    random_encoder,
    tiny_config,
)

PUBLISHED = {("roberta", "base"): 124_697_433, ("roberta", "large"): 355_412_057,
             ("xlm-roberta", "base"): 278_295_186, ("xlm-roberta", "large"): 560_142_482}
CLASSES = {"roberta": "RobertaForMaskedLM", "xlm-roberta": "XLMRobertaForMaskedLM"}


@pytest.mark.parametrize(("family", "preset"), PUBLISHED)
def test_a_preset_has_the_public_number_of_parameters(family, preset):
    assert count_parameters(FAMILIES[family].presets[preset]) == PUBLISHED[family, preset]


@pytest.mark.parametrize("family", CLASSES)
@given(data=st.data(), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_random_models_equal_the_public_ones(family, data, seed):
    pytest.importorskip("transformers")
    with tempfile.TemporaryDirectory() as folder:
        check_family(data.draw(configs(family)), Path(folder), seed)


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_of_transformers_is_read_and_written_back(family, tied, tmp_path):
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, CLASSES[family])
    config = kind.config_class(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        max_position_embeddings=20, type_vocab_size=1, pad_token_id=1, initializer_range=0.3, tie_word_embeddings=tied)
    check_training_folder(tmp_path, config, kind)


def test_positions_begin_after_the_padding_token(tmp_path):
    """Rows 2, 3, 4 of the table for three tokens with padding token 1; the rows before are never read."""
    transformers = pytest.importorskip("transformers")
    model = random_encoder(tiny_config("roberta"))
    ids = torch.tensor([[5, 6, 7]])
    expected = model(ids)
    with torch.no_grad():
        model.embedding.positions.weight[:2] = 1e6
    assert torch.equal(model(ids), expected)
    assert torch.equal(model(ids, position_ids=torch.tensor([[2, 3, 4]])), expected)
    save_model(model, tmp_path)
    theirs = public_model(tmp_path)
    assert isinstance(theirs, transformers.RobertaForMaskedLM)
    made = theirs.roberta.embeddings.create_position_ids_from_input_ids(torch.tensor([[5, 6, 7, 1, 1]]), 1)
    assert made.tolist() == [[2, 3, 4, 1, 1]]


def test_positions_restart_in_every_document_and_padding_changes_nothing():
    model = random_encoder(tiny_config("roberta"))
    ids = torch.randint(3, 61, (1, 16), generator=torch.Generator().manual_seed(0))
    packed = model(ids, document_ids=torch.tensor([[0] * 7 + [1] * 9]))
    torch.testing.assert_close(packed[:, :7], model(ids[:, :7]), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(packed[:, 7:], model(ids[:, 7:]), atol=2e-5, rtol=1e-5)
    padded = torch.cat([ids[:, :7], torch.ones(1, 5, dtype=torch.int64)], dim=1)
    found = model(padded, document_ids=torch.tensor([[0] * 7 + [-1] * 5]))
    torch.testing.assert_close(found[:, :7], model(ids[:, :7]), atol=2e-5, rtol=1e-5)


def test_a_pooler_that_old_files_carry_is_left_out(tmp_path):
    model = random_encoder(tiny_config("roberta"))
    save_model(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    extra = {"roberta.pooler.dense.weight": torch.zeros(24, 24), "roberta.pooler.dense.bias": torch.zeros(24)}
    save_file({**tensors, **extra}, tmp_path / "model.safetensors")
    ids = torch.arange(3, 9)[None]
    assert torch.equal(load_model(tmp_path)(ids), model(ids))


def test_the_written_config_names_the_padding_token_that_positions_hang_on(tmp_path):
    """Whatever the tokenizer's padding token is called, public code must count positions as the model was trained."""
    from gristmill.core.files import read_json

    save_model(random_encoder(tiny_config("roberta", pad_id=4)), tmp_path)
    written = read_json(tmp_path / "config.json")
    assert written["pad_token_id"] == 4
    assert written["max_position_embeddings"] == 32 + 5


@pytest.mark.parametrize(("changes", "field"), [
    ({"offset_positions": False}, "offset_positions"), ({"next_sentence": True}, "next_sentence"),
    ({"segments": 0}, "segments"), ({"transform": "relu"}, "transform"), ({"heads": 7}, "heads"),
])
def test_impossible_configs_are_refused_by_name(changes, field):
    with pytest.raises(ValueError, match=f"^{field}: "):
        dataclasses.replace(tiny_config("roberta"), **changes)


def test_too_few_positions_are_refused():
    public = FAMILIES["roberta"].config_to_public(FAMILIES["roberta"].presets["base"])
    with pytest.raises(UserError, match="positions begin at"):
        FAMILIES["roberta"].config_from_public({**public, "max_position_embeddings": 2})


@pytest.mark.parametrize("family", CLASSES)
def test_a_model_from_scratch_counts_from_our_padding_token(family):
    config, _ = ModelSpec(family=family, depth=2, context=64).resolve(300)
    assert (config.family, config.pad_id, config.first_position, config.segments) == (family, 0, 1, 1)
