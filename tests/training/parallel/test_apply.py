"""One function applies all axes: what it gives for one process, and what is done to blocks on the way."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from gristmill.models.loading import skeleton
from gristmill.objectives.causal_lm import CausalLM
from gristmill.training.accumulate import Accumulation
from gristmill.training.micro_batch import MicroBatch
from gristmill.training.parallel import Layout, World
from gristmill.training.parallel.apply import Settings, parallelise
from gristmill.training.pretrain import Pretrain
from tests.training.parallel.parity import COMPUTE, alone, compare, differences, gradients, made, rows, tiny, worst
from tests.training.parallel.ranks import run_ranks, world_of


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


def _first_weights(rank: int, text: str, config: Any) -> tuple[bool, dict[str, float]]:
    """Whether this process begins without weights, and how far its part is from the weights of one process."""
    stage, world = Pretrain(corpus="corpus", tokenizer="tokenizer"), world_of(Layout.parse(text))
    whole = stage._first_weights(skeleton(config), 7, World.alone())
    model = stage._first_weights(skeleton(config), 7, world)
    empty = all(parameter.is_meta for parameter in model.parameters())
    parallelise(model, CausalLM(), None, world, COMPUTE)
    expected = {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return empty, {name: float(((tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().float()
                                - expected[name].detach().float()).abs().max()) for name, tensor in held.items()}


@pytest.mark.parametrize("layout", ["shard=2", "pipeline=2", "pipeline=2,schedule=interleaved"])
def test_one_process_alone_holds_a_new_model_and_all_get_its_first_weights(layout):
    config = tiny(layers=4, tied_head=True)
    found = run_ranks(_first_weights, 2, layout, config)
    assert [empty for empty, _ in found] == [False, True]
    assert {name for _, errors in found for name in errors} >= {name for name, _ in made(config).named_parameters()}
    assert not any(error for _, errors in found for error in errors.values())
