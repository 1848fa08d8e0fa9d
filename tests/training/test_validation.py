"""Evaluation during training: in parts, and beside blocks that are compiled."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from gristmill.models import Decoder, DecoderConfig
from gristmill.models.config.moe import MoEConfig
from gristmill.objectives import CausalLM
from gristmill.objectives.base import IGNORED
from gristmill.objectives.moe_losses import with_router_losses
from gristmill.training.compile import compile_blocks, eager
from gristmill.training.device import Compute
from gristmill.training.validation import validate

COMPUTE = Compute(torch.device("cpu"), torch.float32, 1)
TINY = DecoderConfig(vocab_size=32, dim=16, layers=2, heads=2, kv_heads=2, head_dim=8, mlp_dim=32, context=16)


def model_and_batches():
    model = Decoder(TINY)
    model.initialise(0)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(32, (7, 17), generator=generator)
    batch = {"input_ids": ids[:, :-1], "targets": ids[:, 1:].clone()}
    batch["targets"][2:5, :9] = IGNORED
    return model, [batch, {name: tensor[:3] for name, tensor in batch.items()}]


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_parts_of_a_batch_give_its_scores(rows):
    model, batches = model_and_batches()
    seen = []
    model.embedding.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    whole = validate(model, batches, COMPUTE)
    assert seen == [7, 3]
    parts = validate(model, batches, COMPUTE, rows=rows)
    assert max(seen[2:]) <= rows
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
