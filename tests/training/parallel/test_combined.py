"""Trajectories: twenty updates on any layout are those of one process."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gristmill.core.errors import UserError
from gristmill.objectives.causal_lm import CausalLM
from gristmill.training import Trainer, TrainingConfig
from gristmill.training.accumulate import Accumulation
from gristmill.training.micro_batch import MicroBatch
from gristmill.training.optimizers import OptimizerConfig, build_optimizer, muon
from gristmill.training.optimizers.build import OWN, GroupRule
from gristmill.training.parallel import Layout, World
from gristmill.training.parallel.apply import parallelise
from gristmill.training.parallel.gradients import clip, total_norm
from tests.training.parallel.parity import COMPUTE, cut, made, rows, tiny, whole
from tests.training.parallel.ranks import RanksFailed, run_ranks, world_of

STEPS = 20


def trained(model: nn.Module, passes: Any, world: World, kind: str, micro: int, steps: int = STEPS,
            config: Any = None) -> list[float]:
    """Losses, each over all processes, of updates with clipping."""
    objective = CausalLM()
    own = {"momentum": 0.9} if kind in OWN["momentum"] else {}
    optimizer = build_optimizer(model, OptimizerConfig(kind=kind, learning_rate=3e-3, **own))  # type: ignore[arg-type]
    losses = []
    for step in range(steps):
        data = rows(config or tiny(), 8, seed=step % 2)
        count = objective.counts(data)["loss"]
        sums, _ = passes.run(cut(data, world, micro), {"loss": 1 / count})
        parameters = list(model.parameters())
        clip(parameters, 0.5, total_norm(parameters, world))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(world.sum(sums["loss"].clone(), "updates")) / count)
    return losses


def _trajectory(rank: int, text: str, kind: str, micro: int, changes: dict[str, Any]) -> tuple[float, float]:
    """Largest difference of the losses, and of the weights after the last update."""
    # In bf16 the iteration would turn differences of rounding into some of a hundredth.
    muon.bf16_pays = lambda device: False
    config = tiny(**changes)
    model = made(config)
    oracle = copy.deepcopy(model)
    expected = trained(oracle, Accumulation(MicroBatch(oracle, CausalLM()), COMPUTE), World.alone(), kind, 1,
                       config=config)
    world = world_of(Layout.parse(text))
    passes = parallelise(model, CausalLM(), None, world, COMPUTE)
    found = trained(model, passes, world, kind, micro, config=config)
    assert expected[-1] < 0.9 * expected[0] or kind == "sgd", expected  # it learns
    weights = {name: whole(p) for name, p in model.named_parameters()}
    return (max(abs(a - b) for a, b in zip(found, expected, strict=True)),
            max(float((weights[name] - p).abs().max()) for name, p in oracle.named_parameters()))


GQA = {"kv_heads": 2, "tied_head": True}


@pytest.mark.parametrize(("size", "layout", "kind", "changes"), [
    (2, "replicate=2", "adamw", GQA), (2, "shard=2", "adamw", GQA), (2, "tensor=2", "adamw", GQA),
    (2, "replicate=2", "muon", GQA), (2, "shard=2", "muon", {}), (2, "tensor=2", "muon", GQA),
    (2, "shard=2", "muon", {"moe": True}), (2, "shard=2", "lion", {}), (2, "tensor=2", "sgd", {}),
    (2, "shard=2", "adam", {}), (2, "shard=2", "adafactor", {"moe": True}),
    (2, "shard=2", "adamw8bit", {"dim": 64, "layers": 1}),  # of two, rounding moves numbers between its 256 values
    pytest.param(4, "shard=2,tensor=2", "adafactor", {"layers": 3, "mlp_dim": 42}, marks=pytest.mark.verify),
    (4, "shard=2,tensor=2", "muon", GQA), (4, "replicate=2,shard=2", "adamw", {}),
    (4, "replicate=2,tensor=2,sequence=false", "adamw", {}), (4, "shard=4", "muon", {"layers": 3, "mlp_dim": 42}),
])
def test_twenty_updates_are_those_of_one_process(size, layout, kind, changes):
    for losses, weights in run_ranks(_trajectory, size, layout, kind, 2 if "shard" in layout else 1, changes):
        assert losses < 1e-5
        assert weights < 1e-4


def _rounded(rank: int, text: str) -> tuple[float, float]:
    """bf16 inside: the loss is that of one process under autocast."""
    from gristmill.training.device import Compute

    compute = Compute(torch.device("cpu"), torch.bfloat16, 1)
    model, data, objective = made(tiny()), rows(tiny()), CausalLM()
    oracle = copy.deepcopy(model)
    count = objective.counts(data)["loss"]
    expected, _ = Accumulation(MicroBatch(oracle, objective), compute).run([data], {"loss": 1 / count})
    world = world_of(Layout.parse(text))
    passes = parallelise(model, objective, None, world, compute)
    sums, _ = passes.run(cut(data, world, 2), {"loss": 1 / count})
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
    norms = [float(total_norm(m.parameters(), w)) for m, w in ((model, world), (oracle, World.alone()))]
    return (abs(float(world.sum(sums["loss"].clone())) - float(expected["loss"])) / float(expected["loss"]),
            abs(norms[0] - norms[1]) / norms[1])


@pytest.mark.parametrize("layout", ["replicate=2", "shard=2", "tensor=2"])
def test_in_bf16_master_weights_and_sums_stay_fp32(layout):
    for loss, norm in run_ranks(_rounded, 2, layout):
        assert loss < 2e-3
        assert norm < 2e-2


def _trainer(folder: str, config: Any, world: World, optimizer: OptimizerConfig) -> Trainer:
    return Trainer(model=made(config), objective=CausalLM(), source=None, steps=1, compute=COMPUTE, world=world,  # type: ignore[arg-type]
                   folder=Path(folder), checkpoints=Path(folder) / "checkpoints",
                   config=TrainingConfig(optimizer=optimizer))


def _moved(rank: int, pattern: str) -> list[str]:
    """Blocks of this process that an update moved; 0 is the learning rate of what fits."""
    world, config = world_of(Layout(pipeline=2)), tiny()
    rule = GroupRule(pattern=pattern, learning_rate=0.0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(folder, config, world, OptimizerConfig(kind="sgd", momentum=0.0, groups=[rule]))
        before = {name: p.detach().clone() for p, name in trainer.names.items()}
        trainer.update(cut(rows(config), world, 2))
    moved = (name for p, name in trainer.names.items() if not torch.equal(p, before[name]))
    return sorted({".".join(name.split(".")[:2]) for name in moved if name.startswith("blocks.")})


def test_a_rule_for_the_weights_of_one_stage_holds_there_and_stops_no_other():
    assert run_ranks(_moved, 2, "blocks.0.*") == [[], ["blocks.1"]]
    assert run_ranks(_moved, 2, "head.*") == [["blocks.0"], ["blocks.1"]]
    for rank in range(2):
        with pytest.raises(RanksFailed, match=f"rank {rank}: (.|\\n)*no parameter's name fits 'layers.*'"):
            run_ranks(_moved, 2, "layers.*")


def _refused_optimizer(rank: int) -> str:
    """Half of 66 positions of 64 numbers, which only the first stage holds, are no whole blocks of 256."""
    config = tiny(dim=64, head_dim=16, mlp_dim=64, positions="learned", context=66)
    with tempfile.TemporaryDirectory() as folder, pytest.raises(UserError) as refused:
        _trainer(folder, config, world_of(Layout(pipeline=2, shard=2)), OptimizerConfig(kind="adamw8bit"))
    return str(refused.value)


def test_what_one_stage_refuses_to_optimise_all_processes_refuse():
    said = run_ranks(_refused_optimizer, 4)
    assert "positions.weight (66, 64)" in said[0]
    assert said == [said[0]] * 4


def _refused_rows(rank: int) -> list[str]:
    """Of an update and of an evaluation, with rows of an odd number of tokens."""
    world, config, said = world_of(Layout(pipeline=2, tensor=2)), tiny(), []
    passes = parallelise(made(config), CausalLM(), None, world, COMPUTE)
    data = rows(config, time=15)
    for use in (lambda: passes.run(cut(data, world, 2), {"loss": 1.0}), lambda: passes.score(data)):
        with pytest.raises(UserError) as refused:
            use()
        said.append(str(refused.value))
    return said


def test_every_stage_refuses_rows_that_cannot_be_shared_out():
    for said in run_ranks(_refused_rows, 4):
        assert said[0] == said[1]
        assert "a row of 15 tokens cannot be cut into 2 equal stretches" in said[0]
