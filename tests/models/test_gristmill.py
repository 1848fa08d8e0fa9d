"""Our own family: value embeddings, in training, in generation, on disk, and as the slow reader computes them."""

import dataclasses
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.generation import Engine, Sampling
from gristmill.models import DecoderConfig, proof
from gristmill.models.families import FAMILIES
from gristmill.models.loading import count_parameters, load_model
from gristmill.models.saving import save_model
from gristmill.models.spec import ModelSpec
from tests.models.random_models import random_decoder

OURS = {"family": "gristmill", "value_embeddings": True}


@st.composite
def configs(draw) -> DecoderConfig:
    kv_heads = draw(st.integers(1, 3))
    return DecoderConfig(
        vocab_size=draw(st.integers(5, 60)), dim=draw(st.integers(12, 30)), layers=draw(st.integers(1, 4)),
        heads=kv_heads * draw(st.integers(1, 3)), kv_heads=kv_heads, head_dim=2 * draw(st.integers(1, 6)),
        mlp_dim=draw(st.integers(1, 30)), context=draw(st.integers(16, 99)), tied_head=draw(st.booleans()),
        qk_norm=draw(st.booleans()), **{**OURS, "value_embeddings": draw(st.booleans())})


@given(configs(), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_random_models_equal_the_slow_reading_and_come_back(config, seed):
    model = random_decoder(seed, **dataclasses.asdict(config))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(model, folder)
        read = load_model(folder)
        assert read.config == config
        assert all(torch.equal(a, read.state_dict()[name]) for name, a in model.state_dict().items())
        inputs = {"input_ids": torch.tensor([proof.proof_ids(config.vocab_size, 12)])}
        assert proof.compare(proof.trace(read, inputs), proof.trace_reference(folder, inputs))["largest"] < 1e-5


def test_every_second_block_up_to_the_last_has_a_table():
    for layers, having in ((1, [0]), (2, [1]), (5, [0, 2, 4]), (6, [1, 3, 5])):
        model = random_decoder(layers=layers, **OURS)
        assert [i for i, b in enumerate(model.blocks) if b.attention.value_embedding is not None] == having


def test_a_table_changes_what_later_tokens_read_but_nothing_before():
    model = random_decoder(**OURS)
    ids = torch.randint(0, 90, (1, 12), generator=torch.Generator().manual_seed(0))
    ids[0, 5] = 96
    before = model(ids)
    with torch.no_grad():
        model.blocks[-1].attention.value_embedding.weight[96] += 1
    after = model(ids)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_cached_generation_equals_reading_the_whole_text_again():
    model = random_decoder(context=64, **OURS)
    prompts = [[3, 5, 7, 11], [13], list(range(20, 33))]
    found = Engine(model, slots=2).generate(prompts, Sampling(max_tokens=12, temperature=0))
    for prompt, output in zip(prompts, found, strict=True):
        ids = list(prompt)
        for _ in range(12):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        assert output.tokens == ids[len(prompt):]


def test_documents_of_a_row_stay_apart():
    model = random_decoder(**OURS)
    ids = torch.randint(0, 97, (1, 20), generator=torch.Generator().manual_seed(1))
    documents = torch.tensor([[0] * 8 + [1] * 12])
    packed = model(ids, document_ids=documents)
    torch.testing.assert_close(packed[:, 8:], model(ids[:, 8:]), atol=1e-5, rtol=1e-5)


def test_a_recipe_has_one_dial_and_the_tables_are_counted():
    config, notes = ModelSpec(family="gristmill", depth=9).resolve(8192)
    assert (config.layers, config.dim, config.value_embeddings) == (9, 384, True)
    assert any("depth / 3" in note for note in notes)
    plain, _ = ModelSpec(family="llama", depth=9).resolve(8192)
    assert count_parameters(config) - count_parameters(plain) == 5 * (8192 * 384 + 12 * config.kv_heads)


@pytest.mark.parametrize(("change", "named"), [
    ({"hidden_act": "gelu"}, "hidden_act"), ({"hidden_size": 8}, "12 channels")])
def test_what_we_cannot_compute_is_refused(change, named):
    family = FAMILIES["gristmill"]
    public = family.config_to_public(family.presets["tiny"]) | change
    with pytest.raises(UserError, match=named):
        family.config_from_public(public)
