"""Every optimizer against torch's, Transformers' or one written from its paper, over fifty steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.training.optimizers import OptimizerConfig, build_optimizer

KINDS = ("muon", "adamw", "adam", "sgd", "adafactor", "lion", "adamw8bit")
SHAPES = {"blocks.0.up.weight": (6, 10), "blocks.0.experts": (3, 5, 4), "blocks.0.norm.weight": (7,),
          "blocks.0.scale": (), "embedding.weight": (9, 4), "head.weight": (11, 4)}
DECAYED = ("blocks.0.up.weight", "blocks.0.experts", "head.weight")
BETAS = {"lion": [0.95, 0.98]}
STEPS = 50


def values(seed: int, dtype=torch.float64, scale=1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: scale * torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for n, s in SHAPES.items()}


def run(config: OptimizerConfig, dtype=torch.float64, scale=1.0, steps=STEPS) -> dict[str, torch.Tensor]:
    """The weights after `steps` steps along gradients that pull to the origin and are noisy."""
    parameters = {n: torch.nn.Parameter(v) for n, v in values(0, dtype).items()}
    optimizer = build_optimizer(parameters.items(), config)
    for step in range(steps):
        noise = values(1 + step, dtype)
        for name, parameter in parameters.items():
            parameter.grad = scale * (parameter.detach() + noise[name])
        optimizer.step()
    return {n: p.detach() for n, p in parameters.items()}


def follow(make, decay=0.0, scale=1.0) -> dict[str, torch.Tensor]:
    """The same with another's optimizer: make([parameter], its decay)."""
    found = {}
    for name, start in values(0).items():
        parameter = torch.nn.Parameter(start)
        optimizer = make([parameter], decay if name in DECAYED else 0.0)
        for step in range(STEPS):
            parameter.grad = scale * (parameter.detach() + values(1 + step)[name])
            optimizer.step()
        found[name] = parameter.detach()
    return found


def agree(ours, theirs, rtol=1e-6):
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=rtol, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kind", ["adamw", "adamw8bit"])
def test_adamw_is_torchs(kind):
    """Parameters as small as these have whole states in eight bits, too."""
    ours = run(OptimizerConfig(kind=kind, learning_rate=0.02, weight_decay=0.3, betas=[0.8, 0.97], epsilon=1e-4))
    agree(ours, follow(lambda p, decay: torch.optim.AdamW(p, 0.02, (0.8, 0.97), 1e-4, decay, fused=False), 0.3))


def test_adams_decay_is_in_the_gradient():
    ours = run(OptimizerConfig(kind="adam", learning_rate=0.02, weight_decay=0.3))
    agree(ours, follow(lambda p, decay: torch.optim.Adam(p, 0.02, (0.9, 0.95), 1e-8, decay, fused=False), 0.3))
    decoupled = run(OptimizerConfig(kind="adamw", learning_rate=0.02, weight_decay=0.3))
    assert (ours["head.weight"] - decoupled["head.weight"]).abs().max() > 1e-3


class SGD:
    """Sutskever et al. 2013 as torch writes it: v = m v + g, w -= lr v, or lr (g + m v)."""

    def __init__(self, parameters, decay, momentum, nesterov):
        (self.weight,) = parameters
        self.decay, self.momentum, self.nesterov = decay, momentum, nesterov
        self.velocity = torch.zeros_like(self.weight)

    def step(self):
        gradient = self.weight.grad + self.decay * self.weight.detach()
        self.velocity = self.momentum * self.velocity + gradient
        self.weight.data -= 0.02 * (gradient + self.momentum * self.velocity if self.nesterov else self.velocity)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_is_its_formula(momentum, nesterov):
    ours = run(OptimizerConfig(kind="sgd", learning_rate=0.02, weight_decay=0.3, momentum=momentum, nesterov=nesterov))
    agree(ours, follow(lambda p, decay: SGD(p, decay, momentum, nesterov), 0.3))


class PaperLion:
    """Algorithm 2 of arXiv:2302.06675."""

    def __init__(self, parameters, decay, betas):
        (self.weight,) = parameters
        self.decay, self.betas, self.momentum = decay, betas, torch.zeros_like(self.weight)

    def step(self):
        first, second = self.betas
        direction = torch.sign(first * self.momentum + (1 - first) * self.weight.grad)
        self.weight.data -= 0.02 * (direction + self.decay * self.weight.data)
        self.momentum = second * self.momentum + (1 - second) * self.weight.grad


@pytest.mark.parametrize("betas", [None, [0.95, 0.98]])
def test_lion_is_its_algorithm(betas):
    ours = run(OptimizerConfig(kind="lion", learning_rate=0.02, weight_decay=0.3, betas=betas))
    agree(ours, follow(lambda p, decay: PaperLion(p, decay, betas or (0.9, 0.99)), 0.3))


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_adafactor_is_transformers(scale):
    """Stacked matrices are compared one by one: theirs would give all experts one size."""
    transformers = pytest.importorskip("transformers")

    def make(parameters, decay):
        return transformers.Adafactor(parameters, lr=0.02, relative_step=False, scale_parameter=True)

    ours = run(OptimizerConfig(kind="adafactor", learning_rate=0.02), scale=scale)
    theirs = follow(make, scale=scale)
    slices = []
    for expert in range(3):
        weight = torch.nn.Parameter(values(0)["blocks.0.experts"][expert])
        optimizer = make([weight], 0.0)
        for step in range(STEPS):
            weight.grad = scale * (weight.detach() + values(1 + step)["blocks.0.experts"][expert])
            optimizer.step()
        slices.append(weight.detach())
    theirs["blocks.0.experts"] = torch.stack(slices)
    agree(ours, theirs)


def test_adafactor_agrees_with_torchs_where_gradients_are_large():
    ours = run(OptimizerConfig(kind="adafactor", learning_rate=0.02, weight_decay=0.3))
    theirs = follow(lambda p, decay: torch.optim.Adafactor(p, lr=0.02, weight_decay=decay), 0.3)
    for name in ("blocks.0.up.weight", "embedding.weight", "head.weight", "blocks.0.norm.weight"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["adafactor", "lion", "muon", "adamw8bit"])
def test_in_fp32_the_path_is_that_of_fp64(kind):
    config = OptimizerConfig(kind=kind, learning_rate=0.002)
    exact, ours = run(config, steps=10), run(config, torch.float32, steps=10)
    for name, value in ours.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name].float(), rtol=1e-5, atol=2e-4 if kind == "muon" else 1e-5)


@pytest.mark.parametrize("kind", ["muon", "adamw", "adafactor", "lion", "adamw8bit"])
def test_decoupled_decay_shrinks_what_has_no_gradient_and_nothing_else(kind):
    parameters = {n: torch.nn.Parameter(v) for n, v in values(0, torch.float32).items()}
    optimizer = build_optimizer(parameters.items(), OptimizerConfig(kind=kind, learning_rate=0.5, weight_decay=0.1))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, start in values(0, torch.float32).items():
        torch.testing.assert_close(parameters[name].detach(), start * (0.95 if name in DECAYED else 1.0))


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), shape=st.lists(st.integers(1, 80), max_size=3).map(tuple),
       size=st.sampled_from([1e-8, 1e-3, 10.0]), empty=st.booleans(), strided=st.booleans())
def test_any_shape_and_size_of_gradient_gives_a_finite_step_downwards(kind, shape, size, empty, strided):
    """Also where a row has no gradient, and where the memory is in another order."""
    generator = torch.Generator().manual_seed(sum(shape))
    start = torch.randn(shape, generator=generator)
    if strided and len(shape) >= 2:
        start = start.transpose(-1, -2).contiguous().transpose(-1, -2)
    weight = torch.nn.Parameter(start.clone())
    optimizer = build_optimizer([("blocks.0.weight", weight)], OptimizerConfig(kind=kind, learning_rate=1e-3))
    gradient = size * torch.randn(shape, generator=generator)
    if empty and shape:
        gradient[0] = 0
    for _ in range(2):
        weight.grad = gradient.clone()
        optimizer.step()
    moved = weight.detach() - start
    assert bool(moved.isfinite().all())
    if bool(gradient.any()) and (kind != "sgd" or size > 1e-6):  # a step as small as that is below the weights' digits
        assert float((moved * gradient).sum()) < 0
    if empty and shape and kind not in ("muon",):
        assert not bool(moved[0].any())


@settings(max_examples=20, deadline=None)
@given(shape=st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple), rate=st.sampled_from([1e-4, 0.01]))
def test_lion_moves_every_coordinate_by_its_rate(shape, rate):
    weight = torch.nn.Parameter(torch.zeros(shape))
    optimizer = build_optimizer([("blocks.0.weight", weight)], OptimizerConfig(kind="lion", learning_rate=rate))
    generator = torch.Generator().manual_seed(1)
    before = torch.zeros(shape)
    for _ in range(3):
        weight.grad = torch.randn(shape, generator=generator)
        optimizer.step()
        torch.testing.assert_close((weight.detach() - before).abs(), torch.full(shape, rate), rtol=1e-3, atol=0)
        before = weight.detach().clone()


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), size=st.sampled_from([0.0, 1e-5, 1.0, 100.0]))
def test_adafactors_step_is_bounded_by_the_size_of_the_weights(rows, columns, size):
    generator = torch.Generator().manual_seed(rows)
    weight = torch.nn.Parameter(size * torch.randn(rows, columns, generator=generator))
    optimizer = build_optimizer([("blocks.0.weight", weight)], OptimizerConfig(kind="adafactor"))
    for step in range(3):
        before = weight.detach().clone()
        weight.grad = 10.0 ** step * torch.randn(rows, columns, generator=generator)
        optimizer.step()
        moved = float((weight.detach() - before).square().mean().sqrt())
        assert 0 < moved <= 1.001 * 0.01 * max(float(before.square().mean().sqrt()), 1e-3)
