"""Matrices, rows and vocabulary cut over processes: tensor and sequence parallelism against one process."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from gristmill.core.errors import UserError
from gristmill.models.config import EncoderConfig, EncoderDecoderConfig
from gristmill.models.encoder import Encoder
from gristmill.models.encoder_decoder import EncoderDecoder
from gristmill.objectives.causal_lm import CausalLM
from gristmill.objectives.cross_entropy import head_loss
from gristmill.objectives.masked_lm import MaskedLM
from gristmill.objectives.r_drop import RDrop
from gristmill.objectives.sequence_to_sequence import SequenceToSequence
from gristmill.training.parallel import Layout
from gristmill.training.parallel.apply import parallelise
from gristmill.training.parallel.vocabulary_loss import VocabularyLoss
from tests.training.parallel.parity import (
    COMPUTE,
    alone,
    compare,
    differences,
    gradients,
    made,
    rows,
    scattered,
    tiny,
    together,
    worst,
)
from tests.training.parallel.ranks import Collectives, run_ranks, world_of

CONFIGS = {
    "llama": tiny(),
    "tied, GQA, qk-norm": tiny(tied_head=True, kv_heads=2, qk_norm=True, layers=1),
    "gpt2": tiny(positions="learned", norm="layer", mlp="gelu", qkv_bias=True, output_bias=True, mlp_bias=True,
                 tied_head=True),
    "parallel block": tiny(parallel=True, norm="layer", norm_bias=False, mlp="geglu", head_dim=16),
    "value embeddings": tiny(value_embeddings=True, kv_heads=2, logit_scale=0),
    "experts": tiny(moe=True),
}


def _differences(rank: int, text: str, name: str, micro: int) -> dict[str, float]:
    return differences(Layout.parse(text), CONFIGS[name], micro)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("layout", ["tensor=2", "tensor=2,sequence=false"])
def test_two_processes_have_the_loss_and_gradients_of_one(layout, name):
    found = worst(run_ranks(_differences, 2, layout, name, 2))
    assert found[1] < 1e-6, found


@pytest.mark.parametrize("name", ["tied, GQA, qk-norm", "gpt2"])
@pytest.mark.parametrize("layout", ["tensor=4", "shard=2,tensor=2", "replicate=2,tensor=2,sequence=false"])
def test_four_processes_have_the_loss_and_gradients_of_one(layout, name):
    if layout == "tensor=4" and name != "gpt2":
        pytest.skip("two heads of keys cannot be cut into four")
    found = worst(run_ranks(_differences, 4, layout, name, 1))
    assert found[1] < 1e-6, found


def _collectives(rank: int, text: str, name: str) -> dict[str, int]:
    config, objective, world = CONFIGS[name], CausalLM(), world_of(Layout.parse(text))
    model = made(config)
    passes = parallelise(model, objective, None, world, COMPUTE)
    with Collectives() as seen:
        together(passes, objective, rows(config), world)
    return dict(seen.counts)


LOSS = {"allreduce": 2}
"""A maximum and the sums of the only chunk; all processes have the same loss for the report."""


def test_a_block_sums_twice_each_way_where_residuals_are_whole():
    blocks = 2
    entrance, exit_ = 1, 1  # the embedding, forward; what reads the last states, backward
    summed = 4 * blocks + entrance + exit_
    assert run_ranks(_collectives, 2, "tensor=2,sequence=false", "llama")[0] == {**LOSS, "all_reduce": summed}


def test_sums_are_scattered_and_gathered_where_rows_are_cut():
    blocks, norms = 2, 2 * 2 + 1
    forward_scatters, forward_gathers = 2 * blocks + 1, 2 * blocks + 1  # out of layers and the embedding; into readers
    found = run_ranks(_collectives, 2, "tensor=2", "llama")[0]
    assert found == {**LOSS, "reduce_scatter_tensor": forward_scatters + forward_gathers,
                     "all_gather_into_tensor": forward_gathers + forward_scatters, "all_reduce": norms}


LOSSES: dict[str, dict[str, Any]] = {
    "plain": {}, "smoothed": {"label_smoothing": 0.1}, "z": {"z_loss": 1e-2},
    "all": {"label_smoothing": 0.1, "z_loss": 1e-2, "soft_cap": 3.0},
}


def _head_loss(rank: int, name: str, ties: bool) -> tuple[dict[str, float], list[int]]:
    """A head with a bias, over several chunks, against the whole one."""
    torch.manual_seed(5)
    hidden, head, bias = torch.randn(37, 8), torch.randn(12, 8), torch.randn(12)
    if ties:  # every token of two equals one of another process, and of the same one
        head, bias = head[:3].repeat(4, 1), bias[:3].repeat(4)
    targets = torch.randint(12, (37,))
    targets[::5] = -100
    mesh = world_of(Layout(tensor=2)).mesh["tensor"]  # type: ignore[index]
    wanted = [t.clone().requires_grad_() for t in (hidden, head, bias)]
    expected = head_loss(wanted[0], wanted[1], targets, 5, bias=wanted[2], **LOSSES[name])
    (expected.total * 1.5).backward()
    states = hidden.clone().requires_grad_()
    cut = [distribute_tensor(t, mesh, [Shard(0)]).requires_grad_() for t in (head, bias)]
    found = VocabularyLoss(mesh.get_group())(states, cut[0], targets, 5, bias=cut[1], **LOSSES[name])
    (found.total * 1.5).backward()
    numbers = {f"value {at}": abs(float(a) - float(b)) / max(abs(float(b)), 1)
               for at, (a, b) in enumerate(zip(found, expected, strict=True))}
    for at, (a, b) in enumerate(zip((states, *cut), wanted, strict=True)):
        gradient = a.grad.full_tensor() if isinstance(a.grad, DTensor) else a.grad
        numbers[f"gradient {at}"] = float((gradient - b.grad).abs().max() / b.grad.abs().max())  # type: ignore
    with torch.no_grad():
        again = VocabularyLoss(mesh.get_group())(states, cut[0], targets, 5, bias=cut[1], **LOSSES[name])
    assert float(again.total) == float(found.total)
    return numbers, [int(found.correct), int(expected.correct)]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_over_a_cut_vocabulary_is_that_over_a_whole_one(name, ties):
    results = run_ranks(_head_loss, 2, name, ties)
    assert results[0][1][0] == results[0][1][1] > 0
    assert worst([numbers for numbers, _ in results])[1] < 1e-6


ROWS = {"llama": CONFIGS["llama"], "gpt2": CONFIGS["gpt2"], "experts": CONFIGS["experts"],
        "dynamic": tiny(context=10, rope_scaling={"rope_type": "dynamic", "factor": 4.0})}


def _odd_rows(rank: int, text: str, name: str, documents: bool) -> dict[str, float]:
    return differences(Layout.parse(text), ROWS[name], time=15, documents=documents)


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("name", ROWS)
def test_rows_that_cannot_be_cut_are_filled_up(name, documents):
    if name == "dynamic" and documents:
        pytest.skip("one text alone, whose length scales its positions")
    found = worst(run_ranks(_odd_rows, 2, "tensor=2", name, documents))
    assert found[1] < 3e-6, found


@pytest.mark.slow
def test_the_shares_of_rows_are_filled_up_too():
    found = worst(run_ranks(_odd_rows, 8, "context=2,tensor=4", "gpt2", True))
    assert found[1] < 3e-6, found


def _regularised(rank: int) -> dict[str, float]:
    return differences(Layout(tensor=2), CONFIGS["llama"], 1, CausalLM(label_smoothing=0.1, z_loss=1e-3))


def test_the_options_of_the_objective_reach_the_cut_loss():
    assert worst(run_ranks(_regularised, 2))[1] < 1e-6


def _logits(rank: int, text: str) -> float:
    model = made(CONFIGS["llama"])
    ids = rows(CONFIGS["llama"])["input_ids"][:, :15]
    with torch.no_grad():
        expected = model(ids)
    passes = parallelise(model, CausalLM(), None, world_of(Layout.parse(text)), COMPUTE)
    return float((passes.within(lambda inner: inner(ids)) - expected).abs().max())


@pytest.mark.parametrize("layout", ["tensor=2", "tensor=2,sequence=false"])
def test_called_as_a_whole_the_model_gives_whole_logits(layout):
    assert max(run_ranks(_logits, 2, layout)) < 1e-4


def _other_bodies(rank: int, text: str, kind: str) -> dict[str, float]:
    sizes: dict[str, Any] = {"vocab_size": 64, "dim": 32, "layers": 2, "heads": 4, "head_dim": 8,
                             "mlp_dim": 48}
    torch.manual_seed(0)
    batch = rows(tiny(), 4)
    if kind == "encoder":
        model: Any = Encoder(EncoderConfig(family="bert", context=64, **sizes))
        objective: Any = MaskedLM()
    else:
        model = EncoderDecoder(EncoderDecoderConfig(context=64, decoder_layers=2, **sizes))
        objective = SequenceToSequence()
        batch = {"input_ids": batch["input_ids"], "decoder_input_ids": batch["input_ids"].roll(1, 1),
                 "targets": batch["targets"]}
    scattered(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if kind == "encoder-decoder" and name.endswith("query.weight"):  # such scores have no other scale
                parameter.mul_(8**-0.5)
    oracle = copy.deepcopy(model)
    loss, expected = alone(oracle, objective, batch)
    world = world_of(Layout.parse(text))
    passes = parallelise(model, objective, None, world, COMPUTE)
    found = together(passes, objective, batch, world)
    return {"loss": abs(found - loss) / loss} | compare(gradients(model), expected)


@pytest.mark.parametrize("kind", ["encoder", "encoder-decoder"])
def test_the_blocks_of_other_bodies_are_cut(kind):
    found = worst(run_ranks(_other_bodies, 2, "tensor=2", kind))
    assert found[1] < 1e-6, found


def _refused(rank: int, name: str) -> str:
    config: Any = {"heads": tiny(heads=3, kv_heads=3), "kv_heads": tiny(kv_heads=1), "mlp_dim": tiny(mlp_dim=47),
                   "vocab_size": tiny(vocab_size=63)}.get(name, tiny())
    objective: Any = RDrop(CausalLM(), 1.0) if name == "RDrop" else CausalLM()
    try:
        parallelise(made(config), objective, None, world_of(Layout(tensor=2)), COMPUTE)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("name", "said"), [
    ("heads", "heads = 3 cannot be cut into 2 equal parts"), ("kv_heads", "kv_heads = 1 cannot"),
    ("mlp_dim", "mlp_dim = 47 cannot"), ("vocab_size", "vocab_size = 63 cannot"),
    ("RDrop", "RDrop reads the whole vocabulary")])
def test_what_does_not_divide_is_refused_with_a_way_out(name, said):
    for error in run_ranks(_refused, 2, name):
        assert said in error
