"""What optimizers keep: how much it is, that a checkpoint brings it back, and what eight bits lose."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.models import Decoder, DecoderConfig
from gristmill.models.config import MoEConfig
from gristmill.planning.memory import OPTIMIZERS
from gristmill.training.checkpoints import Checkpoints
from gristmill.training.optimizers import OptimizerConfig, build_optimizer
from gristmill.training.optimizers.blockwise import BLOCK, levels, quantise, restore, zeros
from gristmill.training.optimizers.build import OWN
from gristmill.training.parallel import World

KINDS = ("muon", "adamw", "adam", "sgd", "adafactor", "lion", "adamw8bit")
EXPERTS = DecoderConfig(family="moe", vocab_size=300, dim=32, layers=1, heads=2, kv_heads=1, head_dim=16, mlp_dim=64,
                        context=32, moe=MoEConfig(experts=4, active=2, mlp_dim=48))


def model_and_optimizer(kind, seed=0, **options):
    model = Decoder(EXPERTS)
    model.initialise(seed)
    return model, build_optimizer(model, OptimizerConfig(kind=kind, learning_rate=0.01, weight_decay=0.1, **options))


def advance(model, optimizer, steps):
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"]  # as the loop does: a checkpoint brings the peak
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def names_of(model):
    return {parameter: name for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_checkpoint_the_next_steps_have_the_same_bits(tmp_path, kind):
    model, optimizer = model_and_optimizer(kind)
    advance(model, optimizer, range(3))
    state = optimizer.tensors(names_of(model))
    weights = dict(model.named_parameters())
    saves = Checkpoints(tmp_path, World.alone())
    saves.save(3, {"model": weights, "optimizer": state}, {})
    advance(model, optimizer, range(3, 6))

    other, resumed = model_and_optimizer(kind, seed=9)
    found = saves.newest()
    kept = saves.read(found, "model")
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(kept[name])
    resumed.load_tensors(saves.read(found, "optimizer"), names_of(other))
    advance(other, resumed, range(3, 6))
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    ours, theirs = optimizer.tensors(names_of(model)), resumed.tensors(names_of(other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) and value.dtype == theirs[name].dtype for name, value in ours.items())


@pytest.mark.parametrize("written", KINDS)
@pytest.mark.parametrize("read", KINDS)
def test_the_state_of_another_kind_is_refused(written, read):
    model, optimizer = model_and_optimizer(written)
    advance(model, optimizer, range(1))
    other, resumed = model_and_optimizer(read)
    state = optimizer.tensors(names_of(model))
    if written == read or {written, read} == {"adam", "adamw"}:  # these two keep the same averages
        resumed.load_tensors(state, names_of(other))
        return
    with pytest.raises(UserError, match="which is not what") as caught:
        resumed.load_tensors(state, names_of(other))
    assert caught.value.where == "training.optimizer.kind"


def test_a_parameter_whose_gradient_comes_later_starts_later():
    """Experts that no token chose have none at first; a checkpoint between has no state of theirs."""
    for kind in KINDS:
        model, optimizer = model_and_optimizer(kind)
        late = model.blocks[0].mlp.experts.gate
        before = late.detach().clone()
        advance(model, optimizer, range(1))
        late.data.copy_(before)
        for part in optimizer.parts:
            part.state.pop(late, None)
        for parameter in model.parameters():
            parameter.grad = None if parameter is late else torch.ones_like(parameter)
        optimizer.step()
        assert torch.equal(late, before), kind
        state = optimizer.tensors(names_of(model))
        optimizer.load_tensors(state, names_of(model))
        advance(model, optimizer, range(2, 4))
        assert not torch.equal(late, before), kind


DOCUMENTED = {"muon": (4, 8), "adamw": (8, 8), "adam": (8, 8), "sgd": (4, 4), "lion": (4, 4),
              "adamw8bit": (2 + 8 / BLOCK, 2 + 8 / BLOCK), "adafactor": (4 * (1 / 512 + 1 / 1024), 4 / 512 + 4 / 1024)}
"""Bytes of state a parameter (docs/optimizers.md): of the matrices of blocks, and of the others; adafactor's depend on
the rows and columns, here 512 and 1024."""


@pytest.mark.parametrize("kind", KINDS)
def test_states_take_what_is_documented_and_planned(kind):
    parameters = {n: torch.nn.Parameter(torch.ones(512, 1024)) for n in ("blocks.0.up.weight", "embedding.weight")}
    optimizer = build_optimizer(parameters.items(), OptimizerConfig(kind=kind))
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = optimizer.tensors({p: n for n, p in parameters.items()})
    for name, documented in zip(parameters, DOCUMENTED[kind], strict=True):
        held = sum(t.nbytes for key, t in state.items() if key.startswith(name) and not key.endswith(("step", "_lr")))
        assert held / parameters[name].numel() == pytest.approx(documented, rel=1e-3)
    planned = OPTIMIZERS["momentum" if kind == "sgd" and OPTIMIZERS["sgd"] == (0, 0) else kind]
    assert planned == pytest.approx(DOCUMENTED[kind], abs=0.04)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_states_of_eight_bits_serve_weights_of_any_precision(dtype):
    moved = []
    for kind in (torch.float32, dtype):
        weight = torch.nn.Parameter(torch.zeros(70, 70, dtype=kind))
        optimizer = build_optimizer([("blocks.0.weight", weight)], OptimizerConfig(kind="adamw8bit"))
        for step in range(3):
            generator = torch.Generator().manual_seed(step)
            weight.grad = torch.randn(70, 70, generator=generator).to(kind)
            optimizer.step()
        moved.append(weight.detach().float())
    assert float((moved[1] - moved[0]).norm() / moved[0].norm()) < 0.03


def test_sgd_without_momentum_keeps_nothing():
    model, optimizer = model_and_optimizer("sgd", momentum=0.0)
    advance(model, optimizer, range(2))
    assert all(name.endswith("peak_lr") for name in optimizer.tensors(names_of(model)))


@pytest.mark.parametrize("signed", [True, False])
def test_a_code_has_one_value_and_half_a_gap_is_the_largest_error(signed):
    table = levels(signed)
    assert len(table) == 256
    assert bool((table[1:] > table[:-1]).all())
    assert (float(table[-1]), int((table == 0).sum())) == (1.0, 1)
    # A decade of the table is divided evenly, by half as many levels as the one above it (section 2.1 of the paper).
    for decade in range(7):
        inside = int(((table > 10.0 ** -(decade + 1)) & (table < 10.0 ** -decade * 0.999)).sum())
        assert inside == 2 ** ((6 if signed else 7) - decade)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 3 * BLOCK + 5), signed=st.booleans(), scale=st.sampled_from([1e-20, 1e-4, 1.0, 1e10]),
       spread=st.floats(0, 4), seed=st.integers(0, 99))
def test_what_eight_bits_lose_is_bounded_by_the_gaps_of_the_table(count, signed, scale, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, generator=generator)
    values = scale * values.sign() * values.abs() * torch.exp(spread * torch.randn(count, generator=generator))
    values = values if signed else values.abs()
    codes, scales = quantise(values, signed)
    assert (codes.dtype, codes.shape, scales.shape) == (torch.uint8, values.shape, (-(-count // BLOCK),))
    found = restore(codes, scales, signed)
    largest = scales.repeat_interleave(BLOCK)[:count]
    table = levels(signed)
    between = (table[1:] + table[:-1]) / 2
    between[0] = between[0] if signed else 0.0
    assert torch.equal(codes, torch.bucketize(values / largest, between).to(torch.uint8))
    relative, error = (values / largest).abs(), (found - values).abs() / largest
    for decade in range(7):
        inside = (relative <= 10.0 ** -decade) & (relative > 10.0 ** -(decade + 1))
        gap = 0.9 * 10.0 ** -decade / 2 ** ((6 if signed else 7) - decade)
        assert bool((error[inside] <= 0.5001 * gap + 1e-7).all())
    assert bool((error[relative <= 1e-7] <= 4e-7).all())
    assert bool((found[values == 0] == 0).all())
    if not signed:
        assert bool((found[values > 0] > 0).all())
        again, _ = quantise(found, signed)
        assert torch.equal(again, codes)


@pytest.mark.parametrize("signed", [True, False])
def test_numbers_beside_every_boundary_go_to_their_own_side(signed):
    table = levels(signed)
    middles = (table[1:] + table[:-1])[0 if signed else 1:] / 2
    beside = torch.cat([middles, middles.nextafter(torch.tensor(2.0)), middles.nextafter(torch.tensor(-2.0)), table])
    blocks = F.pad(F.pad(beside, (0, -len(beside) % (BLOCK - 1))).view(-1, BLOCK - 1), (1, 0), value=1.0)
    codes, scales = quantise(blocks.flatten(), signed)
    assert bool((scales == 1).all())
    between = (table[1:] + table[:-1]) / 2
    between[0] = between[0] if signed else 0.0
    assert torch.equal(codes, torch.bucketize(blocks.flatten(), between).to(torch.uint8))


def test_zeros_are_restored_as_zeros():
    for signed in (True, False):
        codes, scales = zeros(torch.ones(3, 500), signed)
        assert codes.shape == (3, 500)
        assert not bool(restore(codes.view(-1), scales, signed).any())


def learned(kind: str, steps=120, rate=3e-3) -> float:
    """Loss of a network that imitates a fixed one, on inputs it has not seen."""
    torch.manual_seed(0)
    teacher = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.Tanh(), torch.nn.Linear(96, 64))
    model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.Tanh(), torch.nn.Linear(96, 64))
    for layer in (teacher[0], teacher[2]):
        torch.nn.init.normal_(layer.weight, 0, 0.2)
    own = {"betas": [0.9, 0.99]} if kind in OWN["betas"] else {}
    config = OptimizerConfig(kind=kind, learning_rate=rate, **own)
    optimizer = build_optimizer(model, config)
    for step in range(steps + 1):
        inputs = torch.randn(256 if step < steps else 4096, 64)
        with torch.no_grad():
            target = teacher(inputs) + 0.1 * torch.randn(len(inputs), 64)
        loss = (model(inputs) - target).square().mean()
        if step < steps:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return float(loss.detach())


def test_eight_bits_learn_as_well_as_thirty_two():
    whole, eight, lower = learned("adamw"), learned("adamw8bit"), learned("adamw", steps=80)
    assert eight == pytest.approx(whole, rel=0.01)
    assert lower > 1.03 * whole  # so little as a third fewer steps would be seen


@pytest.mark.parametrize(("kind", "rate"), [("muon", 0.01), ("adam", 3e-3), ("sgd", 0.1), ("lion", 2e-3),
                                            ("adafactor", 0.1)])
def test_every_kind_learns(kind, rate):
    assert learned(kind, steps=60, rate=rate) < 0.5 * learned(kind, steps=0)
