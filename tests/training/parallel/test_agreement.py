"""Processes that do not agree are found, and named."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from gristmill.core.errors import MachineError, UserError
from gristmill.objectives.causal_lm import CausalLM
from gristmill.training.parallel import Layout, World
from gristmill.training.parallel.agreement import Agreement
from gristmill.training.parallel.apply import parallelise
from gristmill.training.parallel.gradients import local
from tests.training.parallel.parity import COMPUTE, cut, made, rows, tiny
from tests.training.parallel.ranks import run_ranks, world_of


def _begun(rank: int, text: str, change: str) -> str:
    config: Any = tiny(dim=48) if change == "form" and rank == 1 else tiny()
    model = made(config)
    # Only weights with shapes of their own may differ before they are spread: DDP compares shapes itself.
    world = world_of(Layout.parse(text))
    if change != "form":
        parallelise(model, CausalLM(), None, world, COMPUTE)
    parameters = dict(model.named_parameters())
    agreement = Agreement(world, every=2)
    window = cut(rows(tiny()), world, 2)
    if change == "rows" and rank == 1:
        window[0]["input_ids"] = window[0]["input_ids"] + 1
    if change == "same rows":
        window = cut(rows(tiny()), World.alone(), 4)[:2]
    if change == "weight" and rank == 1:
        with torch.no_grad():
            value = local(parameters["blocks.1.mlp.up.weight"])
            value.view(-1)[7:8].view(torch.int32).bitwise_xor_(1)
    recipe = "b" if change == "recipe" and rank == 1 else "a"
    try:
        agreement.begin(lambda: parameters.items(), {"recipe": recipe}, window)
        if change == "later":
            agreement.after(1, lambda: parameters.items())
            if rank == 0:
                with torch.no_grad():
                    local(parameters["norm.weight"]).view(-1)[0] += 1
            agreement.after(3, lambda: parameters.items())
            agreement.after(4, lambda: parameters.items())
    except (UserError, MachineError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("layout", ["replicate=2", "shard=2", "tensor=2"])
def test_processes_that_agree_pass(layout):
    assert run_ranks(_begun, 2, layout, "nothing") == ["", ""]


@pytest.mark.parametrize(("layout", "change", "said"), [
    ("replicate=2", "recipe", 'UserError: .*do not agree on recipe: rank 1 has "b", the others "a"'),
    ("replicate=2", "form", r"UserError: .*hold other weights: rank 1, first embedding.weight \[64, 48\]"),
    ("tensor=2", "rows", "UserError: .*rank 1 read other rows than rank 0"),
    ("replicate=2", "same rows", "UserError: .*all 2 shares of the data read the same rows"),
    ("replicate=2", "weight", "MachineError: .*copies of 1 weights differ on rank 1, first blocks.1.mlp.up.weight"),
    ("replicate=2", "later", "MachineError: .*copies of 1 weights differ on rank 1, first norm.weight"),
])
def test_what_differs_is_named_on_all(layout, change, said):
    for error in run_ranks(_begun, 2, layout, change):
        assert re.match(said, error.replace("\n", " ")), error


def test_parts_are_not_copies():
    """Under `shard` every process has other numbers, and one that changes has no copy to differ from."""
    assert run_ranks(_begun, 2, "shard=2", "weight") == ["", ""]


def test_of_four_the_one_that_differs_is_named():
    for error in run_ranks(_begun, 4, "replicate=2,shard=2", "weight"):
        assert "copies of 1 weights differ" in error


def test_a_process_alone_agrees_with_itself():
    model = made(tiny())
    agreement = Agreement(World.alone(), every=1)
    agreement.begin(model.named_parameters, {"recipe": "a"}, cut(rows(tiny()), World.alone()))
    agreement.after(1, model.named_parameters)
