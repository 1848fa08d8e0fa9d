"""What is not finite on some of several processes is told by all of them, in the same words."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from gristmill.core.errors import UserError
from gristmill.objectives import CausalLM
from gristmill.training import Trainer
from gristmill.training.parallel import Layout
from gristmill.training.reading import Dealt
from tests.training.parallel.parity import COMPUTE, made, rows, tiny
from tests.training.parallel.ranks import run_ranks, world_of

CONFIG = tiny(layers=4)
MARK = CONFIG.vocab_size - 1
"""A token whose states are so large that the models of these tests break at it."""


class _Text:
    """Eight rows in two micro-batches; the seventh ends with `MARK`."""

    static = True

    def window(self, step):
        batch = rows(CONFIG, documents=False)
        batch["input_ids"].clamp_(max=MARK - 1)
        batch["input_ids"][6, -1] = MARK
        return [{n: t[at:at + 4] for n, t in batch.items()} for at in (0, 4)]

    def documents(self, step, row):
        return [f"{row}.txt"]


class _Steep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(_marked(x))
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.masked_fill(ctx.saved_tensors[0], torch.inf)


def _marked(x):
    return x.detach().abs().amax(-1, keepdim=True) > 1e5


BREAKS = {"forward": lambda module, args, out: out.masked_fill(_marked(out), torch.nan),
          "backward": lambda module, args, out: _Steep.apply(out)}


class _Endless(CausalLM):
    """Gives an infinite loss of rows with `MARK`; its gradient stays as it is."""

    def terms(self, model, batch):
        terms = super().terms(model, batch)
        if (batch["input_ids"] == MARK).any():
            terms.sums["loss"] = terms.sums["loss"] + torch.inf
        return terms


def _told(rank: int, text: str, breaks: str) -> str:
    """The error of an update, in which `breaks` happens at block 2."""
    model, world = made(CONFIG), world_of(Layout.parse(text))
    with torch.no_grad():
        model.embedding.weight[MARK] *= 1e6
        if breaks == "weights":
            model.blocks[2].mlp.up.weight[-1] = torch.nan
    if breaks in BREAKS:
        model.blocks[2].register_forward_hook(BREAKS[breaks])
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model=model, objective=_Endless() if breaks == "loss" else CausalLM(), steps=2,
                          compute=COMPUTE, source=Dealt(_Text(), (world.data_rank, world.data_size)), world=world,
                          folder=Path(folder), checkpoints=Path(folder) / "checkpoints")
        with pytest.raises(UserError) as caught:
            trainer.update(trainer.source.window(0))
        assert trainer.step == 0
    return str(caught.value)


def _told_by_both(layout: str, breaks: str) -> str:
    first, second = run_ranks(_told, 2, layout, breaks)
    assert first == second
    return first


@pytest.mark.parametrize("breaks", BREAKS)
@pytest.mark.parametrize(("layout", "process", "row"), [
    ("replicate=2", "on rank 1", 1), ("shard=2", "on rank 1", 1), ("tensor=2", "on rank 1", 3),
    ("context=2", "on rank 0", 3), ("pipeline=2", "in stage 2 (rank 1)", 3),
    ("pipeline=2,schedule=interleaved", "in stage 3 (rank 0)", 3),
    ("pipeline=2,schedule=zero_bubble", "in stage 3 (rank 0)", 3)])
def test_every_process_names_the_layer_who_saw_it_and_the_row(layout, process, row, breaks):
    """Row 6 of the update is the third of the second micro-batch; of two shares, the first of the second one's."""
    said = _told_by_both(layout, breaks)
    if breaks == "forward":
        assert "loss nan" in said
        assert f"First not finite: the output of blocks.2 {process}, in micro-batch 2 of 2. Row {row} of it" in said
    else:
        assert f"the gradient that reaches the output of blocks.2.mlp.down {process}" in said
    # Micro-batches of a pipeline do not go back one by one.
    assert ("gives this alone, which holds 6.txt" in said) == (breaks == "forward" or "pipeline" not in layout)


def test_a_loss_that_one_process_has_ends_all():
    """Its gradients are fine: only the sum of all losses says so to the others."""
    said = _told_by_both("replicate=2", "loss")
    assert "step 1 is not finite: loss inf, gradient norm" in said
    assert "gradient norm nan" not in said
    assert "First not finite: the loss itself on rank 1, in micro-batch 2 of 2. Row 1 of it" in said


@pytest.mark.parametrize(("layout", "place"), [("replicate=2", ""), ("tensor=2", " on rank 1"),
                                               ("pipeline=2", " in stage 2 (rank 1)")])
def test_broken_weights_are_named_by_all(layout, place):
    assert f"Weights are not finite{place}: blocks.2.mlp.up.weight" in _told_by_both(layout, "weights")
