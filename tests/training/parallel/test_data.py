"""Processes that read other rows: DDP, FSDP2 and HSDP against one process."""

from __future__ import annotations

import os
import tempfile
import warnings
from unittest import mock

import pytest
import torch

from gristmill.models.config import EncoderConfig, TwoStreamConfig
from gristmill.models.encoder import Encoder
from gristmill.models.two_stream import TwoStream
from gristmill.objectives.causal_lm import CausalLM
from gristmill.objectives.masked_lm import MaskedLM
from gristmill.objectives.permutation_lm import PermutationLM
from gristmill.training.device import Compute
from gristmill.training.parallel import Layout, apply
from gristmill.training.parallel import data as data_parallel
from gristmill.training.parallel.apply import Settings, parallelise
from tests.training.parallel.parity import (
    COMPUTE,
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
    "tied, GQA, qk-norm": tiny(tied_head=True, kv_heads=2, qk_norm=True),
    "gpt2": tiny(positions="learned", norm="layer", mlp="gelu", qkv_bias=True, output_bias=True, mlp_bias=True,
                 tied_head=True),
    "value embeddings": tiny(value_embeddings=True, kv_heads=2, logit_scale=0),
    "experts": tiny(moe=True),
}


def _differences(rank: int, text: str, name: str, micro: int) -> dict[str, float]:
    return differences(Layout.parse(text), CONFIGS[name], micro)


@pytest.mark.parametrize("micro", [1, 2])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("layout", ["replicate=2", "shard=2"])
def test_two_processes_have_the_loss_and_gradients_of_one(layout, name, micro):
    found = worst(run_ranks(_differences, 2, layout, name, micro))
    assert found[1] < 1e-6, found


@pytest.mark.parametrize("name", ["llama", "experts"])
@pytest.mark.parametrize("layout", ["replicate=4", "shard=4", "replicate=2,shard=2"])
def test_four_processes_have_the_loss_and_gradients_of_one(layout, name):
    found = worst(run_ranks(_differences, 4, layout, name, 2))
    assert found[1] < 1e-6, found


def _again(rank: int, text: str) -> list[str]:
    """Gradients of the second update that are not those of the first, of the same rows."""
    config, objective, world = tiny(layers=3), CausalLM(), world_of(Layout.parse(text))
    model, found = made(config), []
    passes = parallelise(model, objective, None, world, COMPUTE)
    for _ in range(2):
        model.zero_grad()
        together(passes, objective, rows(config), world)
        found.append({name: gradient.clone() for name, gradient in gradients(model).items()})
    return [name for name, gradient in found[0].items() if not torch.equal(gradient, found[1][name])]


@pytest.mark.parametrize("layout", ["replicate=4", "shard=4"])
def test_the_first_update_of_a_run_that_goes_on_has_the_bits_of_any_other(layout):
    assert run_ranks(_again, 4, layout) == [[]] * 4


def _small_memory(rank: int, text: str, name: str) -> dict[str, float]:
    with mock.patch.object(data_parallel, "KEPT_SHARE", 0.0):
        return differences(Layout.parse(text), CONFIGS[name], 2, rounds=2)


@pytest.mark.parametrize("name", ["llama", "value embeddings"])
@pytest.mark.parametrize(("size", "layout"), [(2, "shard=2"), (4, "replicate=2,shard=2"), (4, "shard=2,tensor=2")])
def test_where_memory_is_short_sums_are_taken_every_micro_batch_with_the_same_result(size, layout, name):
    found = worst(run_ranks(_small_memory, size, layout, name))
    assert found[1] < 1e-6, found


def _collectives(rank: int, text: str, share: float, micro: int) -> tuple[dict[str, int], int, int]:
    config, objective, world = tiny(layers=3), CausalLM(), world_of(Layout.parse(text))
    model = made(config)
    numbers = sum(p.numel() for p in model.parameters())
    with mock.patch.object(data_parallel, "KEPT_SHARE", share):
        passes = parallelise(model, objective, None, world, COMPUTE)
    batch = rows(config)
    for _ in range(2):  # DDP lays its buckets out in the second update
        together(passes, objective, batch, world, micro)
    with Collectives() as seen:
        together(passes, objective, batch, world, micro)
    return dict(seen.counts), config.layers, numbers


REPORTED = 1
"""The all-reduce of the loss for the report."""


def test_replicas_add_each_bucket_once_an_update():
    counts, _, numbers = run_ranks(_collectives, 2, "replicate=2", 0.25, 2)[0]
    assert numbers * 4 < 2**20  # the first bucket's size: everything is in one
    assert counts == {"allreduce": 1 + REPORTED}


@pytest.mark.parametrize("micro", [1, 2])
def test_shares_gather_once_a_micro_batch_and_add_once_an_update_where_memory_allows(micro):
    counts, layers, _ = run_ranks(_collectives, 2, "shard=2", 0.25, micro)[0]
    groups = layers + 1
    assert counts == {"allgather_base": groups * micro, "reduce_scatter_base": groups, "allreduce": REPORTED}


def test_shares_gather_again_for_the_backward_pass_where_memory_is_short():
    counts, layers, _ = run_ranks(_collectives, 2, "shard=2", 0.0, 2)[0]
    micro, forward, backward = 2, layers + 1, layers  # the root group is kept from forward to backward
    assert counts == {"allgather_base": micro * (forward + backward), "reduce_scatter_base": micro * (layers + 1),
                      "allreduce": REPORTED}


def test_copies_of_shares_add_within_and_then_across():
    counts, layers, _ = run_ranks(_collectives, 4, "replicate=2,shard=2", 0.25, 2)[0]
    groups = layers + 1
    assert counts == {"allgather_base": groups * 2, "reduce_scatter_base": groups, "allreduce": groups + REPORTED}


def _names(rank: int, text: str) -> list[str]:
    model = made(tiny())
    parallelise(model, CausalLM(), None, world_of(Layout.parse(text)), COMPUTE)
    return [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("layout", ["replicate=2", "shard=2"])
def test_parameters_keep_their_names(layout):
    expected = [name for name, _ in made(tiny()).named_parameters()]
    assert run_ranks(_names, 2, layout) == [expected, expected]


def _in_bf16(rank: int, text: str, name: str, micro: int, share: float = 0.25, settings: Settings = Settings(),
             ) -> tuple[float, dict[str, torch.Tensor], dict[str, int]]:
    """The loss, every gradient and what was sent, with bf16 inside."""
    config, objective, world = CONFIGS[name], CausalLM(), world_of(Layout.parse(text))
    model = made(config)
    with mock.patch.object(data_parallel, "KEPT_SHARE", share), mock.patch.object(apply, "compile_blocks", traced):
        passes = parallelise(model, objective, None, world, Compute(torch.device("cpu"), torch.bfloat16, 1), settings)
    batch = rows(config)
    together(passes, objective, batch, world, micro)
    model.zero_grad()
    with Collectives() as seen:
        loss = together(passes, objective, batch, world, micro)
    return loss, gradients(model), dict(seen.counts)


@pytest.mark.parametrize("micro", [1, 2])
@pytest.mark.parametrize("name", CONFIGS)
def test_in_bf16_shares_compute_what_copies_compute_bit_for_bit(name, micro):
    """Norms, routers and tables of value embeddings stay in fp32, and no message is sent for them."""
    copies, shares = (run_ranks(_in_bf16, 2, layout, name, micro)[0] for layout in ("replicate=2", "shard=2"))
    assert_same_bits(shares, copies)
    groups = CONFIGS[name].layers + 1
    assert shares[2] == {"allgather_base": groups * micro, "reduce_scatter_base": groups, "allreduce": REPORTED}


@pytest.mark.parametrize("settings", [Settings(), Settings(checkpointing="full"), Settings(compile=True)])
def test_where_memory_is_short_each_table_of_value_embeddings_is_gathered_for_its_reading_alone(settings):
    """Bit for bit as in copies, in fp32; and once, as its gradient needs no row of it. (Of several micro-batches sums
    are taken in another order.)"""
    name, micro = "value embeddings", 1
    copies = run_ranks(_in_bf16, 2, "replicate=2", name, micro, 0.25, settings)[0]
    shares = run_ranks(_in_bf16, 2, "shard=2", name, micro, 0.0, settings)[0]
    assert_same_bits(shares, copies)
    layers = CONFIGS[name].layers
    tables = 1 if settings.checkpointing == "none" else 2  # recomputed, it is read again
    assert shares[2] == {"allgather_base": 2 * layers + 1 + tables, "reduce_scatter_base": layers + 1 + 1,
                         "allreduce": REPORTED}


def assert_same_bits(found: tuple, expected: tuple) -> None:
    """Of loss and gradients."""
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    assert [name for name, gradient in found[1].items() if not torch.equal(gradient, expected[1][name])] == []


def test_in_bf16_stages_of_shares_compute_what_stages_of_copies_compute():
    copies, shares = (run_ranks(_in_bf16, 4, f"pipeline=2,{axis}=2", "experts", 2) for axis in ("replicate", "shard"))
    for found, expected in zip(shares, copies, strict=True):
        assert_same_bits(found, expected)


def traced(model: torch.nn.Module) -> None:
    """In place of `compile_blocks` and `compile_last_norm`, without a compiler."""
    for part in (*model.blocks, model.norm):  # type: ignore[misc]
        part.compile(backend="aot_eager", dynamic=False)


def _compiled(rank: int, text: str, name: str) -> dict[str, float]:
    with mock.patch.object(apply, "compile_blocks", traced):
        return differences(Layout.parse(text), CONFIGS[name], 2, rounds=2, settings=Settings(compile=True))


@pytest.mark.parametrize("name", ["tied, GQA, qk-norm", "experts", "value embeddings"])
def test_compiled_blocks_find_what_is_gathered_around_them(name):
    found = worst(run_ranks(_compiled, 2, "shard=2", name))
    assert found[1] < 1e-6, found


def _after_scoring(rank: int, text: str) -> tuple[float, float, float]:
    """Score, change the weights, score again: what was gathered for the first must not serve the second."""
    config, objective, world = tiny(), CausalLM(), world_of(Layout.parse(text))
    model = made(config)
    passes = parallelise(model, objective, None, world, COMPUTE)
    batch = {name: tensor[:2] for name, tensor in rows(config).items()}
    before = float(passes.score(batch)[0]["loss"])
    used = float(passes.within(lambda inner: objective.terms(inner, batch).sums["loss"]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    after = float(passes.score(batch)[0]["loss"])
    oracle = made(config)
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.mul_(0.5)
        expected = float(objective.terms(oracle, batch).sums["loss"])
    assert abs(used - before) < 1e-4
    return before, after, expected


@pytest.mark.parametrize("layout", ["replicate=2", "shard=2"])
def test_what_was_gathered_for_a_score_is_forgotten(layout):
    for before, after, expected in run_ranks(_after_scoring, 2, layout):
        assert after == pytest.approx(expected, rel=1e-6)
        assert abs(before - after) > 1


def _from_the_first(rank: int, text: str) -> dict[str, float]:
    """All but the first process know shapes only, and the first one's weights come out everywhere."""
    config = CONFIGS["value embeddings"]
    layout = Layout.parse(text)
    model = made(config)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if rank:
        model = model.to("meta")
    passes = parallelise(model, CausalLM(), None, world_of(layout), COMPUTE)
    batch = {name: tensor[:2] for name, tensor in rows(config).items()}
    loss = float(passes.score(batch)[0]["loss"])
    oracle = made(config)
    with torch.no_grad():
        wanted = float(CausalLM().terms(oracle, batch).sums["loss"])
    found = {n: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach() for n, p in model.named_parameters()}
    errors = {name: float((tensor - expected[name]).abs().max()) for name, tensor in found.items()}
    return errors | {"loss": abs(loss - wanted) / wanted}


@pytest.mark.parametrize("layout", ["replicate=2", "shard=2", "shard=2,offload=true"])
def test_one_process_alone_may_hold_the_model(layout):
    found = worst(run_ranks(_from_the_first, 2, layout))
    assert found[1] < 1e-6, found


def _said(rank: int) -> str:
    """What an update and its copies write to standard error, past Python."""
    config = EncoderConfig(vocab_size=64, dim=32, layers=1, heads=4, head_dim=8, mlp_dim=48, context=64)
    objective, world = MaskedLM(), world_of(Layout(replicate=2))
    passes = parallelise(scattered(Encoder(config)), objective, None, world, COMPUTE)
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            together(passes, objective, rows(config), world)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        return file.read().decode()


def test_torch_does_not_warn_that_no_weight_lies_idle():
    assert run_ranks(_said, 2, fresh=True) == ["", ""]


def _warned(rank: int) -> list[str]:
    """By an update of a model with two streams, whose last block leaves one of them as it is."""
    config = TwoStreamConfig(vocab_size=64, dim=32, layers=2, heads=4, head_dim=8, mlp_dim=48)
    data = rows(config, documents=False)
    data |= {"ranks": torch.full((8, 16), -1), "target_positions": torch.arange(16).expand(8, 16)}
    objective, world = PermutationLM(), world_of(Layout(shard=2))
    passes = parallelise(scattered(TwoStream(config)), objective, None, world, COMPUTE)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        together(passes, objective, data, world)
    return [str(warning.message) for warning in said]


def test_torch_does_not_warn_of_what_the_last_block_leaves_as_it_is():
    assert run_ranks(_warned, 2) == [[], []]
