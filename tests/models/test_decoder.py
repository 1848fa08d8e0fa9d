"""The decoder against transformers, its initialisation, and its config."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from gristmill.core.errors import UserError
from gristmill.models import Decoder, DecoderConfig
from gristmill.models.layers.attention import reference
from gristmill.models.saving import save_model
from gristmill.models.spec import ModelSpec
from gristmill.objectives import CausalLM
from tests.models.random_models import random_decoder

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


def test_the_way_in_which_values_are_mixed_can_be_exchanged():
    """The seam of context parallelism."""
    torch.manual_seed(0)
    model, ids, calls = Decoder(TINY).eval(), torch.randint(0, 61, (2, 9)), []
    expected = model(ids)

    def other(q, k, v, document_ids=None, **options):
        calls.append(options["pattern"])
        return reference(q, k, v, document_ids, **options)

    for block in model.blocks:
        block.attention.mix = other
    torch.testing.assert_close(model(ids), expected, atol=1e-5, rtol=1e-5)
    assert len(calls) == TINY.layers


def test_an_objective_passes_positions_on():
    torch.manual_seed(0)
    model, ids = Decoder(TINY).eval(), torch.randint(0, 61, (1, 9))
    batch = {"input_ids": ids, "targets": ids}
    objective = CausalLM()
    plain = objective.terms(model, batch).sums["loss"]
    shifted = objective.terms(model, batch | {"position_ids": torch.arange(40, 49)[None]}).sums["loss"]
    torch.testing.assert_close(shifted, plain, atol=1e-4, rtol=1e-5)  # rotary: only differences count
    spread = objective.terms(model, batch | {"position_ids": 3 * torch.arange(9)[None]}).sums["loss"]
    assert abs(float((spread - plain).detach())) > 1e-4


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


def test_only_what_is_in_force_is_said_to_be_derived():
    config, notes = ModelSpec(depth=2, options={"dim": 32, "heads": 4, "head_dim": 8}).resolve(512)
    assert (config.dim, config.heads, config.kv_heads, config.mlp_dim) == (32, 4, 2, 384)
    assert [note.partition(":")[0] for note in notes] == ["kv_heads = 2", "mlp_dim = 384", "context = 256"]
    assert notes[:2] == ["kv_heads = 2: as many as 2", "mlp_dim = 384: 8/3 of 128, rounded up to a multiple of 64"]
    config, notes = ModelSpec(options={"layers": 3}).resolve(512)
    assert (config.layers, config.dim) == (3, 256)
    assert notes[0] == "dim = 256: 128 x ceil(6 / 3)"


def test_heads_that_do_not_divide_are_a_user_error():
    with pytest.raises(UserError, match="heads of an even size"):
        ModelSpec(depth=2, dim=100, heads=3).resolve(512)


CHECKPOINTED = {
    "llama": {}, "window": {"window": 5}, "sparse": {"attention": ("sparse",), "window": 3, "stride": 4},
    "gpt2 with dropout": {"positions": "learned", "norm": "layer", "mlp": "gelu_tanh", "qkv_bias": True,
                          "dropout": 0.2, "attention_dropout": 0.2, "stochastic_depth": 0.3},
    "palm": {"parallel": True, "kv_heads": 1, "norm": "layer", "norm_bias": False},
}


@pytest.mark.parametrize("kind", CHECKPOINTED)
def test_blocks_that_are_computed_again_give_the_same_gradients(kind):
    """Activation checkpointing from outside: nothing in a block hangs on being run once."""
    ids = torch.randint(0, 97, (2, 20), generator=torch.Generator().manual_seed(0))
    documents = (torch.arange(20) // 12)[None].expand(2, -1)

    def gradients(model):
        torch.manual_seed(5)
        model(ids, document_ids=documents).logsumexp(-1).sum().backward()
        return [parameter.grad for parameter in model.parameters()]

    plain, again = (random_decoder(**CHECKPOINTED[kind]).train() for _ in range(2))
    for block in again.blocks:
        run = block.forward
        block.forward = lambda *given, run=run: checkpoint(run, *given, use_reentrant=False)
    for expected, found in zip(gradients(plain), gradients(again), strict=True):
        assert torch.equal(expected, found)


@pytest.mark.parametrize("kind", CHECKPOINTED)
def test_one_token_and_no_rows_at_all(kind):
    model = random_decoder(**CHECKPOINTED[kind])
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(model(ids[:, :1]), model(ids)[:, :1], atol=1e-5, rtol=1e-5)
    assert model(torch.zeros(0, 4, dtype=torch.int64)).shape == (0, 4, 97)
    documents = torch.zeros(0, 4, dtype=torch.int64)
    assert model(documents, document_ids=documents).shape == (0, 4, 97)


@pytest.mark.parametrize(("changes", "field"), [
    ({"window": 0}, "window"), ({"attention": ("sparse",)}, "window"), ({"attention": ("window",)}, "window"),
    ({"attention": ("sparse",), "stride": 0}, "stride"), ({"attention": ("local",)}, "attention"),
    ({"dilation": 2}, "dilation"),
    ({"attention": ("sparse",), "window": 2, "global_tokens": -1}, "global_tokens"),
    ({"attention": ("sparse",), "window": 2, "attention_block": 0}, "attention_block"),
    ({"positions": "alibi"}, "positions"), ({"norm": "batch"}, "norm"), ({"mlp": "tanh"}, "mlp"),
    ({"dropout": 1.0}, "dropout"), ({"stochastic_depth": -0.1}, "stochastic_depth"), ({"heads": 0}, "heads"),
    ({"positions": "learned", "rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling"),
    ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "head_dim": 2}, "rope_scaling"),
    ({"logit_scale": -1.0}, "logit_scale"), ({"context": 0}, "context"), ({"norm_eps": 0.0}, "norm_eps"),
])
def test_impossible_attention_and_positions_are_refused_by_name(changes, field):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(TINY, **changes)


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused():
    from gristmill.generation import LanguageModel
    from tests.export.conftest import byte_level

    with pytest.raises(UserError, match="the tokenizer has"):
        LanguageModel(random_decoder(vocab_size=97), byte_level())
    lm = LanguageModel(random_decoder(vocab_size=320), byte_level())
    with pytest.raises(UserError, match="token ids must lie from 0 to 319"):
        lm.logits([[320]])


def test_training_on_needs_a_tokenizer_that_fits(tmp_path):
    from types import SimpleNamespace

    from gristmill.training.pretrain import Pretrain
    from tests.export.conftest import byte_level

    save_model(random_decoder(), tmp_path)
    context = SimpleNamespace(name="toy/base", inputs={"old": SimpleNamespace(path=tmp_path)})
    with pytest.raises(UserError, match="tokens, the model 97"):
        Pretrain(corpus="corpus", tokenizer="tokenizer", start="old")._model(context, byte_level())


def test_a_recipe_can_ask_for_every_pattern():
    """Width, depth, heads, windows, dropout are plain numbers of the recipe."""
    config, _ = ModelSpec(family="gpt3", depth=2, dim=32, heads=2, context=64, options={
        "attention": ["sparse"], "window": 8, "stride": 16, "attention_block": 4, "dropout": 0.1}).resolve(512)
    assert config.layer_attention(0) == "sparse"
    with pytest.raises(UserError, match="at least 1: a query sees itself"):
        ModelSpec(options={"window": 0}).resolve(512)
    with pytest.raises(UserError, match="choose a divisor"):
        ModelSpec(depth=2, dim=128, heads=4, kv_heads=3).resolve(512)
    with pytest.raises(ValueError, match="did you mean window"):
        ModelSpec(options={"windw": 3})
