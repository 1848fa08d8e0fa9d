"""Experts spread over 2 and 4 processes against one process: losses, every gradient, choices and 20 updates; loads that
are uneven to the last, what is sent, and what lies where."""

from __future__ import annotations

import dataclasses
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gristmill.core.errors import UserError
from gristmill.models.config import DecoderConfig, MoEConfig
from gristmill.models.decoder import Decoder
from gristmill.models.layers import experts as paths
from gristmill.models.layers.moe import expert_layers, rebalance
from gristmill.objectives import CausalLM
from gristmill.objectives.base import Batch
from gristmill.objectives.moe_losses import with_router_losses
from gristmill.training.accumulate import Passes
from gristmill.training.device import Compute
from gristmill.training.parallel import Layout, World
from gristmill.training.parallel.apply import Settings, parallelise
from gristmill.training.parallel.expert import spread_experts
from tests.training.parallel.ranks import run_ranks, world_of

VOCABULARY, ROWS, TIME = 64, 4, 16
MIXTRAL = MoEConfig(experts=4, active=2, mlp_dim=8, balance_loss=0.5, z_loss=0.1)
CONFIGS: dict[str, MoEConfig] = {
    "mixtral": MIXTRAL,
    "deepseek": MoEConfig(experts=8, active=3, mlp_dim=12, shared=1, score="sigmoid", selection_bias=True,
                          bias_rate=0.004, scale=1.5, first_dense=1),
    "capacity": dataclasses.replace(MIXTRAL, capacity=0.6),
    "one": dataclasses.replace(MIXTRAL, active=1, renormalise=False),
    "last layer": dataclasses.replace(MIXTRAL, first_dense=2),
}

EMPTY: tuple[list[int], ...] = ([], [4, 5, 6, 7], [0, 1, 2, 3, 5])
"""Experts that nobody chooses: with two and four processes, some hold no others."""


def config(name: str) -> DecoderConfig:
    return DecoderConfig(
        family="moe", vocab_size=VOCABULARY, dim=32, layers=3, heads=4, kv_heads=2, head_dim=8, mlp_dim=48,
        context=TIME, moe=CONFIGS[name])


def model_of(name: str) -> Decoder:
    model = Decoder(config(name))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5, generator=generator)
        model.embedding.weight.normal_(generator=generator)
    return model


def never(model: Decoder, experts: list[int]) -> None:
    """Let no token choose these, and every token another one."""
    for layer in expert_layers(model):
        assert layer.selection_bias is not None
        layer.selection_bias[experts] = -100.0
        layer.selection_bias[0 if 0 not in experts else 7] = 100.0


def window_of(step: int = 0) -> list[Batch]:
    """Micro-batches of a row each, with documents and padding."""
    generator = torch.Generator().manual_seed(5 + step)
    ids = torch.randint(0, VOCABULARY, (ROWS, TIME + 1), generator=generator)
    documents = (torch.arange(TIME) > torch.tensor([4, 9, 15, 0])[:, None]).long()
    targets = ids[:, 1:].clone()
    documents[1, 12:], targets[1, 12:] = -1, -100
    whole = {"input_ids": ids[:, :-1], "targets": targets, "document_ids": documents}
    return [{name: tensor[row:row + 1] for name, tensor in whole.items()} for row in range(ROWS)]


def spread(model: Decoder, world: World, settings: Settings = Settings()) -> tuple[Any, Passes]:
    objective = with_router_losses(CausalLM(), model.config)
    return objective, parallelise(model, objective, None, world, Compute(world.device, torch.float32, 1), settings)


def update(objective: Any, passes: Passes, world: World, window: list[Batch]) -> Tensor:
    """Gradients of this process's rows; returns the loss of all."""
    counts: dict[str, int] = {}
    for batch in window:
        for name, count in objective.counts(batch).items():
            counts[name] = counts.get(name, 0) + count
    share = ROWS // world.data_size
    sums, _ = passes.run(window[world.data_rank * share:][:share],
                         {name: weight / counts[name] for name, weight in objective.weights.items()})
    loss = torch.zeros(())
    for name, value in sums.items():  # a stage of a pipeline has its own terms only
        loss = loss + objective.weights[name] / counts[name] * value
    return world.sum(loss, "updates")


def far(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}


# -- on the ranks ------------------------------------------------------------------------------------------------------


def check_layouts(rank: int, layouts: list[str], names: list[str]) -> list[str]:
    wrong = []
    for name in names:
        for empty in EMPTY if CONFIGS[name].selection_bias else EMPTY[:1]:
            model = model_of(name)
            if empty:
                never(model, empty)
            alone = World.alone()
            expected, loads = update(*spread(model, alone), alone, window_of()), rebalance(model)
            reference = gradients(model)
            for text in layouts:
                world = world_of(Layout.parse(text))
                model = model_of(name)
                if empty:
                    never(model, empty)
                before = {n: p.detach().clone() for n, p in model.named_parameters()}
                objective, passes = spread(model, world)
                loss = update(objective, passes, world, window_of())
                found = gradients(model)
                if world.layout.pipeline == 1:
                    assert list(before) == [n for n, _ in model.named_parameters()]
                    assert found.keys() == reference.keys()
                assert all(torch.equal(whole(p.detach()), before[n]) for n, p in model.named_parameters())
                assert all(not layer.load[empty].any() for layer in expert_layers(model))
                worst = max(far(loss, expected), max(far(found[n], reference[n]) for n in found))
                same = {n: round(v, 9) for n, v in rebalance(model, world.sum, world.of_stages).items()} == {
                    n: round(v, 9) for n, v in loads.items()}
                if worst > 1e-6 or not same:
                    wrong.append(f"{text}, {name}, {empty}: {worst:.1e}, {same}")
    return wrong


def train(rank: int, text: str, steps: int) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of `steps` updates, and the selection biases after them."""
    world = World.alone() if text == "none" else world_of(Layout.parse(text))
    model = model_of("deepseek")
    objective, passes = spread(model, world)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(steps):
        losses.append(float(update(objective, passes, world, window_of(step % 2))))
        optimizer.step()
        optimizer.zero_grad()
        rebalance(model, world.sum)
    return losses, {name: buffer for name, buffer in model.named_buffers() if name.endswith("selection_bias")}


def count_exchanges(rank: int) -> list[int]:
    """Numbers that each call gives away, in a micro-batch of one row."""
    world = world_of(Layout(shard=2, expert=2))
    model = model_of("mixtral")
    objective, passes = spread(model, world)
    with mock.patch.object(dist, "all_to_all_single", side_effect=dist.all_to_all_single) as called:
        passes.run(window_of()[rank:][:1], dict.fromkeys(objective.weights, 1.0))
    return [len(call.args[1]) for call in called.call_args_list]


def where_things_lie(rank: int) -> dict[str, tuple[int, str]]:
    world = world_of(Layout(shard=4, expert=2))
    model = model_of("mixtral")
    spread(model, world)
    return {name: (p.to_local().numel(), str(p.placements)) for name, p in model.named_parameters()
            if isinstance(p, DTensor)}


def without_groups(rank: int) -> float:
    """The loop over experts in place of the grouped product."""
    with mock.patch.object(paths, "can_group", return_value=False):
        wrong = check_layouts(rank, ["shard=2,expert=2"], ["deepseek"])
    assert not wrong, wrong
    return 0.0


def with_checkpointing(rank: int) -> float:
    model = model_of("deepseek")
    alone = World.alone()
    update(*spread(model, alone), alone, window_of())
    reference = gradients(model)
    world = world_of(Layout(shard=2, expert=2))
    model = model_of("deepseek")
    objective, passes = spread(model, world, Settings(checkpointing="full"))
    update(objective, passes, world, window_of())
    found = gradients(model)
    return max(far(found[n], reference[n]) for n in reference)


def compiled(rank: int) -> tuple[float, list[int]]:
    """Blocks that are compiled, on windows of other loads: the worst gradient, and how many graphs there are."""
    graphs, counts = [], []

    def kept(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model, world, alone, worst = model_of("mixtral"), world_of(Layout(shard=2, expert=2)), World.alone(), 0.0
    oracle = model_of("mixtral")
    oracle_passes = spread(oracle, alone)
    for block in model.blocks:
        block.compile(backend=kept, dynamic=False)
    objective, passes = spread(model, world)
    for step in range(3):
        window = window_of(step)
        update(*oracle_passes, alone, window)
        update(objective, passes, world, window)
        expected = gradients(oracle)
        worst = max(worst, *(far(value, expected[n]) for n, value in gradients(model).items()))
        model.zero_grad()
        oracle.zero_grad()
        counts.append(len(graphs))
    return worst, counts


def in_bf16(rank: int) -> tuple[Tensor, set[torch.dtype]]:
    world = world_of(Layout(shard=2, expert=2))
    model = model_of("mixtral")
    objective = with_router_losses(CausalLM(), model.config)
    passes = parallelise(model, objective, None, world, Compute(world.device, torch.bfloat16, 1))
    with mock.patch.object(dist, "all_to_all_single", side_effect=dist.all_to_all_single) as called:
        loss = update(objective, passes, world, window_of())
    return loss, {call.args[1].dtype for call in called.call_args_list}


# -- here --------------------------------------------------------------------------------------------------------------


def test_losses_gradients_and_loads_are_those_of_one_process_with_two():
    layouts = ["shard=2,expert=2", "context=2,expert=2"]
    assert run_ranks(check_layouts, 2, layouts[:1], list(CONFIGS)) == [[]] * 2
    assert run_ranks(check_layouts, 2, layouts[1:], ["mixtral", "deepseek"]) == [[]] * 2


def test_losses_gradients_and_loads_are_those_of_one_process_with_four():
    layouts = ["shard=4,expert=4", "shard=4,expert=2", "shard=2,replicate=2,expert=2", "shard=2,context=2,expert=2",
               "shard=2,context=2,expert=4", "shard=2,tensor=2,expert=2", "pipeline=2,shard=2,expert=2"]
    assert run_ranks(check_layouts, 4, layouts, ["mixtral", "deepseek"]) == [[]] * 4


def test_a_stage_without_experts_adds_no_loads_where_its_weights_are_cut():
    layouts = ["pipeline=2,shard=2", "pipeline=2,tensor=2"]
    assert run_ranks(check_layouts, 4, layouts, ["last layer"]) == [[]] * 4


def test_twenty_updates_with_a_selection_bias():
    losses, biases = train(0, "none", 20)
    assert losses[-1] < 0.8 * losses[0]
    for size, text in ((2, "shard=2,expert=2"), (4, "shard=4,expert=2")):
        for found, moved in run_ranks(train, size, text, 20):
            assert found == pytest.approx(losses, rel=2e-5)
            assert all(torch.allclose(moved[name], bias, atol=1e-7) for name, bias in biases.items())
    assert all(bias.abs().max() >= 0.01 for bias in biases.values())


def test_only_chosen_rows_are_sent():
    """Of each of three layers: how many come, there, back; and the same two ways in backward."""
    first, second = run_ranks(count_exchanges, 2)
    for calls in (first, second):
        assert len(calls) == 3 * (3 + 2)
        counts, there = calls[0:9:3], calls[1:9:3]
        assert counts == [MIXTRAL.experts] * 3
        assert there == [TIME * MIXTRAL.active] * 3
        # Backward: the last layer first, and the way back first.
        assert calls[9::2] == there[::-1]
        assert calls[10::2] == calls[2:9:3][::-1]
    assert [a + b for a, b in zip(first[2:9:3], second[2:9:3], strict=True)] == [2 * TIME * MIXTRAL.active] * 3


def test_each_process_holds_its_share():
    found = run_ranks(where_things_lie, 4)
    reference = dict(model_of("mixtral").named_parameters())
    for shares in found:
        for name, (numbers, placements) in shares.items():
            assert numbers * 4 == reference[name].numel(), name
            if ".experts." in name:
                assert placements == "(Shard(dim=1), Shard(dim=0))"


def test_the_loop_over_experts():
    run_ranks(without_groups, 2)


def test_activations_made_again():
    assert max(run_ranks(with_checkpointing, 2)) < 1e-6


def test_compiled_blocks_leave_the_exchange_out():
    for worst, counts in run_ranks(compiled, 2):
        assert worst < 1e-6
        assert counts[0] > 0
        assert counts == counts[:1] * 3, "other loads are compiled anew"


def test_bf16_is_sent_as_bf16():
    model, alone = model_of("mixtral"), World.alone()
    expected = update(*spread(model, alone), alone, window_of())
    for loss, dtypes in run_ranks(in_bf16, 2):
        assert dtypes == {torch.int64, torch.bfloat16}
        assert far(loss, expected) < 0.02


@pytest.mark.parametrize(("name", "text", "said"), [
    ("mixtral", "shard=3,expert=3", "4 experts cannot be dealt out to 3 processes in equal parts"),
    (None, "shard=2,expert=2", "the model has no experts to deal out"),
    ("deepseek", "shard=10,expert=2", "experts of 12 rows cannot be cut over 5 processes that hold the same ones"),
])
def test_what_cannot_be_dealt_out_is_refused(name, text, said):
    model = nn.Linear(2, 2) if name is None else model_of(name)
    if name == "deepseek":  # as a stage of a pipeline that has no experts
        model.blocks = model.blocks[:1]  # type: ignore[union-attr, assignment, index]
    world = dataclasses.replace(World.alone(), layout=Layout.parse(text))
    with pytest.raises(UserError, match=said):
        spread_experts(model, world)
