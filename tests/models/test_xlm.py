"""XLM against transformers: language embeddings, its own names of weights, fixed sines and cosines."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.models.encoder import sinusoids
from gristmill.models.families import FAMILIES
from gristmill.models.loading import count_parameters, load_model
from gristmill.models.spec import ModelSpec
from tests.models.random_encoders import check_family, check_training_folder, configs, random_encoder, tiny_config

XLM = FAMILIES["xlm"]
PUBLISHED = {"mlm-en-2048": 667_119_041, "mlm-xnli15-1024": 249_071_384, "mlm-tlm-xnli15-1024": 249_071_384,
             "mlm-17-1280": 571_696_960, "mlm-100-1280": 571_696_960, "tiny": 1_486_592}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_a_preset_has_as_many_parameters_as_the_public_class(preset):
    """No paper prints these numbers; they are what the public class counts for the public sizes."""
    assert count_parameters(XLM.presets[preset]) == PUBLISHED[preset]
    transformers = pytest.importorskip("transformers")
    fields = {k: v for k, v in XLM.config_to_public(XLM.presets[preset]).items()
              if k not in ("architectures", "model_type")}
    with torch.device("meta"):
        theirs = transformers.XLMWithLMHeadModel(transformers.XLMConfig(**fields))
    assert sum(p.numel() for p in theirs.parameters()) == PUBLISHED[preset]


@given(configs("xlm"), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_random_models_equal_the_public_ones(config, seed):
    pytest.importorskip("transformers")
    with tempfile.TemporaryDirectory() as folder:
        check_family(config, Path(folder), seed)


@pytest.mark.parametrize("fields", [
    {"n_langs": 3}, {"n_langs": 3, "use_lang_emb": False}, {"n_langs": 1, "sinusoidal_embeddings": True},
    {"n_langs": 2, "tie_word_embeddings": False, "gelu_activation": False},
])
def test_a_folder_of_transformers_is_read_and_written_back(fields, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.XLMConfig(vocab_size=50, emb_dim=24, n_layers=2, n_heads=3, max_position_embeddings=20,
                                    embed_init_std=0.3, init_std=0.3, initializer_range=0.3, **fields)
    check_training_folder(tmp_path, config, transformers.XLMWithLMHeadModel)
    named = fields["n_langs"] > 1 and fields.get("use_lang_emb", True)
    assert load_model(tmp_path / "ours").config.languages == (
        tuple(str(i) for i in range(fields["n_langs"])) if named else ())


def test_the_fixed_table_is_the_public_one():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.XLMWithLMHeadModel(transformers.XLMConfig(
        vocab_size=50, emb_dim=24, n_layers=1, n_heads=3, max_position_embeddings=40, sinusoidal_embeddings=True))
    assert (sinusoids(40, 24) - theirs.transformer.position_embeddings.weight).abs().max() < 1e-6


def test_a_fixed_table_is_stored_and_never_trained():
    model = random_encoder(tiny_config("xlm", positions="sinusoidal"))
    model.initialise(0)
    assert torch.equal(model.embedding.positions.weight, sinusoids(32, 24))
    model(torch.arange(9)[None]).sum().backward()
    assert model.embedding.positions.weight.grad is None
    assert model.embedding.tokens.weight.grad is not None


def test_a_language_changes_the_logits_and_none_is_added_where_none_is_said():
    model = random_encoder(tiny_config("xlm", languages=("en", "de")))
    ids = torch.arange(3, 12)[None]
    first, second = (model(ids, langs=torch.full_like(ids, lang)) for lang in (0, 1))
    assert not torch.allclose(first, second)
    with torch.no_grad():
        model.embedding.languages.weight.zero_()
    assert torch.equal(model(ids), model(ids, langs=torch.zeros_like(ids)))


def test_without_a_language_each_is_as_likely_as_the_others():
    model = random_encoder(tiny_config("xlm", languages=("en", "de")))
    ids = torch.arange(3, 12)
    each = [model(ids[None], langs=torch.full((1, 9), lang))[0].softmax(-1) for lang in (0, 1)]
    torch.testing.assert_close(model.log_probabilities(ids, language="de").exp(), each[1])
    torch.testing.assert_close(model.log_probabilities(ids).exp(), (each[0] + each[1]) / 2)
    with pytest.raises(UserError, match="no language 'fr'"):
        model.log_probabilities(ids, language="fr")
    plain = random_encoder(tiny_config("xlm"))
    torch.testing.assert_close(plain.log_probabilities(ids), plain(ids[None])[0].log_softmax(-1))
    with pytest.raises(UserError, match="leave it out"):
        plain.log_probabilities(ids, language="en")


@pytest.mark.parametrize(("changes", "field"), [
    ({"mlp_dim": 95}, "mlp_dim"), ({"languages": ("en",)}, "languages"), ({"languages": ("en", "en")}, "languages"),
    ({"transform": "gelu"}, "transform"), ({"segments": 2}, "segments"), ({"mlp": "gelu_tanh"}, "mlp"),
])
def test_impossible_configs_are_refused_by_name(changes, field):
    with pytest.raises(ValueError, match=f"^{field}: "):
        dataclasses.replace(tiny_config("xlm"), **changes)


@pytest.mark.parametrize(("change", "said"), [
    ({"causal": True}, "causal"), ({"asm": True}, "asm"), ({"lang2id": {"en": 0, "de": 0}}, "lang2id"),
    ({"emb_dim": "wide"}, "emb_dim"),
])
def test_what_we_cannot_compute_is_refused(change, said):
    public = XLM.config_to_public(tiny_config("xlm", languages=("en", "de")))
    with pytest.raises(UserError, match=said):
        XLM.config_from_public({**public, **change})


def test_the_numbers_of_the_languages_are_kept():
    public = XLM.config_to_public(tiny_config("xlm", languages=("en", "de")))
    assert XLM.config_from_public({**public, "lang2id": {"de": 1, "en": 0}}).languages == ("en", "de")
    assert XLM.presets["mlm-xnli15-1024"].languages.index("en") == 4


def test_a_model_from_scratch_has_the_languages_that_it_is_given():
    config, _ = ModelSpec(family="xlm", depth=2, options={"languages": ["en", "fr"]}).resolve(300)
    assert (config.languages, config.mlp_dim, config.transform, config.segments) == (("en", "fr"), 512, None, 0)
