"""Rows shared out over 2 and 4 processes against one process: losses and every gradient, documents, patterns, prefixes,
both methods; what is sent, what is kept in memory, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

from gristmill.core.errors import InternalError, UserError
from gristmill.models.config import DecoderConfig, MoEConfig
from gristmill.models.decoder import Attention, Decoder
from gristmill.models.families import FAMILIES
from gristmill.models.layers.masks import Pattern
from gristmill.objectives import DPO, CausalLM
from gristmill.objectives.base import Batch
from gristmill.objectives.moe_losses import with_router_losses
from gristmill.objectives.multi_token import MultiTokenLM
from gristmill.objectives.r_drop import RDrop
from gristmill.training.device import Compute
from gristmill.training.parallel import Layout
from gristmill.training.parallel.apply import parallelise
from gristmill.training.parallel.context import check_context, share_context
from gristmill.training.parallel.stretches import Stretches
from tests.training.parallel.ranks import run_ranks, world_of

VOCABULARY, ROWS, TIME = 64, 3, 32
METHODS: tuple[Literal["all_gather", "ring"], ...] = ("all_gather", "ring")


def config(**changes: Any) -> DecoderConfig:
    return DecoderConfig(**{
        "family": "llama", "vocab_size": VOCABULARY, "dim": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8,
        "mlp_dim": 48, "context": TIME, **changes})


MOE = MoEConfig(experts=4, active=2, mlp_dim=8, balance_loss=0.5, z_loss=0.1, shared=1)
CONFIGS: dict[str, DecoderConfig] = {
    "plain": config(),
    "learned": config(family="gpt2", positions="learned", norm="layer", mlp="gelu", qkv_bias=True, tied_head=True),
    "windows": config(attention=("window", "full"), window=7),
    "sparse": config(attention=("sparse",), window=3, dilation=2, stride=5, global_tokens=2),
    "values": config(value_embeddings=True, qk_norm=True),
    "experts": config(family="moe", moe=MOE),
    "pooled": config(family="moe", moe=dataclasses.replace(MOE, pooled_balance=True)),
}
ENDS = {"whole": [], "two": [(0, 13), (1, 27), (2, 20)], "many": [(0, 3), (0, 4), (0, 17), (0, 30), (1, 1), (2, 16)]}
"""Where documents end: (row, first position of the next)."""


def model_of(name: str) -> Decoder:
    model = Decoder(CONFIGS[name])
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5, generator=generator)
        model.embedding.weight.normal_(generator=generator)
    return model


def batch_of(ends: str | None, time: int = TIME, prefix: bool = False, padded: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, VOCABULARY, (ROWS, time + 1), generator=generator)
    batch = {"input_ids": ids[:, :-1], "targets": ids[:, 1:].clone()}
    batch["targets"][torch.rand(ROWS, time, generator=generator) < 0.2] = -100
    if ends is not None:
        documents = torch.zeros(ROWS, time, dtype=torch.int64)
        for row, at in ENDS[ends]:
            documents[row, at:] += 1
        if padded:
            documents[0, -5:], batch["targets"][0, -5:] = -1, -100
        batch["document_ids"] = documents
    if prefix:
        batch["prefix"] = (torch.arange(time) < torch.tensor([0, 11, 29])[:, None]) if ends is None else (
            torch.rand(ROWS, time, generator=generator) < 0.3)
    return batch


BATCHES: dict[str, Batch] = {
    "plain": batch_of(None), "documents": batch_of("two"), "many documents": batch_of("many", padded=True),
    "prefix": batch_of(None, prefix=True), "prefixes of documents": batch_of("many", prefix=True),
    "odd length": batch_of(None, time=27), "odd length, documents": batch_of("two", time=29, prefix=True),
}
CASES = [("plain", name) for name in BATCHES] + [
    ("learned", "many documents"), ("learned", "odd length"), ("windows", "many documents"), ("windows", "plain"),
    ("sparse", "plain"), ("sparse", "prefixes of documents"), ("values", "documents"), ("experts", "many documents"),
    ("experts", "odd length"), ("pooled", "plain")]


def total(objective: Any, model: nn.Module, batch: Batch, counts: dict[str, int]) -> Tensor:
    sums = objective.terms(model, batch).sums
    return sum(objective.weights[name] / counts[name] * value for name, value in sums.items())  # type: ignore[return-value]


def objective_of(model: Decoder) -> Any:
    return with_router_losses(CausalLM(z_loss=0.01), model.config)


def one_process(name: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    model = model_of(name)
    objective = objective_of(model)
    loss = total(objective, model, batch, objective.counts(batch))
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def far(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def differences(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of a gradient, relative to its own largest magnitude; a gradient that is zero but for
    rounding (that of a key's bias, which moves all scores alike), to a hundredth of the largest of all."""
    assert found.keys() == expected.keys()
    floor = 1e-2 * max(float(gradient.abs().max()) for gradient in expected.values())
    return max(float((found[name] - expected[name]).abs().max()) / max(float(expected[name].abs().max()), floor)
               for name in expected)


# -- on the ranks ------------------------------------------------------------------------------------------------------


def check_cases(rank: int, size: int) -> list[str]:
    wrong = []
    for method in METHODS:
        world = world_of(Layout(context=size, context_method=method))
        for name, batch_name in CASES:
            batch = BATCHES[batch_name]
            loss, gradients = one_process(name, batch)
            model = model_of(name)
            objective = objective_of(model)
            part = share_context(model, world, objective)
            mine = part(batch)
            assert mine["input_ids"].shape[1] == -(-batch["input_ids"].shape[1] // (2 * size)) * 2
            own = total(objective, model, mine, objective.counts(batch))
            own.backward()
            sum_ = world.sum(own.detach().clone(), "context")
            found = {n: world.sum(p.grad, "context") for n, p in model.named_parameters() if p.grad is not None}
            worst = max(far(sum_, loss), differences(found, gradients))
            if worst > 1e-6:
                wrong.append(f"{method}, {name}, {batch_name}: {worst:.1e}")
            with part.whole(), torch.no_grad():
                again = total(objective, model, batch, objective.counts(batch))
            assert far(again, loss) < 1e-6
    return wrong


def check_beside_others(rank: int, layouts: list[str]) -> list[str]:
    """Beside shards, copies and matrices cut: the rows of a data rank are cut, in two micro-batches."""
    wrong = []
    few = batch_of("many", padded=True)
    everything = {name: torch.cat([tensor, tensor.flip(0)])[:4] for name, tensor in few.items()}
    for text in layouts:
        world = world_of(Layout.parse(text))
        for name in ("windows", "learned"):
            loss, gradients = one_process(name, everything)
            model = model_of(name)
            objective = objective_of(model)
            counts = objective.counts(everything)
            passes = parallelise(model, objective, None, world, Compute(world.device, torch.float32, 1))
            share = 4 // world.data_size
            rows = range(world.data_rank * share, (world.data_rank + 1) * share)
            window = [{n: tensor[row:row + 1] for n, tensor in everything.items()} for row in rows]
            sums, _ = passes.run(window, {n: weight / counts[n] for n, weight in objective.weights.items()})
            own = torch.zeros(())
            for n, value in sums.items():  # the first stages of a pipeline have none
                own = own + objective.weights[n] / counts[n] * value
            found = {n: p.grad.full_tensor() for n, p in model.named_parameters() if isinstance(p.grad, DTensor)}
            expected = gradients if world.layout.pipeline == 1 else {n: gradients[n] for n in found}
            worst = max(differences(found, expected), far(world.sum(own, "updates"), loss))
            if worst > 1e-6:
                wrong.append(f"{text}, {name}: {worst:.1e}")
    return wrong


def count_collectives(rank: int, documents: bool) -> dict[str, tuple[dict[str, int], int]]:
    found: dict[str, tuple[dict[str, int], int]] = {}
    for method in METHODS:
        world = world_of(Layout(context=2, context_method=method))
        model = model_of("plain")
        part = share_context(model, world)
        batch = part(BATCHES["documents" if documents else "plain"])
        with CommDebugMode() as counted, mock.patch.object(
                dist, "batch_isend_irecv", side_effect=dist.batch_isend_irecv) as sent:
            CausalLM().terms(model, batch).sums["loss"].backward()
        numbers = sum(op.tensor.numel() for call in sent.call_args_list for op in call.args[0] if op.op is dist.isend)
        found[method] = ({str(op).split(".")[-1]: n for op, n in counted.get_comm_counts().items()}, numbers)
    return found


def saved_bytes(rank: int, size: int, time: int) -> dict[str, int]:
    """What a forward pass of one layer's attention keeps for backward."""
    found: dict[str, int] = {}
    for method in METHODS:
        world = world_of(Layout(context=size, context_method=method))
        model = Decoder(config(context=time, layers=1))
        share_context(model, world)(dict.fromkeys(("input_ids", "targets"), torch.zeros(1, time, dtype=torch.int64)))
        attention = model.blocks[0].attention
        assert isinstance(attention, Attention)
        q = torch.randn(1, 4, time // size, 8, requires_grad=True)
        k, v = (torch.randn(1, 2, time // size, 8, requires_grad=True) for _ in range(2))
        kept: dict[int, int] = {}

        def pack(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = attention.mix(q, k, v, pattern=Pattern())
        found[method] = sum(kept.values())
        out.sum().backward()
    return found


def refuse_long_rows(rank: int) -> str:
    world = world_of(Layout(context=2))
    model = model_of("learned")
    part = share_context(model, world)
    part(batch_of("two", time=40))  # no document is longer than the positions
    try:
        part(batch_of(None, time=40))
    except UserError as error:
        return str(error)
    return "not refused"


def forget_to_cut(rank: int) -> str:
    model = model_of("plain")
    part = share_context(model, world_of(Layout(context=2)))
    part(BATCHES["plain"])
    try:
        CausalLM().terms(model, BATCHES["plain"])
    except InternalError as error:
        return str(error)
    return "not noticed"


def in_bf16(rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of both methods under autocast, and without."""
    losses = []
    for method, enabled in ((METHODS[0], True), (METHODS[1], True), (METHODS[1], False)):
        world = world_of(Layout(context=2, context_method=method))
        model = model_of("values")
        part = share_context(model, world)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = CausalLM().terms(model, part(BATCHES["documents"])).sums["loss"]
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        losses.append(world.sum(loss.detach().clone(), "context"))
    return losses[0], losses[1], losses[2]


def compiled(rank: int) -> float:
    """A compiled block gives what a plain one gives."""
    world = world_of(Layout(context=2))
    batch = BATCHES["documents"]
    _, gradients = one_process("plain", batch)
    model = model_of("plain")
    part = share_context(model, world)
    for block in model.blocks:
        block.compile(backend="aot_eager", dynamic=False)
    objective = objective_of(model)
    total(objective, model, part(batch), objective.counts(batch)).backward()
    return differences({n: world.sum(p.grad, "context") for n, p in model.named_parameters() if p.grad is not None},
                       gradients)


# -- here --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 4])
def test_losses_and_gradients_are_those_of_one_process(size):
    assert run_ranks(check_cases, size, size) == [[]] * size


def test_beside_other_axes():
    layouts = ["context=2,shard=2", "context=2,shard=2,context_method=ring", "context=2,replicate=2",
               "context=2,tensor=2", "context=2,tensor=2,context_method=ring", "context=2,pipeline=2",
               "context=2,pipeline=2,context_method=ring"]
    assert run_ranks(check_beside_others, 4, layouts) == [[]] * 4


def test_collectives_are_those_that_are_needed():
    """Of two layers: one gather of keys and values each, and its sum in backward; the documents' ids beside them."""
    for documents, gathers in ((False, 2), (True, 4)):
        counted = run_ranks(count_collectives, 2, documents)[0]
        gathered, sent = counted["all_gather"]
        assert sent == 0
        assert sum(n for op, n in gathered.items() if "gather" in op) == gathers
        assert sum(n for op, n in gathered.items() if "scatter" in op) == 2
        assert sum(gathered.values()) == gathers + 2
        ring, sent = counted["ring"]
        assert sum(ring.values()) == (2 if documents else 0)
        keys_and_values = 2 * ROWS * 2 * (TIME // 2) * 8
        # A layer sends them once in forward, once in backward, and their gradients until they are home.
        assert sent == 2 * keys_and_values * (1 + 1 + 2)


def test_the_ring_keeps_a_share_of_a_row_only():
    """From 2 to 4 processes at the same number of tokens each: the ring keeps the same, gathered rows grow."""
    two, four = (run_ranks(saved_bytes, size, size, 256 * size)[0] for size in (2, 4))
    assert two["ring"] == four["ring"]
    assert four["all_gather"] > 1.4 * two["all_gather"]
    assert four["all_gather"] > 5 * four["ring"]


def test_rows_longer_than_the_learned_positions_are_refused():
    assert "a text of 40 tokens, in a model of 32 positions that are learned" in run_ranks(refuse_long_rows, 2)[0]


def test_whole_rows_do_not_slip_through():
    assert run_ranks(forget_to_cut, 2) == ["a row of 32 tokens, where [16] were given out: is it whole?"] * 2


def test_compiled_blocks():
    assert max(run_ranks(compiled, 2)) < 1e-6


def test_autocast_rounds_both_methods_alike():
    gathered, ring, fp32 = run_ranks(in_bf16, 2)[0]
    assert 1e-6 < far(gathered, fp32) < 0.01
    assert 1e-6 < far(ring, fp32) < 0.01


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_stretches_of_all_make_a_row(size):
    row = torch.arange(2 * 4 * size * 3).view(4, -1)
    parts = torch.stack([Stretches(place, size).cut(row) for place in range(size)])
    assert torch.equal(Stretches(0, size).joined(parts, dim=-1), row)
    for place in range(size):
        positions = torch.cat([torch.arange(start, stop) for start, stop, _ in Stretches(place, size).mine(6)])
        assert torch.equal(row[:, positions], parts[place])
    # Pairs of a query and a key before it: the same number for all, up to the diagonal.
    work = {sum(int(position) for position in parts[place, 0]) for place in range(size)}
    assert len(work) == 1


@pytest.mark.parametrize(("model", "objective", "method", "said"), [
    (FAMILIES["bert"].presets["tiny"], None, "all_gather", "for causal decoders, and this model is of the family bert"),
    (config(), MultiTokenLM(2), "all_gather", "MultiTokenLM looks from one token of a row at others"),
    (config(dropout=0.1), RDrop(MultiTokenLM(2), 1.0), "all_gather", "MultiTokenLM"),
    (config(), DPO(), "all_gather", "DPO looks from one token of a row at others, or scores rows as a whole"),
    (config(stochastic_depth=0.1), CausalLM(), "ring", "stochastic depth skips a block for whole rows"),
    (config(attention_dropout=0.1), CausalLM(), "ring", "use context_method=all_gather"),
])
def test_what_cannot_be_cut_is_refused(model, objective, method, said):
    with pytest.raises(UserError, match=said):
        check_context(model, objective, method)


@pytest.mark.parametrize("objective", [CausalLM(), RDrop(CausalLM(), 1.0), with_router_losses(
    CausalLM(), CONFIGS["experts"])])
def test_what_can_be_cut_is_not_refused(objective):
    check_context(config(attention_dropout=0.1), objective)


def test_a_method_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="there is no context_method 'star'"):
        Layout.parse("context=2,context_method=star")
    assert Layout.parse("context=2,context_method=ring").describe() == "context=2,context_method=ring"
