"""Models with experts against transformers and a slow reading: states of blocks, logits, loss, gradients, files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gristmill.core.errors import UserError
from gristmill.models import Decoder, DecoderConfig, proof
from gristmill.models.config import MoEConfig
from gristmill.models.families import FAMILIES
from gristmill.models.layers.moe import MoE, Routing, expert_layers, recorded
from gristmill.models.loading import count_parameters, load_model, skeleton
from gristmill.models.saving import save_model
from gristmill.models.spec import ModelSpec
from gristmill.objectives import CausalLM
from gristmill.objectives.moe_losses import with_router_losses

transformers = pytest.importorskip("transformers")
DOCS = Path(__file__).parents[2] / "docs" / "models"
KINDS = ("mixtral", "glm", "qwen2", "qwen3")


@st.composite
def configs(draw, kind: str | None = None) -> DecoderConfig:
    """Any model that one of the public formats can hold: odd widths, experts that divide nothing, top-k up to all."""
    kind = kind or draw(st.sampled_from(KINDS))
    kv_heads, layers, experts = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 7))
    heads, head_dim = kv_heads * draw(st.integers(1, 3)), 2 * draw(st.integers(1, 5))
    mlp_dim, biased = draw(st.integers(1, 20)), draw(st.booleans())
    if kind == "glm":
        experts += 1  # transformers sums the two best of a group and fails where there is but one
    free: dict = {"experts": experts, "active": draw(st.integers(1, experts)), "mlp_dim": draw(st.integers(1, 12)),
                  "renormalise": draw(st.booleans()), "first_dense": draw(st.integers(0, layers - 1))}
    more: dict = {}
    if kind == "mixtral":
        free |= {"mlp_dim": mlp_dim, "renormalise": True, "first_dense": 0, "pooled_balance": True,
                 "balance_loss": 0.02}
        more = {"window": draw(st.sampled_from([None, 3]))}
    elif kind == "glm":
        free |= {"score": "sigmoid", "selection_bias": True, "shared": draw(st.integers(0, 3)),
                 "scale": draw(st.sampled_from([1.0, 2.5]))}
        more = {"qk_norm": draw(st.booleans()), "qkv_bias": biased}
    elif kind == "qwen2":
        free |= {"shared": draw(st.integers(1, 3)), "shared_gate": True, "pooled_balance": True, "balance_loss": 0.01}
        more = {"qkv_bias": biased}
    else:
        free |= {"pooled_balance": True}
        more = {"qk_norm": True, "qkv_bias": biased, "output_bias": biased}
    dim = heads * head_dim if kind == "qwen2" else draw(st.integers(2, 24))
    return DecoderConfig(
        family="mixtral" if kind == "mixtral" else "moe", vocab_size=draw(st.integers(7, 60)), dim=dim, layers=layers,
        heads=heads, kv_heads=kv_heads, head_dim=head_dim, mlp_dim=mlp_dim, context=64,
        rope_theta=draw(st.sampled_from([100.0, 10_000.0])), norm_eps=draw(st.sampled_from([1e-5, 1e-6])),
        tied_head=draw(st.booleans()), moe=MoEConfig(**free), **more)


def random_model(config: DecoderConfig, seed: int = 0) -> Decoder:
    """Weights large enough that a mistake shows, and a selection bias that changes choices."""
    model = Decoder(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("norm.weight"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            else:
                tensor.normal_(0.0, 0.3, generator=generator)
    return model.eval()


def example(kind: str, **changes) -> DecoderConfig:
    common: dict = {"experts": 5, "active": 2, "mlp_dim": 6}
    kinds: dict = {
        "mixtral": {"family": "mixtral",
                    "moe": MoEConfig(**common | {"mlp_dim": 20}, pooled_balance=True, balance_loss=0.02)},
        "glm": {"moe": MoEConfig(**common, shared=2, score="sigmoid", selection_bias=True, first_dense=1, scale=1.5),
                "qk_norm": True, "qkv_bias": True},
        "qwen2": {"moe": MoEConfig(**common, shared=2, shared_gate=True, renormalise=False, pooled_balance=True,
                                   balance_loss=0.01), "head_dim": 6, "qkv_bias": True},
        "qwen3": {"moe": MoEConfig(**common, pooled_balance=True, first_dense=1), "qk_norm": True},
    }
    return DecoderConfig(**{
        "family": "moe", "vocab_size": 61, "dim": 24, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 8,
        "mlp_dim": 20, "context": 64, **kinds[kind], **changes})


def clear(layer: MoE, routing: Routing) -> bool:
    """Whether no two experts are so close to being chosen that rounding decides."""
    settings = layer.settings
    scores = routing.logits.softmax(-1) if settings.score == "softmax" else routing.logits.sigmoid()
    ranked = (scores if layer.selection_bias is None else scores + layer.selection_bias).sort(dim=-1).values
    gaps = ranked[:, -settings.active] - ranked[:, -settings.active - 1] if settings.active < settings.experts else 1
    return bool(torch.as_tensor(gaps > 1e-5).all())


def public_model(folder):
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    model.set_experts_implementation("eager")
    return model


@given(config=configs())
@settings(max_examples=25, deadline=None, phases=[Phase.generate])
def test_blocks_and_logits_equal_transformers_and_the_slow_reader(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("moe")
    model = random_model(config)
    save_model(model, folder)
    inputs = {"input_ids": torch.tensor([proof.proof_ids(config.vocab_size, 17)])}
    with recorded(model) as routings:
        ours = proof.trace(model, inputs)
        assume(all(map(clear, expert_layers(model), routings())))
    for witness in (proof.trace_transformers, proof.trace_reference):
        found = proof.compare(ours, witness(folder, inputs))
        assert found["largest"] < 1e-5, (witness.__name__, found)
    again = load_model(folder)
    assert again.config == config
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


@given(config=configs())
@settings(max_examples=60, deadline=None)
def test_config_and_weight_names_are_exact_inverses(config):
    family = FAMILIES[config.family]
    assert family.config_from_public(family.config_to_public(config)) == config
    state = {name: torch.randn(tensor.shape) for name, tensor in skeleton(config).state_dict().items()}
    back = family.from_public(family.to_public(state, config), config, "here")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_equal_transformers(kind, tmp_path):
    """With rows of unequal length: padding counts neither for the loss nor for the balance."""
    config = example(kind)
    model = random_model(config)
    save_model(model, tmp_path)
    theirs = public_model(tmp_path)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 61, (3, 20), generator=generator)
    real = torch.arange(20) < torch.tensor([20, 13, 6])[:, None]
    labels = torch.where(real, ids, -100)
    with_aux = kind != "glm"
    kwargs = {"output_router_logits": True} if with_aux else {}
    expected = theirs(input_ids=ids, attention_mask=real.long(), labels=labels, **kwargs)
    expected.loss.backward()

    objective = with_router_losses(CausalLM(), config)
    batch = {"input_ids": ids, "document_ids": torch.where(real, 0, -1),
             "targets": torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)}
    counts, terms = objective.counts(batch), objective.terms(model, batch)
    loss = sum(objective.weights[n] / counts[n] * s for n, s in terms.sums.items())
    loss.backward()
    if with_aux and config.moe.balance_loss:
        assert set(terms.sums) == {"loss", "router_balance"}
        assert terms.sums["router_balance"].item() == pytest.approx(expected.aux_loss.item(), abs=1e-6)
    assert loss.item() == pytest.approx(expected.loss.item(), rel=2e-7)

    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    if config.moe.selection_bias:
        found |= {name: torch.zeros_like(bias) for name, bias in model.state_dict().items()
                  if name.endswith("selection_bias")}
    public = FAMILIES[config.family].to_public(found, config)
    wanted = FAMILIES[config.family].respell({name: p.grad for name, p in theirs.named_parameters()})
    for name, gradient in wanted.items():
        assert float((public[name] - gradient).abs().max()) < 1e-5 * float(gradient.abs().max()) + 1e-9, name
    assert set(public) - set(wanted) <= {n for n in public if n.endswith("e_score_correction_bias")}


@pytest.mark.parametrize("kind", KINDS)
def test_both_layouts_of_experts_are_read_and_greedy_text_is_the_same(kind, tmp_path):
    config = example(kind)
    save_model(random_model(config), tmp_path / "ours")
    theirs = public_model(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    theirs.config.save_pretrained(tmp_path / "fused")
    save_file({name: tensor.contiguous() for name, tensor in theirs.state_dict().items()},
              tmp_path / "fused" / "model.safetensors")
    assert any(n.endswith("gate_up_proj") for n in load_file(tmp_path / "fused" / "model.safetensors"))
    models = [load_model(tmp_path / name) for name in ("ours", "theirs", "fused")]
    for other in models[1:]:
        for name, tensor in models[0].state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor), name
    ids = torch.tensor([[5, 9, 33, 2]])
    long = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False,
                           eos_token_id=None, pad_token_id=0)[0].tolist()
    with torch.no_grad():
        for _ in range(20):
            ids = torch.cat([ids, models[0](ids)[:, -1:].argmax(-1)], dim=1)
    assert ids[0].tolist() == long


def test_a_folder_that_transformers_made_up_is_read(tmp_path):
    torch.manual_seed(0)
    theirs = transformers.MixtralForCausalLM(transformers.MixtralConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=40, num_local_experts=5, initializer_range=0.3, max_position_embeddings=64)).eval()
    theirs.save_pretrained(tmp_path)
    ids = torch.randint(0, 64, (2, 30))
    with torch.no_grad():
        expected, found = theirs(ids).logits, load_model(tmp_path)(ids)
    assert float((expected - found).abs().max()) < 1e-5 * float(expected.abs().max())


PUBLISHED = {("mixtral", "mixtral-8x7b"): 46_702_792_704, ("mixtral", "mixtral-8x22b"): 140_620_634_112,
             ("moe", "qwen1.5-moe-a2.7b"): 14_315_784_192, ("moe", "qwen3-30b-a3b"): 30_532_122_624}


@pytest.mark.parametrize(("family", "preset"), [(f, p) for f in ("mixtral", "moe") for p in FAMILIES[f].presets])
def test_presets_have_the_public_number_of_parameters(family, preset):
    config = FAMILIES[family].presets[preset]
    found = count_parameters(config)
    assert found == PUBLISHED.get((family, preset), found)
    content = FAMILIES[family].config_to_public(config)
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**content))
    assert found == theirs.num_parameters()


ACTIVE = {("mixtral", "mixtral-8x7b"): 12_879_659_008, ("mixtral", "mixtral-8x22b"): 39_151_337_472,
          ("moe", "qwen1.5-moe-a2.7b"): 2_688_925_696, ("moe", "qwen3-30b-a3b"): 3_352_821_760}
"""Published as 12.9 B, 39 B, 2.7 B, 3.3 B: the matrices a token passes through, the embedding included."""


@pytest.mark.parametrize(("family", "preset"), [(f, p) for f in ("mixtral", "moe") for p in FAMILIES[f].presets])
def test_active_parameters_of_presets_are_those_a_token_meets(family, preset):
    config = FAMILIES[family].presets[preset]
    counted = 0
    for parameter in skeleton(config).parameters():
        if parameter.ndim == 3:
            counted += parameter.numel() // config.experts * config.active_experts
        elif parameter.ndim == 2:
            counted += parameter.numel()
    lookup = 0 if config.tied_head else config.vocab_size * config.dim
    assert config.matmul_parameters + lookup == counted == ACTIVE.get((family, preset), counted)
    page = (DOCS / f"{family}.md").read_text("utf-8")
    assert f"| `{preset}` | {count_parameters(config):,} | {counted:,} |" in page


def test_fine_grained_experts_are_as_much_work_as_one_dense_layer():
    dense = ModelSpec(family="llama", depth=4, dim=128).resolve(512)[0]
    sparse = ModelSpec(family="moe", depth=4, dim=128).resolve(512)[0]
    routers = sparse.layers * sparse.dim * sparse.experts
    assert sparse.moe.width * 4 == dense.mlp_dim
    assert sparse.matmul_parameters == dense.matmul_parameters + routers
    assert sparse.flops_per_token(256) - dense.flops_per_token(256) == 6 * routers


def test_recipes_change_single_fields_of_the_experts():
    spec = ModelSpec(family="moe", depth=2, dim=128, options={"moe": {"experts": 6, "granularity": 3}})
    config, _ = spec.resolve(512)
    assert (config.experts, config.active_experts, config.moe.score) == (6, 3, "sigmoid")
    assert config.moe.width == -(-config.mlp_dim // 3)
    config, _ = ModelSpec(family="mixtral", preset="tiny", options={"moe": {"active": 1}}).resolve(512)
    assert (config.experts, config.active_experts) == (4, 1)


@pytest.mark.parametrize(("spec", "said"), [
    ({"family": "moe", "options": {"moe": {"expert": 6}}}, "did you mean experts"),
    ({"family": "moe", "options": {"moe": 6}}, "fields by name"),
    ({"family": "moe", "options": {"moe": {"active": 17}}}, "17 of 16 experts"),
    ({"family": "moe", "options": {"moe": {"active": 0}}}, "at least 1"),
    ({"family": "moe", "options": {"moe": {"first_dense": 6}}}, "none would be left"),
    ({"family": "moe", "options": {"moe": {"shared_gate": True}}}, "no place for moe.shared_gate"),
    ({"family": "moe", "options": {"moe": {"shared": 0, "shared_gate": True}}}, "no shared experts to gate"),
    ({"family": "moe", "options": {"moe": {"selection_bias": False}}}, "no place for moe.selection_bias = False"),
    ({"family": "moe", "options": {"mlp": "relu2"}}, "no place for mlp = 'relu2'"),
    ({"family": "mixtral", "options": {"moe": {"shared": 1}}}, "MixtralForCausalLM has no place for moe.shared = 1"),
    ({"family": "mixtral", "options": {"moe": {"granularity": 2}}}, "no place for moe.mlp_dim"),
    ({"family": "mixtral", "options": {"mlp_bias": True}}, "no biases"),
    ({"family": "llama", "options": {"moe": {}}}, "families with experts"),
    ({"family": "mixtral", "options": {"moe": {"capacity": 0.0}}}, "capacity"),
])
def test_impossible_mixtures_are_refused_before_anything_is_trained(spec, said):
    with pytest.raises(UserError, match=said):
        ModelSpec(**spec).resolve(512)


@pytest.mark.parametrize(("kind", "change", "said"), [
    ("glm", {"partial_rotary_factor": 0.5}, "over 0.5 of each head"), ("glm", {"n_group": 4}, "n_group"),
    ("qwen2", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
    ("qwen2", {"mlp_only_layers": [2]}, "mlp_only_layers"),
    ("qwen2", {"shared_expert_intermediate_size": 7}, "no multiple"),
    ("qwen3", {"use_sliding_window": True}, "sliding"),
    ("mixtral", {"hidden_act": "gelu"}, "hidden_act"),
    ("mixtral", {"router_jitter_noise": 0.1}, "router_jitter_noise"),
    ("mixtral", {"num_local_experts": None}, "experts"),
    ("mixtral", {"num_experts_per_tok": 9}, "9 of 5 experts"),
])
def test_public_configs_that_we_cannot_compute_are_refused(kind, change, said):
    config = example(kind)
    family = FAMILIES[config.family]
    with pytest.raises(UserError, match=said):
        family.config_from_public({**family.config_to_public(config), **change})


def test_a_missing_expert_is_named():
    config = example("mixtral")
    family = FAMILIES["mixtral"]
    public = family.to_public(random_model(config).state_dict(), config)
    del public["model.layers.1.block_sparse_moe.experts.4.w2.weight"]
    with pytest.raises(UserError, match=r"1 missing: model.layers.1.block_sparse_moe.experts.4.w2.weight"):
        family.from_public(public, config, "here")


def test_documents_in_a_row_and_padding_do_not_leak():
    """What another document or padding holds changes nothing, packed or not: nothing is ever dropped."""
    for kind in KINDS:
        model = random_model(example(kind))
        ids = torch.randint(0, 61, (1, 24), generator=torch.Generator().manual_seed(2))
        documents = torch.tensor([[0] * 7 + [1] * 11 + [-1] * 6])
        whole = model(ids, document_ids=documents)
        torch.testing.assert_close(whole[:, 7:18], model(ids[:, 7:18]), atol=1e-5, rtol=1e-5)
        other = ids.clone()
        other[:, :7], other[:, 18:] = 3, 4
        torch.testing.assert_close(model(other, document_ids=documents)[:, 7:18], whole[:, 7:18], atol=1e-5, rtol=1e-5)


def test_bf16_folders_keep_what_they_can(tmp_path):
    save_model(random_model(example("glm")), tmp_path, dtype=torch.bfloat16)
    inputs = {"input_ids": torch.tensor([proof.proof_ids(61, 20)])}
    found = proof.compare(proof.trace(load_model(tmp_path), inputs), proof.trace_reference(tmp_path, inputs))
    assert found["largest"] < 1e-5


def test_fields_of_training_survive_the_folder(tmp_path):
    moe = dataclasses.replace(example("glm").moe, z_loss=0.003, bias_rate=0.02, capacity=1.5, balance_loss=0.007)
    config = example("glm", moe=moe)
    save_model(random_model(config), tmp_path)
    assert load_model(tmp_path).config == config
