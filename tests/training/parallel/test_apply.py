"""One function applies all axes: what it gives for one process, and what is done to blocks on the way."""

from __future__ import annotations

import copy

import pytest
import torch

from gristmill.objectives.causal_lm import CausalLM
from gristmill.training.accumulate import Accumulation
from gristmill.training.micro_batch import MicroBatch
from gristmill.training.parallel import Layout, World
from gristmill.training.parallel.apply import Settings, parallelise
from tests.training.parallel.parity import COMPUTE, alone, compare, differences, gradients, made, rows, tiny, worst
from tests.training.parallel.ranks import run_ranks


def test_one_process_gets_the_plain_passes():
    model = made(tiny())
    passes = parallelise(model, CausalLM(), None, World.alone(), COMPUTE)
    assert type(passes) is Accumulation
    assert type(passes.module) is MicroBatch
    assert passes.module.model is model
    assert all(type(p) is torch.nn.Parameter for p in model.parameters())


@pytest.mark.parametrize("choice", ["selective", "full"])
def test_activations_made_again_change_no_gradient(choice):
    config = tiny()
    model, data, objective = made(config), rows(config), CausalLM()
    oracle = copy.deepcopy(model)
    loss, expected = alone(oracle, objective, data)
    passes = parallelise(model, objective, None, World.alone(), COMPUTE, Settings(checkpointing=choice))
    count = objective.counts(data)["loss"]
    sums, _ = passes.run([data], {"loss": 1 / count})
    assert float(sums["loss"]) / count == pytest.approx(loss, rel=1e-6)
    assert max(compare(gradients(model), expected).values()) < 1e-6


def _recomputed(rank: int, text: str, choice: str) -> dict[str, float]:
    return differences(Layout.parse(text), tiny(kv_heads=2), 2, settings=Settings(checkpointing=choice))


@pytest.mark.parametrize(("layout", "choice"), [
    ("replicate=2", "full"), ("shard=2", "full"), ("shard=2", "selective"), ("tensor=2", "full"),
    ("tensor=2", "selective")])
def test_activations_are_made_again_under_every_axis(layout, choice):
    found = worst(run_ranks(_recomputed, 2, layout, choice))
    assert found[1] < 1e-6, found
