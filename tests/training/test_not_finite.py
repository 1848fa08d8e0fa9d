"""What is not finite is traced to its layer, its row and the documents of that row."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gristmill.models import Decoder, DecoderConfig
from gristmill.objectives import CausalLM
from gristmill.training.not_finite import Finding, error, find
from tests.training.slopes import InfiniteSlope

TINY = DecoderConfig(vocab_size=50, dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp_dim=64, context=32)


def model(**options):
    made = Decoder(TINY)
    made.initialise(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return made


def window(pieces=2, rows=4):
    ids = torch.randint(1, 50, (rows, 17), generator=torch.Generator().manual_seed(0))
    whole = {"input_ids": ids[:, :-1], "targets": ids[:, 1:]}
    size = rows // pieces
    return [{n: t[at:at + size] for n, t in whole.items()} for at in range(0, rows, size)]


def loss_of(made):
    return lambda batch: CausalLM().terms(made, batch).sums["loss"]


class Broken(nn.Module):
    """Passes on what it gets, and breaks it where the batch asks for it."""

    def __init__(self, inner, breaks):
        super().__init__()
        self.inner, self.breaks = inner, breaks

    def forward(self, x):
        return self.breaks(self.inner(x))


@pytest.mark.parametrize("name", ["blocks.0.attention.value", "blocks.1.mlp.down", "norm", "embedding"])
def test_the_layer_whose_output_breaks_is_named(name):
    made = model()
    parent, _, last = name.rpartition(".")
    holder = made.get_submodule(parent)
    setattr(holder, last, Broken(getattr(holder, last), lambda x: x / 0 * x.abs()))
    if last == "value":
        holder.value.weight, holder.value.bias = holder.value.inner.weight, None
        holder.value.out_features = holder.value.inner.out_features
    found = find(made, loss_of(made), window())
    assert found.place == f"the output of {name}"
    assert found.micro_batch == 0
    assert found.rows == ()  # every row does, so none is to blame


def test_a_bad_row_is_found_by_itself():
    """Token 7 has an embedding too large for the squares of the norms; it stands in row 1 of the second part."""
    made = model()
    parts = window()
    for part in parts:
        part["input_ids"][part["input_ids"] == 7] = 8
    parts[1]["input_ids"][1, 3] = 7
    made.embedding = Broken(made.embedding, lambda x: x.where(x < 1e30, math.inf))
    with torch.no_grad():
        made.embedding.inner.weight[7] = 1e36
    made.embedding.weight = made.embedding.inner.weight
    found = find(made, loss_of(made), parts, documents=lambda row: [f"{row}/b.txt (web)", "c.txt (web)"])
    assert (found.place, found.micro_batch, list(found.rows)) == ("the output of embedding", 1, [1])
    said = str(error(found, step=13, values={"loss": math.nan}, norm=math.nan, micro_batches=2, label="base", clip=0.0))
    assert "step 13 is not finite: loss nan, gradient norm nan" in said
    assert "the output of embedding, in micro-batch 2 of 2" in said
    assert "Row 2 of it gives this alone, which holds 3/b.txt (web), c.txt (web)" in said
    assert "look at these documents" in said
    assert "set clip (now off)" in said


def test_what_a_function_between_layers_breaks_is_laid_to_the_layer_around():
    made = model()
    made.blocks[1].attention.mix = lambda q, *a, **k: q * math.nan
    found = find(made, loss_of(made), window())
    assert found.place == "what blocks.1.attention gives to blocks.1.attention.output"


def test_a_gradient_that_breaks_is_found_on_the_way_back():
    made = model()
    made.blocks[0].mlp.down = Broken(made.blocks[0].mlp.down, InfiniteSlope.apply)
    found = find(made, loss_of(made), window())
    assert found.place == "the gradient that reaches the output of blocks.0.mlp.down.inner"
    assert all(parameter.grad is None for parameter in made.parameters())


def test_broken_weights_are_named_and_no_more():
    made = model()
    with torch.no_grad():
        made.blocks[1].mlp.up.weight[3, 4] = math.nan
    found = find(made, loss_of(made), window())
    assert list(found.weights) == ["blocks.1.mlp.up.weight"]
    said = str(error(found, step=1, values={"loss": math.nan}, norm=math.nan, micro_batches=2, label="", clip=1.0))
    assert "Weights are not finite: blocks.1.mlp.up.weight" in said
    assert "skip_outliers" in said


def test_the_same_random_numbers_are_drawn_again():
    """What dropout alone brings about is found too."""
    made = model()
    seed = next(s for s in range(99) if torch.rand(1, generator=torch.Generator().manual_seed(s)) > 0.9)
    made.norm = Broken(made.norm, lambda x: x * math.inf if torch.rand(1) > 0.9 else x)
    torch.manual_seed(0)
    found = find(made, loss_of(made), window(1), begin=lambda: torch.manual_seed(seed))
    assert found.place == "the output of norm"


def test_where_the_second_run_is_fine_it_says_so():
    found = find(model(), loss_of(model()), window())
    assert found == Finding()
    assert "second run of the same update was finite" in found.sentence(2)


def test_rows_of_a_pair_are_tried_together():
    """Torn apart they would both be bad; here the second pair is."""
    made, parts = model(), window(1, rows=6)

    def loss(batch):
        found = loss_of(made)(batch)
        bad = len(batch["input_ids"]) % 2 or (batch["input_ids"] == parts[0]["input_ids"][3]).all(-1).any()
        return found * math.nan if bad else found

    found = find(made, loss, parts, unit=2, documents=lambda row: [f"pair {row // 2}"])
    assert (found.place, list(found.rows), found.documents) == ("the loss itself", [2], ["pair 1"])
    assert found.sentence(1).endswith("Rows 3 to 4 of it give this alone, which hold pair 1.")


def test_where_nothing_was_searched_it_says_so():
    assert "was not searched" in Finding(searched=False).sentence(1)
