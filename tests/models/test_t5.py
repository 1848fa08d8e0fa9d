"""T5 and mT5 against transformers: states of both stacks, logits, loss, gradients, files; presets; who sees whom; what
is refused."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gristmill.core.errors import UserError
from gristmill.core.files import read_json, write_json
from gristmill.models.families import FAMILIES
from gristmill.models.layers.relative_bias import relative_buckets
from gristmill.models.loading import count_parameters, load_model, skeleton
from gristmill.models.saving import save_model
from gristmill.models.spec import ModelSpec
from tests.models.closeness import close
from tests.models.random_encoder_decoders import (
    check_against_public,
    configs,
    public_model,
    random_batch,
    random_encoder_decoder,
    tiny_config,
)

T5, MT5 = FAMILIES["t5"], FAMILIES["mt5"]
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""Every example builds two models; shrinking one would take minutes."""
PUBLISHED = {
    ("t5", "small"): 60_506_624, ("t5", "base"): 222_903_552, ("t5", "large"): 737_668_096,
    ("t5", "3b"): 2_851_598_336, ("t5", "11b"): 11_307_321_344,
    ("t5", "1.1-small"): 76_961_152, ("t5", "1.1-base"): 247_577_856, ("t5", "1.1-large"): 783_150_080,
    ("t5", "1.1-xl"): 2_849_757_184, ("t5", "1.1-xxl"): 11_135_332_352,
    ("mt5", "small"): 300_176_768, ("mt5", "base"): 582_401_280, ("mt5", "large"): 1_229_581_312,
    ("mt5", "xl"): 3_742_619_648, ("mt5", "xxl"): 12_921_057_280,
}


@pytest.mark.parametrize(("family", "preset"), PUBLISHED)
def test_a_preset_has_the_public_number_of_parameters(family, preset):
    transformers = pytest.importorskip("transformers")
    config = FAMILIES[family].presets[preset]
    assert count_parameters(config) == PUBLISHED[family, preset]
    fields = FAMILIES[family].config_to_public(config)
    made = {"t5": transformers.T5Config, "mt5": transformers.MT5Config}[family](
        **{k: v for k, v in fields.items() if k not in ("architectures", "model_type")})
    with torch.device("meta"):
        theirs = getattr(transformers, fields["architectures"][0])(made)
    count = sum(p.numel() for p in theirs.parameters())
    # Its version 5 makes every model with the head tied and unties it when a file is read.
    assert count + (0 if config.tied_head else config.vocab_size * config.dim) == PUBLISHED[family, preset]


def test_every_preset_is_listed():
    assert set(PUBLISHED) == {(f.name, preset) for f in (T5, MT5) for preset in f.presets}


@given(configs("t5"), st.integers(0, 99))
@settings(max_examples=25, deadline=None, phases=NO_SHRINKING)
def test_random_t5_equal_the_public_ones(config, seed):
    pytest.importorskip("transformers")
    with tempfile.TemporaryDirectory() as folder:
        check_against_public(config, Path(folder), seed)


@given(configs("mt5"), st.integers(0, 99))
@settings(max_examples=8, deadline=None, phases=NO_SHRINKING)
def test_random_mt5_equal_the_public_ones(config, seed):
    pytest.importorskip("transformers")
    with tempfile.TemporaryDirectory() as folder:
        check_against_public(config, Path(folder), seed)


@given(configs("t5"), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_config_and_weights_are_exact_inverses(config, seed):
    assert T5.config_from_public(T5.config_to_public(config)) == config
    state = random_encoder_decoder(config, seed).state_dict()
    back = T5.from_public(T5.to_public(state, config), config, "here")
    assert back.keys() == state.keys() == skeleton(config).state_dict().keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("changes", [
    {}, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, {"num_decoder_layers": 3}])
@pytest.mark.parametrize("kind", ["T5", "MT5"])
def test_a_folder_of_transformers_is_read_and_written_back(kind, changes, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    public_config = getattr(transformers, f"{kind}Config")(
        vocab_size=50, d_model=20, d_kv=6, d_ff=30, num_layers=2, num_heads=3, initializer_factor=1.0,
        decoder_start_token_id=0, **changes)
    theirs = getattr(transformers, f"{kind}ForConditionalGeneration")(public_config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    assert ours.config.tied_head == (kind == "T5" and "tie_word_embeddings" not in changes)
    batch, public = random_batch(ours.config, 1)
    written = batch["decoder_document_ids"]
    arguments = {name: tensor for name, tensor in batch.items() if name != "targets"}
    with torch.no_grad():
        wanted = theirs(**public).logits[written >= 0]
        assert close(ours(**arguments)[written >= 0], wanted)
        save_model(ours, tmp_path / "ours")
        assert close(public_model(tmp_path / "ours")(**public).logits[written >= 0], wanted)


def test_a_file_of_the_first_days_opens(tmp_path):
    """t5-small's own file stores the embedding several times, and a bias of the cross-attention that nothing uses; its
    config names another class."""
    model = random_encoder_decoder(tiny_config())
    save_model(model, tmp_path)
    public = load_file(tmp_path / "model.safetensors")
    for copy in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        public[copy] = public["shared.weight"].clone()
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    public[unused] = torch.ones(8, 3)
    save_file(public, tmp_path / "model.safetensors")
    content = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", {**content, "architectures": ["T5WithLMHeadModel"], "n_positions": 512})
    batch, _ = random_batch(model.config, 0)
    targets = batch.pop("targets")
    assert targets.shape == batch["decoder_input_ids"].shape
    assert torch.equal(load_model(tmp_path)(**batch), model(**batch))

    public["lm_head.weight"] = public["lm_head.weight"] + 1
    save_file(public, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"tied to shared\.weight"):
        load_model(tmp_path)


def test_buckets_at_golden_distances():
    """By hand from section 2.1: 32 buckets, 128 the furthest."""
    both = relative_buckets(torch.tensor([0, -1, -7, -8, -12, -127, -500, 1, 7, 8, 500]), 32, 128, True)
    assert both.tolist() == [0, 1, 7, 8, 9, 15, 15, 17, 23, 24, 31]
    causal = relative_buckets(torch.tensor([0, 5, -1, -15, -16, -127, -128]), 32, 128, False)
    assert causal.tolist() == [0, 0, 1, 15, 16, 31, 31]


def packed_pair():
    """Two pairs of texts in one row on both sides, and the same two alone; padding at the end of the row."""
    generator = torch.Generator().manual_seed(3)
    read, written = [torch.randint(1, 61, (n,), generator=generator) for n in (7, 9)], [
        torch.randint(1, 61, (n,), generator=generator) for n in (6, 4)]
    row = {"input_ids": torch.cat([*read, torch.zeros(4, dtype=torch.int64)])[None],
           "document_ids": torch.tensor([[0] * 7 + [1] * 9 + [-1] * 4]),
           "decoder_input_ids": torch.cat([*written, torch.zeros(3, dtype=torch.int64)])[None],
           "decoder_document_ids": torch.tensor([[0] * 6 + [1] * 4 + [-1] * 3])}
    return row, [{"input_ids": a[None], "decoder_input_ids": b[None]} for a, b in zip(read, written, strict=True)]


@pytest.mark.parametrize("changes", [{}, {"mlp": "geglu", "tied_head": False, "decoder_layers": 3}])
def test_packed_pairs_give_the_logits_of_each_alone(changes):
    model = random_encoder_decoder(tiny_config(**changes))
    row, alone = packed_pair()
    together = model(**row)
    torch.testing.assert_close(together[:, :6], model(**alone[0]), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(together[:, 6:10], model(**alone[1]), atol=2e-5, rtol=1e-5)


def test_no_token_sees_another_document_nor_the_decoder_what_it_has_not_written():
    model = random_encoder_decoder(tiny_config())
    row, _ = packed_pair()

    def moved(side, place):
        changed = row[side].clone()
        changed[0, place] = (changed[0, place] + 1) % 61
        return (model(**{**row, side: changed}) - base).abs().amax(-1)[0] > 0

    base = model(**row)
    read, written = row["document_ids"][0], row["decoder_document_ids"][0]
    for place in range(20):
        if read[place] >= 0:
            seen = moved("input_ids", place)
            assert torch.equal(seen, written == read[place]), "the whole output looks at the whole input, and no other"
    for place in range(13):
        if written[place] >= 0:
            seen = moved("decoder_input_ids", place)
            later = torch.arange(13) >= place
            assert torch.equal(seen, (written == written[place]) & later), place


def test_documents_on_one_side_alone_mean_one_document_on_the_other():
    model = random_encoder_decoder(tiny_config())
    _, alone = packed_pair()
    plain = model(**alone[0])
    padded = torch.cat([alone[0]["input_ids"], torch.tensor([[5, 5]])], dim=1)
    documents = torch.tensor([[0] * 7 + [-1] * 2])
    found = model(padded, alone[0]["decoder_input_ids"], document_ids=documents)
    torch.testing.assert_close(found, plain, atol=2e-5, rtol=1e-5)
    written = torch.cat([alone[0]["decoder_input_ids"], torch.tensor([[5]])], dim=1)
    found = model(alone[0]["input_ids"], written, decoder_document_ids=torch.tensor([[0] * 6 + [-1]]))
    torch.testing.assert_close(found[:, :6], plain, atol=2e-5, rtol=1e-5)


def test_an_empty_batch_and_single_tokens():
    model = random_encoder_decoder(tiny_config())
    assert model(torch.zeros(0, 5, dtype=torch.int64), torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 3, 61)
    one = torch.tensor([[3]])
    assert model(one, one).isfinite().all()
    nothing = torch.tensor([[-1]])
    assert model(one, one, document_ids=nothing, decoder_document_ids=nothing).isfinite().all()


@pytest.mark.parametrize(("changes", "field"), [
    ({"heads": 0}, "heads"), ({"vocab_size": 0}, "vocab_size"), ({"layers": 0}, "layers"), ({"context": 0}, "context"),
    ({"decoder_layers": -1}, "decoder_layers"), ({"pad_id": 61}, "pad_id"), ({"start_id": -1}, "start_id"),
    ({"buckets": 3}, "buckets"), ({"furthest": 4}, "furthest"), ({"mlp": "relu2"}, "mlp"),
    ({"norm_eps": 0.0}, "norm_eps"),
    ({"dropout": 1.0}, "dropout"), ({"family": "mt5", "tied_head": True}, "tied_head"),
])
def test_impossible_configs_are_refused_by_name(changes, field):
    with pytest.raises(ValueError, match=f"^{field}: "):
        tiny_config(**changes)


@pytest.mark.parametrize(("change", "said"), [
    ({"is_decoder": True}, "is_decoder"), ({"feed_forward_proj": "gated-relu"}, "gated-relu"),
    ({"is_encoder_decoder": False}, "is_encoder_decoder"), ({"d_kv": "64"}, "d_kv"), ({"d_model": None}, "d_model"),
    ({"num_heads": 0}, "heads"), ({"quantization_config": {"bits": 4}}, "quantization"),
])
def test_what_we_cannot_compute_is_refused(change, said):
    public = T5.config_to_public(T5.presets["small"])
    with pytest.raises(UserError, match=said):
        T5.config_from_public({**public, **change})


def test_a_model_from_scratch_is_a_t5_1_1_and_every_number_can_be_set():
    config, _ = ModelSpec(family="t5", depth=2).resolve(300)
    assert (config.family, config.mlp, config.tied_head, config.dropout) == ("t5", "geglu", False, 0.0)
    assert (config.layers, config.decoder_layers, config.vocab_size, config.mlp_dim) == (2, 2, 320, 384)
    config, _ = ModelSpec(family="t5", preset="small", context=128, options={"dropout": 0.0}).resolve(300)
    assert (config.layers, config.mlp, config.tied_head, config.dropout, config.context) == (6, "relu", True, 0.0, 128)
    config, _ = ModelSpec(family="mt5", depth=2, options={"decoder_layers": 1}).resolve(300)
    assert (config.family, config.decoder_layers) == ("mt5", 1)
    with pytest.raises(ValueError, match="kv_heads"):
        ModelSpec(family="t5", kv_heads=1)
    with pytest.raises(UserError, match="furthest"):
        ModelSpec(family="t5", depth=1, options={"furthest": 3}).resolve(300)


def test_initial_weights_follow_from_the_seed_and_say_nothing_yet():
    config = tiny_config(tied_head=False, mlp="geglu")
    first, second = random_encoder_decoder(config, 1), random_encoder_decoder(config, 2)
    first.initialise(7)
    second.initialise(7)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    second.initialise(8)
    assert not torch.equal(first.embedding.weight, second.embedding.weight)
    batch, _ = random_batch(config, 0)
    written = batch["decoder_document_ids"] >= 0
    del batch["targets"]
    assert float(first(**batch)[written].detach().abs().max()) < 0.05, "the first loss is ln(vocab)"


def test_dropout_is_only_in_training():
    model = random_encoder_decoder(tiny_config(dropout=0.5))
    ids = torch.arange(12)[None]
    assert torch.equal(model(ids, ids), model(ids, ids))
    model.train()
    assert not torch.equal(model(ids, ids), model(ids, ids))


def test_flops_are_six_for_every_weight_and_token_that_meet():
    config = tiny_config(layers=2, decoder_layers=3, context=64)
    attention, mlp = 4 * 24 * 24, 2 * 24 * 40
    weights = 2 * (attention + mlp) * 10 + 3 * ((attention * 1.5 + mlp) * 4 + attention * 0.5 * 10) + 24 * 61 * 4
    scores = 2 * 10 * 10 + 3 * 4 * (2 + 10)
    assert config.flops(10, 4) == 6 * weights + 12 * 24 * scores
    assert config.flops_per_token(64) == config.flops(64, 14) / 64
    assert config.matmul_parameters == 2 * (attention + mlp) + 3 * (2 * attention + mlp) + 24 * 61
    assert dataclasses.replace(config, decoder_layers=0).decoder_layers == 2


def test_the_example_of_the_page_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "models" / "t5.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    wanted = re.search(r"# (\[.*\])$", code.strip()).group(1)
    exec(compile(code, "docs/models/t5.md", "exec"), {})
    assert capsys.readouterr().out.strip() == wanted
    for count in PUBLISHED.values():
        assert f"{count:,}" in page
