"""XLNet against transformers: both streams after every block, logits, loss, gradients, memory, files; its presets; what
it refuses."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gristmill.core.errors import UserError
from gristmill.core.files import read_json, write_json
from gristmill.models import proof
from gristmill.models.families import FAMILIES
from gristmill.models.loading import count_parameters, load_model, skeleton
from gristmill.models.saving import save_model
from gristmill.models.spec import ModelSpec
from gristmill.models.two_stream import Memory, TwoStream
from tests.models.closeness import check_gradients, close, gradients_of
from tests.models.random_two_stream import (
    configs,
    public_inputs,
    public_twin,
    random_inputs,
    random_two_stream,
    streams_of,
    target_mapping,
    tiny_config,
)

XLNET = FAMILIES["xlnet"]
PUBLISHED = {"base": 116_750_336, "large": 360_300_800}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_a_preset_has_the_public_number_of_parameters(preset):
    transformers = pytest.importorskip("transformers")
    assert count_parameters(XLNET.presets[preset]) == PUBLISHED[preset]
    fields = XLNET.config_to_public(XLNET.presets[preset])
    with torch.device("meta"):
        theirs = transformers.XLNetLMHeadModel(transformers.XLNetConfig(
            **{k: v for k, v in fields.items() if k not in ("architectures", "model_type")}))
    assert sum(p.numel() for p in theirs.parameters()) == PUBLISHED[preset]
    assert theirs.transformer.num_parameters() == PUBLISHED[preset] - 32_000, "all but the head's bias"


@given(configs(), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_random_models_equal_the_public_ones(config, seed):
    pytest.importorskip("transformers")
    model = random_two_stream(config, seed)
    theirs = public_twin(model)
    # Public code adds a causal mask and others in place, which fails for more than one row.
    inputs = random_inputs(config, seed, rows=1, padded=False) if config.causal else random_inputs(config, seed)
    labels = inputs.pop("labels")
    public = public_inputs(inputs)
    time = inputs["input_ids"].shape[1]
    real, aimed = inputs["document_ids"] >= 0, inputs["targets"] >= 0

    # The content stream alone.
    plain = {k: v for k, v in inputs.items() if k != "targets"}
    public_plain = {k: v for k, v in public.items() if k != "target_mapping"}
    with torch.no_grad():
        ours = streams_of(model.blocks, lambda: model(**plain), False)
        wanted = streams_of(theirs.transformer.layer, lambda: theirs(**public_plain), True)
        assert all(close(a[0][real], b[0][real]) for a, b in zip(ours, wanted, strict=True))
        assert close(model(**plain)[real], theirs(**public_plain).logits[real])

    # Both streams.
    kept = {}
    arguments = {k: v for k, v in inputs.items() if k != "targets"}
    mapping = target_mapping(inputs["targets"], time)
    ours = streams_of(model.blocks, lambda: kept.update(logits=model(**arguments, target_mapping=mapping)), False)
    wanted = streams_of(theirs.transformer.layer, lambda: kept.update(out=theirs(**public, labels=labels)), True)
    for a, b in zip(ours, wanted, strict=True):
        assert close(a[0][real], b[0][real])
        assert close(a[1], b[1]), "a query of nothing is the same in both, too"
    assert close(kept["logits"], kept["out"].logits)
    if not aimed.any():
        return
    loss = F.cross_entropy(kept["logits"].flatten(0, 1), labels.flatten())
    assert abs(float((loss - kept["out"].loss).detach())) <= 1e-6 * max(1.0, float(loss.detach()))
    loss.backward()
    kept["out"].loss.backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    mapped = XLNET.to_public(gradients, config)
    assert len(gradients_of(theirs)) >= 13 * config.layers
    check_gradients(mapped, theirs, lambda twin: in_double(twin, public | {"labels": labels}))


def in_double(twin: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of a public model in double precision, whose table of positions stays single by itself."""
    table = twin.transformer.relative_positional_encoding
    twin.transformer.relative_positional_encoding = lambda *args, **kwargs: table(*args, **kwargs).double()
    return twin(**{name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}).loss


@given(configs(), st.integers(0, 99), st.lists(st.integers(1, 9), min_size=2, max_size=4))
@settings(max_examples=20, deadline=None)
def test_memory_over_several_segments_equals_the_public_one(config, seed, lengths):
    pytest.importorskip("transformers")
    model = random_two_stream(config, seed)
    theirs = public_twin(model)
    memory, public_memory = None, None
    for number, time in enumerate(lengths):
        inputs = random_inputs(config, seed + number, rows=1 if config.causal else 2, time=time, padded=False)
        public = public_inputs(inputs) | {"mems": public_memory, "use_mems": True}
        arguments = {k: v for k, v in inputs.items() if k in ("input_ids", "token_type_ids", "perm_mask")}
        with torch.no_grad():
            out = theirs(**public)
            found = model(**arguments, target_mapping=public["target_mapping"], mems=memory)
            streams = model.encode(**arguments, targets=inputs["targets"], mems=memory)
        # Where something is remembered there is always something to see.
        assert close(found, out.logits), number
        memory, public_memory = streams.memory, out.mems
        for a, b in zip(memory.states, public_memory, strict=True):
            assert close(a, b.transpose(0, 1))
        assert not any(state.requires_grad for state in memory.states)


def test_remembering_is_the_memory_of_a_whole_pass():
    model = random_two_stream(tiny_config(memory=9))
    ids = torch.randint(0, 61, (2, 3, 7), generator=torch.Generator().manual_seed(0))
    documents = torch.tensor([[0] * 4 + [1] * 3, [0] * 7])
    memory: Memory | None = None
    for segment in ids.unbind(1):
        whole = model.encode(segment, document_ids=documents, mems=memory).memory
        memory = model.remember(segment, document_ids=documents, mems=memory)
        assert all(torch.equal(a, b) for a, b in zip(memory.states, whole.states, strict=True))
        assert torch.equal(memory.document_ids, whole.document_ids)
    assert memory.states[0].shape == (2, 9, 24)
    assert memory.document_ids.tolist() == [[1, 1, 0, 0, 0, 0, 1, 1, 1], [0] * 9]


def test_memory_equals_one_long_row_where_the_past_does_not_see_the_future():
    """In a causal model always; in the others where the mask keeps the first segment from seeing the second."""
    ids = torch.randint(0, 61, (2, 17), generator=torch.Generator().manual_seed(0))
    causal = random_two_stream(tiny_config(causal=True))
    memory = causal.remember(ids[:, :9])
    torch.testing.assert_close(causal(ids[:, 9:], mems=memory), causal(ids)[:, 9:], atol=2e-5, rtol=1e-5)

    model = random_two_stream(tiny_config())
    mask = torch.zeros(2, 17, 17)
    mask[:, :9, 9:] = 1
    memory = model.remember(ids[:, :9])
    torch.testing.assert_close(model(ids[:, 9:], mems=memory), model(ids, perm_mask=mask)[:, 9:], atol=2e-5, rtol=1e-5)
    assert not close(model(ids[:, 9:], mems=memory), model(ids)[:, 9:], 1e-2)


@given(configs(), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_config_and_weights_are_exact_inverses(config, seed):
    assert XLNET.config_from_public(XLNET.config_to_public(config)) == config
    state = random_two_stream(config, seed).state_dict()
    public = XLNET.to_public(state, config)
    back = XLNET.from_public(public, config, "here")
    assert back.keys() == state.keys() == skeleton(config).state_dict().keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("changes", [
    {}, {"tied_head": False, "mlp": "relu", "clamp": 5}, {"causal": True, "same_length": True, "mlp": "gelu_tanh"}])
def test_both_witnesses_of_a_proof_agree_and_transformers_opens_our_folder(changes, tmp_path):
    pytest.importorskip("transformers")
    model = random_two_stream(tiny_config(context=12, **changes))
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))
    ours = proof.trace(model, proof.probe(model.config))
    for other in (proof.trace_reference, proof.trace_transformers):
        found = proof.compare(ours, other(tmp_path, proof.probe(model.config)))
        assert found["largest"] < 1e-5, found


@given(configs(), st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_the_slow_reading_agrees_with_memory_and_every_option(config, seed):
    model = random_two_stream(config, seed)
    inputs = random_inputs(config, seed, rows=1, time=5, padded=False)
    earlier = random_inputs(config, seed + 1, rows=1, time=4, padded=False)["input_ids"]
    memory = model.remember(earlier)
    given_inputs = {k: inputs[k] for k in ("input_ids", "token_type_ids", "perm_mask")} | {
        "target_mapping": target_mapping(inputs["targets"], 5)}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        save_model(model, folder)
        _, logits = proof.trace_reference(Path(folder), given_inputs | {"mems": torch.stack(memory.states)})
        assert close(model(**given_inputs, mems=memory)[0], logits)


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_of_transformers_is_read_and_written_back(tied, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.XLNetLMHeadModel(transformers.XLNetConfig(
        vocab_size=50, d_model=24, n_layer=2, n_head=3, d_inner=40, initializer_range=0.3, mem_len=None,
        tie_word_embeddings=tied)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    ids = torch.randint(0, 50, (2, 9))
    with torch.no_grad():
        wanted = theirs(ids).logits
        assert close(ours(ids), wanted)
        save_model(ours, tmp_path / "ours")
        back = transformers.XLNetLMHeadModel.from_pretrained(tmp_path / "ours").eval()
        assert torch.equal(back(ids).logits, wanted)


def test_a_file_that_stores_the_tied_head_a_second_time_opens(tmp_path):
    model = random_two_stream(tiny_config())
    save_model(model, tmp_path)
    public = load_file(tmp_path / "model.safetensors")
    twice = {**public, "lm_loss.weight": public["transformer.word_embedding.weight"].clone()}
    save_file(twice, tmp_path / "model.safetensors")
    ids = torch.arange(10)[None]
    assert torch.equal(load_model(tmp_path)(ids), model(ids))
    twice["lm_loss.weight"][3] += 1
    save_file(twice, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"lm_loss\.weight"):
        load_model(tmp_path)


def test_the_public_config_of_the_first_days_is_read():
    """What xlnet-base-cased says, null and needless entries included."""
    public = {
        "architectures": ["XLNetLMHeadModel"], "attn_type": "bi", "bi_data": False, "bos_token_id": 1, "clamp_len": -1,
        "d_head": 64, "d_inner": 3072, "d_model": 768, "dropout": 0.1, "end_n_top": 5, "eos_token_id": 2,
        "ff_activation": "gelu", "initializer_range": 0.02, "layer_norm_eps": 1e-12, "mem_len": None,
        "model_type": "xlnet", "n_head": 12, "n_layer": 12, "pad_token_id": 5, "reuse_len": None,
        "same_length": False, "start_n_top": 5, "summary_activation": "tanh", "summary_last_dropout": 0.1,
        "summary_type": "last", "summary_use_proj": True, "untie_r": True, "vocab_size": 32000,
    }
    assert XLNET.config_from_public(public) == XLNET.presets["base"]


@pytest.mark.parametrize(("changes", "message"), [
    ({"bi_data": True}, "bi_data"), ({"ff_activation": "silu"}, "silu"), ({"attn_type": "both"}, "attn_type"),
    ({"d_model": "wide"}, "d_model"), ({"d_model": 25, "d_head": 8}, "odd"), ({"n_layer": 0}, "layers"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"), ({"dropout": 1.5}, "dropout"),
])
def test_a_public_config_that_we_cannot_compute_is_refused(changes, message, tmp_path):
    save_model(random_two_stream(tiny_config()), tmp_path)
    write_json(tmp_path / "config.json", {**read_json(tmp_path / "config.json"), **changes})
    with pytest.raises(UserError, match=message) as error:
        load_model(tmp_path)
    assert "config.json" in str(error.value)
    assert error.value.fix


@pytest.mark.parametrize(("changes", "field"), [
    ({"heads": 0}, "heads"), ({"head_dim": 0}, "head_dim"), ({"vocab_size": 1}, "vocab_size"), ({"dim": 25}, "dim"),
    ({"layers": 0}, "layers"), ({"context": 0}, "context"), ({"memory": 0}, "memory"), ({"clamp": -1}, "clamp"),
    ({"reuse": 0}, "reuse"), ({"same_length": True}, "same_length"), ({"mlp": "swiglu"}, "mlp"),
    ({"dropout": 1.0}, "dropout"), ({"norm_eps": 0.0}, "norm_eps"), ({"mlp_dim": 0}, "mlp_dim"),
])
def test_impossible_configs_are_refused_by_name(changes, field):
    with pytest.raises(ValueError, match=f"^{field}: "):
        tiny_config(**changes)


def test_a_recipe_builds_one_from_scratch_and_refuses_what_it_has_not():
    config, _ = ModelSpec(family="xlnet", depth=2, dim=64, heads=2, options={"dropout": 0.1}).resolve(500)
    assert (config.vocab_size, config.layers, config.head_dim, config.dropout) == (512, 2, 32, 0.1)
    assert ModelSpec(family="xlnet", preset="base").resolve(32_000)[0] == XLNET.presets["base"]
    with pytest.raises(ValueError, match="kv_heads"):
        ModelSpec(family="xlnet", kv_heads=2)
    with pytest.raises(ValueError, match="window"):
        ModelSpec(family="xlnet", options={"window": 3})
    with pytest.raises(UserError, match=r"model\.memory"):
        ModelSpec(family="xlnet", options={"memory": 0}).resolve(500)


def test_fresh_weights_are_a_function_of_the_seed_and_start_near_the_uniform_distribution():
    config = tiny_config(vocab_size=128, dim=64, head_dim=16, heads=4)
    model, same, other = TwoStream(config), TwoStream(config), TwoStream(config)
    model.initialise(1)
    same.initialise(1)
    other.initialise(2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))
    assert not torch.equal(model.embedding.query, other.embedding.query)
    ids = torch.randint(0, 128, (4, 30), generator=torch.Generator().manual_seed(0))
    # Queries, not the content stream: with a tied head a fresh model says the word that it is given.
    with torch.no_grad():
        spread = float(model(ids, target_mapping=torch.eye(30).expand(4, -1, -1)).logsumexp(-1).mean())
    assert 4.8 < spread < 6.5, "log 128 is 4.85"


def test_dropout_works_in_training_only():
    model = random_two_stream(tiny_config(dropout=0.3))
    ids = torch.arange(12)[None]
    assert torch.equal(model(ids), model(ids))
    plain = TwoStream(dataclasses.replace(model.config, dropout=0.0)).eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(ids), plain(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))
    plain.train()
    assert torch.equal(plain(ids), plain(ids))


def test_a_mapping_that_is_no_place_is_refused():
    model = random_two_stream(tiny_config())
    ids = torch.arange(6)[None]
    for mapping in (torch.ones(1, 1, 6), torch.eye(6)[None] * 0.5):
        with pytest.raises(UserError, match="more than one place"):
            model(ids, target_mapping=mapping)


def test_the_flops_of_a_training_step_are_as_the_config_says():
    """Counted by torch over forward and backward of the objective; what is left over are the keys of positions."""
    from torch.utils.flop_counter import FlopCounterMode

    from gristmill.objectives.permutation_lm import PermutationLM

    config = tiny_config(vocab_size=64, dim=48, heads=4, head_dim=12, mlp_dim=192, layers=3)
    model = random_two_stream(config)
    rows, time = 24, 48
    ranks = torch.full((rows, time), -1)
    ranks[:, :8] = torch.arange(8)
    batch = {"input_ids": torch.zeros(rows, time, dtype=torch.int64), "ranks": ranks,
             "target_positions": torch.arange(8).expand(rows, -1), "targets": torch.ones(rows, 8, dtype=torch.int64)}
    with FlopCounterMode(display=False) as counter:
        PermutationLM().terms(model, batch).sums["loss"].backward()
    positions = 2 * 2 * config.layers * (2 * time) * config.dim * config.inner  # forward, and the weight's gradient
    expected = config.flops_per_token(time) * rows * time + positions
    assert abs(counter.get_total_flops() / expected - 1) < 0.005


def test_the_example_of_the_page_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "models" / "xlnet.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    wanted = re.search(r"# (\[.*\] \d)$", code.strip()).group(1)
    exec(compile(code, "docs/models/xlnet.md", "exec"), {})
    assert capsys.readouterr().out.strip() == wanted
    for count in PUBLISHED.values():
        assert f"{count:,}" in page
        assert f"{count - 32_000:,}" in page
