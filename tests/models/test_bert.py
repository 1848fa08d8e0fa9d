"""BERT against transformers: states, logits, both losses, gradients, files; its presets; what it refuses."""

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
from gristmill.core.files import read_json, write_json
from gristmill.models.families import FAMILIES
from gristmill.models.loading import count_parameters, load_model
from gristmill.models.saving import save_model
from gristmill.models.spec import ModelSpec
from tests.models.random_encoders import check_family, check_training_folder, configs, random_encoder, tiny_config

BERT = FAMILIES["bert"]
PUBLISHED = {
    "base": 110_106_428, "large": 336_226_108, "base-cased": 108_932_934, "tiny": 4_433_468, "mini": 11_267_900,
    "small": 29_058_876, "medium": 41_668_412, "large-cased": 334_661_958, "base-multilingual-cased": 178_566_653,
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_a_preset_has_the_public_number_of_parameters(preset):
    assert count_parameters(BERT.presets[preset]) == PUBLISHED[preset]


def test_the_public_class_counts_the_same():
    transformers = pytest.importorskip("transformers")
    for preset in ("base", "large-cased"):
        public = BERT.config_to_public(BERT.presets[preset])
        fields = {k: v for k, v in public.items() if k not in ("architectures", "model_type")}
        with torch.device("meta"):
            theirs = transformers.BertForPreTraining(transformers.BertConfig(**fields))
        assert sum(p.numel() for p in theirs.parameters()) == PUBLISHED[preset]


@given(configs("bert"), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_random_models_equal_the_public_ones(config, seed):
    pytest.importorskip("transformers")
    with tempfile.TemporaryDirectory() as folder:
        check_family(config, Path(folder), seed)


@pytest.mark.parametrize("kind", ["BertForPreTraining", "BertForMaskedLM"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_of_transformers_is_read_and_written_back(kind, tied, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        max_position_embeddings=20, initializer_range=0.3, tie_word_embeddings=tied)
    check_training_folder(tmp_path, config, getattr(transformers, kind))


def test_a_file_of_the_first_days_opens(tmp_path):
    """bert-base-uncased calls the norms' parameters gamma and beta and carries heads that its class does not use."""
    config = tiny_config("bert", next_sentence=True)
    model = random_encoder(config)
    save_model(model, tmp_path)
    public = load_file(tmp_path / "model.safetensors")
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
           for name, tensor in public.items()}
    old["cls.predictions.decoder.weight"] = public["bert.embeddings.word_embeddings.weight"].clone()
    old["bert.embeddings.position_ids"] = torch.arange(32)[None]
    save_file(old, tmp_path / "model.safetensors")
    ids = torch.arange(10)[None]
    assert torch.equal(load_model(tmp_path)(ids), model(ids))
    content = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", {**content, "architectures": ["BertForMaskedLM"]})
    plain = load_model(tmp_path)
    assert not plain.config.next_sentence
    assert torch.equal(plain(ids), model(ids))


def test_no_token_sees_another_document():
    model = random_encoder(tiny_config("bert"))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 61, (1, 20), generator=generator)
    documents = torch.tensor([[0] * 7 + [1] * 9 + [-1] * 4])
    base = model(ids, document_ids=documents)
    for place in range(20):
        changed = ids.clone()
        changed[0, place] = (changed[0, place] + 1) % 61
        moved = (model(changed, document_ids=documents) - base).abs().amax(-1)[0] > 0
        same = documents[0] == documents[0, place]
        assert not moved[~same].any(), place
        assert moved[same].all(), "every token of the document sees every other"


def test_packed_documents_give_the_logits_of_each_alone():
    model = random_encoder(tiny_config("bert"))
    ids = torch.randint(1, 61, (1, 20), generator=torch.Generator().manual_seed(1))
    documents = torch.tensor([[0] * 8 + [1] * 12])
    packed = model(ids, document_ids=documents)
    torch.testing.assert_close(packed[:, :8], model(ids[:, :8]), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(packed[:, 8:], model(ids[:, 8:]), atol=2e-5, rtol=1e-5)


def test_a_pair_is_judged_by_the_first_state_alone_and_only_where_there_is_a_head():
    model = random_encoder(tiny_config("bert", next_sentence=True))
    states = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    other = states.clone()
    other[:, 1:] += 1
    assert torch.equal(model.pair_logits(states), model.pair_logits(other))
    with pytest.raises(UserError, match="no head for pairs"):
        random_encoder(tiny_config("bert")).pair_logits(states)


def test_a_row_longer_than_the_context_is_refused():
    model = random_encoder(tiny_config("bert"))
    with pytest.raises(UserError, match="33 tokens does not fit the context of 32"):
        model(torch.zeros(1, 33, dtype=torch.int64))


def test_an_empty_batch_and_a_single_token():
    model = random_encoder(tiny_config("bert"))
    assert model(torch.zeros(0, 5, dtype=torch.int64)).shape == (0, 5, 61)
    assert model(torch.tensor([[3]])).isfinite().all()
    assert model(torch.tensor([[3]]), document_ids=torch.tensor([[-1]])).isfinite().all()


@pytest.mark.parametrize(("changes", "field"), [
    ({"heads": 5}, "heads"), ({"head_dim": 5}, "head_dim"), ({"vocab_size": 1}, "vocab_size"),
    ({"layers": 0}, "layers"),
    ({"pad_id": 61}, "pad_id"), ({"segments": 0}, "segments"), ({"languages": ("en", "de")}, "languages"),
    ({"dropout": 1.0}, "dropout"), ({"transform": None}, "transform"), ({"mlp": "swiglu"}, "mlp"),
    ({"offset_positions": True}, "offset_positions"), ({"positions": "sinusoidal"}, "positions"),
    ({"context": 0}, "context"),
])
def test_impossible_configs_are_refused_by_name(changes, field):
    with pytest.raises(ValueError, match=f"^{field}: "):
        dataclasses.replace(tiny_config("bert"), **changes)


@pytest.mark.parametrize(("change", "said"), [
    ({"is_decoder": True}, "is_decoder"), ({"hidden_act": "silu"}, "gelu, gelu_new"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type"), ({"hidden_size": None}, "hidden_size"),
    ({"num_attention_heads": 5}, "5 heads do not divide"), ({"quantization_config": {"bits": 4}}, "quantization"),
])
def test_what_we_cannot_compute_is_refused(change, said):
    public = BERT.config_to_public(BERT.presets["base"])
    with pytest.raises(UserError, match=said):
        BERT.config_from_public({**public, **change})


def test_a_model_from_scratch_is_a_bert_and_every_number_can_be_set():
    config, _ = ModelSpec(family="bert", depth=2).resolve(300)
    assert (config.family, config.next_sentence, config.segments, config.norm_eps) == ("bert", True, 2, 1e-12)
    assert (config.dim, config.heads, config.mlp_dim, config.vocab_size) == (128, 2, 512, 320)
    config, _ = ModelSpec(family="bert", preset="base", options={"dropout": 0.0, "next_sentence": False}).resolve(300)
    assert (config.layers, config.dropout, config.attention_dropout, config.next_sentence) == (12, 0.0, 0.1, False)


def test_initial_weights_follow_from_the_seed_and_the_blocks_change_nothing_but_the_norm():
    config = tiny_config("bert", next_sentence=True)
    first, second = random_encoder(config, 1), random_encoder(config, 2)
    first.initialise(7)
    second.initialise(7)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    second.initialise(8)
    assert not torch.equal(first.embedding.tokens.weight, second.embedding.tokens.weight)
    ids = torch.arange(9)[None]
    torch.testing.assert_close(first.encode(ids), first.embedding(ids, ids, None, None), atol=1e-5, rtol=0)


def test_dropout_is_only_in_training():
    model = random_encoder(tiny_config("bert", dropout=0.5, attention_dropout=0.5))
    ids = torch.arange(12)[None]
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))
