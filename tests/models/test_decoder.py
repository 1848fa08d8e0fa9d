"""The decoder against transformers, its initialisation, and its config."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.models import Decoder, DecoderConfig
from gristmill.models.spec import ModelSpec

TINY = DecoderConfig(vocab_size=61, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_dim=48, context=64)


def test_packed_documents_give_the_logits_of_each_alone():
    torch.manual_seed(0)
    model = Decoder(TINY).eval()
    first, second = torch.randint(0, 61, (1, 9)), torch.randint(0, 61, (1, 14))
    packed = torch.cat([first, second], dim=1)
    documents = torch.tensor([[0] * 9 + [1] * 14], dtype=torch.int32)
    together = model(packed, document_ids=documents)
    torch.testing.assert_close(together[:, :9], model(first), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[:, 9:], model(second), atol=1e-5, rtol=1e-5)


def test_initial_blocks_are_the_identity_and_seeds_matter():
    model = Decoder(TINY)
    model.initialise(1)
    weights = {n: p.clone() for n, p in model.named_parameters()}
    ids = torch.randint(0, 61, (1, 5))
    torch.testing.assert_close(model.hidden(ids), model.norm(model.embedding(ids)))
    model.initialise(1)
    assert all(torch.equal(weights[n], p) for n, p in model.named_parameters())
    model.initialise(2)
    assert not torch.equal(weights["embedding.weight"], model.embedding.weight)


@pytest.mark.parametrize(("changes", "field"), [
    ({"kv_heads": 3}, "kv_heads"), ({"head_dim": 7}, "head_dim"), ({"layers": 0}, "layers"),
    ({"vocab_size": 0}, "vocab_size"), ({"rope_theta": -1.0}, "rope_theta"),
])
def test_impossible_configs_are_refused_by_name(changes, field):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(TINY, **changes)


@settings(max_examples=40, deadline=None)
@given(depth=st.integers(1, 48), vocabulary=st.integers(300, 40_000))
def test_the_dial_always_gives_a_possible_model_and_tells_why(depth, vocabulary):
    config, notes = ModelSpec(depth=depth).resolve(vocabulary)
    assert config.layers == depth
    assert config.vocab_size >= vocabulary
    assert config.vocab_size % 64 == 0
    assert any(note.startswith("dim = ") for note in notes)
    assert config.dim == config.heads * config.head_dim


def test_every_derived_value_can_be_set_by_hand():
    spec = ModelSpec(depth=3, dim=96, heads=2, kv_heads=1, mlp_dim=100, context=32, tied_head=True)
    config, notes = spec.resolve(512)
    assert (config.dim, config.heads, config.kv_heads, config.mlp_dim, config.context) == (96, 2, 1, 100, 32)
    assert config.tied_head
    assert notes == []


def test_heads_that_do_not_divide_are_a_user_error():
    with pytest.raises(UserError, match="heads of an even size"):
        ModelSpec(depth=2, dim=100, heads=3).resolve(512)
