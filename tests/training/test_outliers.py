"""Outliers are found, and a skipped update leaves weights and states as they were."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.models import Decoder, DecoderConfig
from gristmill.models.config import MoEConfig
from gristmill.training.checkpoints import Checkpoints
from gristmill.training.optimizers import OptimizerConfig, build_optimizer
from gristmill.training.outliers import FEWEST, WINDOW, Outliers
from gristmill.training.parallel import World

KINDS = ("muon", "adamw", "adam", "sgd", "adafactor", "lion", "adamw8bit")
EXPERTS = DecoderConfig(family="moe", vocab_size=300, dim=32, layers=1, heads=2, kv_heads=1, head_dim=16, mlp_dim=64,
                        context=32, moe=MoEConfig(experts=4, active=2, mlp_dim=48))


def values(count, seed=0, spread=0.05):
    generator = torch.Generator().manual_seed(seed)
    return (3 + spread * torch.randn(count, generator=generator)).tolist()


def judged(outliers, losses, norms=None):
    norms = [1 + 0.1 * (loss - 3) for loss in losses] if norms is None else norms
    return [bool(outliers.judge(torch.tensor(loss), torch.tensor(norm)))
            for loss, norm in zip(losses, norms, strict=True)]


def test_six_deviations_are_skipped_and_five_are_not():
    outliers = Outliers(6.0)
    assert not any(judged(outliers, values(WINDOW)))
    for far, expected in ((5.0, False), (6.5, True)):
        again = Outliers(6.0)
        again.load_tensors(outliers.tensors())
        history = again.history[0]
        there = float(history.mean() + far * history.std())
        assert judged(again, [there], [1.0]) == [expected]
        again.load_tensors(outliers.tensors())
        history = again.history[1]
        there = float(history.mean() + far * history.std())
        assert judged(again, [3.0], [there]) == [expected]
        assert int(again.skipped) == expected


def test_the_deviation_is_that_of_the_last_window():
    """Against numpy's idea of it, over more updates than the window holds."""
    outliers, losses = Outliers(2.0), values(3 * WINDOW)
    for at, loss in enumerate(losses):
        recent = torch.tensor(losses[max(0, at - WINDOW):at], dtype=torch.float64)
        expected = at >= FEWEST and loss > float(recent.mean() + 2 * recent.std())
        assert judged(outliers, [loss], [1.0]) == [expected], at


def test_low_values_and_the_start_are_never_outliers():
    outliers = Outliers(6.0)
    falling = [3 + 100 * math.exp(-at / 3) for at in range(FEWEST)]
    assert not any(judged(outliers, falling))
    assert not any(judged(Outliers(6.0), [*values(WINDOW), 0.0], [1.0] * (WINDOW + 1)))


def test_a_level_that_changed_for_good_is_accepted_after_a_few():
    outliers = Outliers(6.0)
    judged(outliers, values(WINDOW))
    after = judged(outliers, [loss + 50 for loss in values(WINDOW, seed=1)], [1.0] * WINDOW)
    assert after[0]
    assert sum(after) <= WINDOW / (6**2 + 1) + 1
    assert not any(after[10:])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_skipped_from_the_first_update_on_and_forgotten(bad):
    outliers = Outliers(6.0)
    assert judged(outliers, [bad], [1.0]) == [True]
    assert judged(outliers, [3.0], [bad]) == [True]
    assert int(outliers.seen) == 0
    assert int(outliers.skipped) == 2
    assert not any(judged(outliers, values(WINDOW)))


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(0, 2 * WINDOW), spikes=st.sets(st.integers(0, 2 * WINDOW), max_size=5))
def test_resumed_anywhere_it_decides_the_same(cut, spikes):
    losses = [loss * (5 if at in spikes else 1) for at, loss in enumerate(values(2 * WINDOW + 1))]
    whole, first, second = Outliers(6.0), Outliers(6.0), Outliers(6.0)
    expected = judged(whole, losses)
    before = judged(first, losses[:cut])
    second.load_tensors({name: tensor.clone() for name, tensor in first.tensors().items()})
    assert before + judged(second, losses[cut:]) == expected
    assert all(torch.equal(value, second.tensors()[name]) for name, value in whole.tensors().items())
    assert expected == [at in spikes and at >= FEWEST for at in range(2 * WINDOW + 1)] or len(spikes) > 1


def made(kind, **options):
    model = Decoder(EXPERTS)
    model.initialise(0)
    return model, build_optimizer(model, OptimizerConfig(kind=kind, learning_rate=0.01, weight_decay=0.1, **options))


def gradients(model, step, scale=1.0):
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)


def everything(model, optimizer):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {**{name: p.detach().clone() for p, name in names.items()},
            **{name: value.clone() for name, value in optimizer.tensors(names).items()}}


def same(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


@pytest.mark.parametrize("on_device", [False, True], ids=["looking", "selecting"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_skipped_step_leaves_every_bit_and_the_others_are_as_without(kind, on_device):
    """A planted outlier, one of them not finite, between ordinary steps: as if it had never been."""
    model, optimizer = made(kind)
    plain, unjudged = made(kind)
    step_unless = optimizer.step_selected if on_device else optimizer.step_unless
    for step, (scale, skip) in enumerate([(1, False), (1e6, True), (1, False), (math.nan, True), (1, False)]):
        gradients(model, step, scale)
        before = everything(model, optimizer)
        step_unless(torch.tensor(skip))
        if skip:
            same(everything(model, optimizer), before)
        else:
            gradients(plain, step)
            unjudged.step()
    same(everything(model, optimizer), everything(plain, unjudged))


@pytest.mark.parametrize(("kind", "options"), [
    *((kind, {}) for kind in KINDS), ("sgd", {"nesterov": True}), ("sgd", {"momentum": 0.0})])
def test_a_first_step_that_is_skipped_leaves_the_second_as_a_first(kind, options):
    model, optimizer = made(kind, **options)
    plain, unjudged = made(kind, **options)
    gradients(model, 0, math.inf)
    optimizer.step_selected(torch.tensor(True))
    for step in (1, 2):
        for one, other in ((model, optimizer), (plain, unjudged)):
            gradients(one, step)
            other.step_selected(torch.tensor(False))
    same(everything(model, optimizer), everything(plain, unjudged))


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_after_a_skipped_step_goes_through_a_checkpoint(tmp_path, kind):
    model, optimizer = made(kind)
    outliers = Outliers(6.0)
    judged(outliers, values(WINDOW))
    gradients(model, 0)
    optimizer.step_selected(outliers.judge(torch.tensor(99.0), torch.tensor(1.0)))  # skipped, and the first
    names = {parameter: name for name, parameter in model.named_parameters()}
    saves = Checkpoints(tmp_path, World.alone())
    saves.save(1, {"model": dict(model.named_parameters()), "optimizer": optimizer.tensors(names),
                   "outliers": outliers.tensors()}, {})
    found = saves.newest()
    assert found is not None
    other, resumed = made(kind)
    resumed.load_tensors(saves.read(found, "optimizer"), {p: n for n, p in other.named_parameters()})
    again = Outliers(6.0)
    again.load_tensors(saves.read(found, "outliers"))
    assert int(again.skipped) == 1
    for one, its, judge in ((model, optimizer, outliers), (other, resumed, again)):
        gradients(one, 5)
        for group in its.param_groups:
            group["lr"] = group["peak_lr"]
        its.step_unless(judge.judge(torch.tensor(3.0), torch.tensor(1.0)))
    same(everything(other, resumed), everything(model, optimizer))


def test_nothing_on_the_device_path_reads_a_value():
    """On the meta device reading a value is an error: neither judging nor selecting does."""
    outliers = Outliers(6.0, "meta")
    skip = outliers.judge(torch.empty((), device="meta"), torch.empty((), device="meta"))
    with pytest.raises(RuntimeError, match=r"meta"):
        bool(skip)
    for kind in KINDS:
        if kind in ("adam", "adamw", "muon"):
            continue  # torch's fused kernels have no meta version; Muon asks the device for bf16
        with torch.device("meta"):
            model = Decoder(EXPERTS)
        optimizer = build_optimizer(model, OptimizerConfig(kind=kind, learning_rate=0.01))
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        optimizer.step_unless(skip)
        optimizer.step_unless(skip)
