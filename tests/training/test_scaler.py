"""The loss scaler against torch's own, over finite and overflowing gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gristmill.training.scaler import LossScaler


def layer():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def run(model, step, scaler, bad):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
    loss = model(x).square().sum()
    model.zero_grad()
    (loss * scaler.factor()).backward()
    if bad:
        model.weight.grad[1, 2] = bad
    return loss


STEPS = [*[None] * 4, math.inf, None, math.nan, -math.inf, *[None] * 8, math.inf]


def test_it_moves_as_torchs_does_and_gives_the_same_gradients():
    """torch inspects all gradients, ours their norm; patience 3, so that the scale grows too."""
    ours, theirs = layer(), layer()
    scaler = LossScaler("cpu", initial=1024.0, patience=3)
    reference = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in (ours, theirs)]
    scales = []
    for step, bad in enumerate(STEPS):
        run(ours, step, scaler, bad)
        norm = nn.utils.get_total_norm([p.grad for p in ours.parameters()])
        unscaled, overflowed = scaler.unscale(ours.parameters(), norm)
        if not bool(overflowed):
            optimizers[0].step()

        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        theirs.zero_grad()
        reference.scale(theirs(x).square().sum()).backward()
        if bad:
            theirs.weight.grad[1, 2] = bad
        reference.unscale_(optimizers[1])
        expected = nn.utils.get_total_norm([p.grad for p in theirs.parameters()])
        reference.step(optimizers[1])
        reference.update()

        assert bool(overflowed) == (bad is not None)
        torch.testing.assert_close(unscaled, expected, equal_nan=True)
        assert float(scaler.factor()) == reference.get_scale()
        assert torch.equal(ours.weight, theirs.weight)
        scales.append(float(scaler.factor()))
    assert min(scales) < 1024 < max(scales)  # both ways were taken


@pytest.mark.parametrize("cut", [0, 1, 5, 9])
def test_resumed_it_goes_on_as_it_was(cut):
    whole, first = LossScaler("cpu", patience=3), LossScaler("cpu", patience=3)
    norms = [torch.tensor(1.0 if bad is None else bad) for bad in STEPS]
    expected = [float(whole.unscale([], norm)[0]) for norm in norms]
    found = [float(first.unscale([], norm)[0]) for norm in norms[:cut]]
    second = LossScaler("cpu", patience=3)
    second.load_tensors(first.tensors())
    found += [float(second.unscale([], norm)[0]) for norm in norms[cut:]]
    assert [x for x in found if math.isfinite(x)] == [x for x in expected if math.isfinite(x)]
    assert second.tensors() == whole.tensors()


def test_gradients_below_fp16_survive():
    """Products in fp16 lose gradients of 1e-8; scaled, they come through."""
    found = {}
    for scaled in (False, True):
        model = layer()
        scaler = LossScaler("cpu", initial=2.0**12)
        with torch.autocast("cpu", torch.float16):
            loss = (model(torch.ones(2, 4)) * 1e-8).float().sum()
        (loss * scaler.factor() if scaled else loss).backward()
        if scaled:
            scaler.unscale(model.parameters(), torch.tensor(1.0))
        found[scaled] = model.bias.grad.clone()
    assert not found[False].any()
    torch.testing.assert_close(found[True], torch.full((3,), 2e-8), rtol=1e-2, atol=0)


def test_gradients_of_any_type_and_gaps_are_divided_as_one_by_one():
    parameters = [nn.Parameter(torch.randn(7, 3).to(dtype)) for dtype in (torch.float32, torch.bfloat16, torch.float32)]
    scaler = LossScaler("cpu", initial=24.0)  # no power of two: it rounds
    assert bool(scaler.unscale(parameters, torch.tensor(math.inf))[1]), "without gradients too"
    scaler = LossScaler("cpu", initial=24.0)
    expected = []
    for parameter in parameters[:2]:
        parameter.grad = torch.randn(7, 3).to(parameter.dtype)
        expected.append(parameter.grad.clone().mul_(scaler.factor().reciprocal()))
    scaler.unscale(parameters, torch.tensor(1.0))
    for parameter, one in zip(parameters, expected, strict=False):
        assert torch.equal(parameter.grad, one)
    assert parameters[2].grad is None
