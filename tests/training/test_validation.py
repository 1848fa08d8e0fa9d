"""Evaluation during training: in parts, and beside blocks that are compiled."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

from gristmill.models import Decoder, DecoderConfig
from gristmill.models.config.moe import MoEConfig
from gristmill.objectives import CausalLM
from gristmill.objectives.base import IGNORED
from gristmill.objectives.moe_losses import with_router_losses
from gristmill.tokens.batches import PADDING
from gristmill.training.compile import compile_blocks, eager
from gristmill.training.held_out import HeldOut
from gristmill.training.parallel import Layout
from gristmill.training.parallel.apply import parallelise
from gristmill.training.validation import validate
from tests.training.parallel.parity import COMPUTE, made, rows, tiny
from tests.training.parallel.ranks import run_ranks, world_of

TINY = DecoderConfig(vocab_size=32, dim=16, layers=2, heads=2, kv_heads=2, head_dim=8, mlp_dim=32, context=16)


def model_and_batches():
    model = Decoder(TINY)
    model.initialise(0)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(32, (7, 17), generator=generator)
    batch = {"input_ids": ids[:, :-1], "targets": ids[:, 1:].clone()}
    batch["targets"][2:5, :9] = IGNORED
    return model, [batch, {name: tensor[:3] for name, tensor in batch.items()}]


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_parts_of_a_batch_give_its_scores(at_once):
    model, batches = model_and_batches()
    seen = []
    model.embedding.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    whole = validate(model, batches, COMPUTE)
    assert seen == [7, 3]
    parts = validate(model, batches, COMPUTE, rows=at_once)
    assert max(seen[2:]) <= at_once
    assert parts == pytest.approx(whole, rel=1e-6)
    assert parts["tokens"] == whole["tokens"]


@pytest.mark.parametrize("rows", [None, 1, 3])
def test_losses_of_experts_are_means_over_the_parts_that_were_run(rows):
    config = dataclasses.replace(TINY, family="moe", moe=MoEConfig(experts=4, active=2, balance_loss=0.1, z_loss=0.1))
    model = Decoder(config)
    model.initialise(0)
    objective = with_router_losses(CausalLM(), config)
    row = {name: tensor[:1] for name, tensor in model_and_batches()[1][0].items()}
    alone = {name: float(value.detach()) for name, value in objective.terms(model, row).sums.items()}
    copies = {name: tensor.repeat(7, 1) for name, tensor in row.items()}
    found = validate(model, [copies], COMPUTE, objective, rows=rows)
    assert found["router_balance"] == pytest.approx(alone["router_balance"], rel=1e-6)
    assert found["router_z"] == pytest.approx(alone["router_z"] / row["input_ids"].numel(), rel=1e-6)


def test_the_balance_of_experts_is_a_mean_over_the_parts_that_have_tokens():
    """Padding alone, of a process whose rows are used up, is no part."""
    config = tiny(family="moe", moe=MoEConfig(experts=4, active=2, mlp_dim=16, balance_loss=0.02, z_loss=0.01))
    model, objective, batch = made(config), with_router_losses(CausalLM(), config), rows(config, 6)
    batch["document_ids"][4:] = PADDING
    batch["targets"][4:] = IGNORED
    with torch.no_grad():
        balances = [float(objective.terms(model, {name: tensor[at:at + 2] for name, tensor in batch.items()}).sums[
            "router_balance"]) for at in (0, 2, 4)]
    assert balances[2] == 0
    found = validate(model, [batch], COMPUTE, objective, rows=2)
    assert found["router_balance"] == pytest.approx((balances[0] + balances[1]) / 2, rel=1e-6)
    assert found["router_z"] == pytest.approx(validate(model, [batch], COMPUTE, objective)["router_z"], rel=1e-5)


class HeldOutRows(list):
    total_bytes = None


def in_a_pipeline(rank: int) -> tuple[dict, list[int]]:
    """What held-out rows come to, and how many went through at once."""
    config, world, task = tiny(), world_of(Layout.parse("pipeline=2")), CausalLM()
    model, seen = made(config), []
    expected = validate(copy.deepcopy(model).eval(), [rows(config, 7)], COMPUTE)
    passes = parallelise(model, task, None, world, COMPUTE)
    passes.stages[0].register_forward_pre_hook(lambda stage, given: seen.append(stage.shape[0]))
    held_out: Any = HeldOutRows([rows(config, 7)])
    found = HeldOut(held_out, None, task, None, COMPUTE, [], passes, world, rows=2)(model.eval(), 1)
    return {name: (found[f"valid_{name}"], expected[name]) for name in ("loss", "accuracy")}, seen


def test_a_pipeline_scores_as_many_rows_at_once_as_one_process():
    for scores, seen in run_ranks(in_a_pipeline, 2):
        assert seen == [1, 2, 2, 2]
        for found, expected in scores.values():
            assert found == pytest.approx(expected, rel=1e-6)


def test_blocks_run_as_written_and_are_compiled_afterwards():
    model, batches = model_and_batches()
    compile_blocks(model)
    assert all(block._compiled_call_impl for block in model.blocks)
    for block in model.blocks:
        block._compiled_call_impl = lambda *args, **kwargs: pytest.fail("compiled for a shape of evaluation")
    mine = [block._compiled_call_impl for block in model.blocks]
    validate(model, batches, COMPUTE)
    assert [block._compiled_call_impl for block in model.blocks] == mine


def test_what_is_compiled_by_itself_stays_so():
    """Flex attention that runs as written makes the scores of all pairs."""
    made = []

    def backend(graph, inputs):
        made.append(graph)
        return graph.forward

    kernel = torch.compile(lambda x: x * 2, backend=backend)
    with torch.no_grad(), eager(Decoder(TINY)):
        kernel(torch.ones(3))
    assert len(made) == 1
