"""The norm of a gradient that lies on many processes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gristmill.objectives.causal_lm import CausalLM
from gristmill.training.parallel import Layout, World
from gristmill.training.parallel.apply import parallelise
from gristmill.training.parallel.gradients import HELD_BY_STAGES, clip, total_norm
from tests.training.parallel.parity import COMPUTE, alone, gradients, made, rows, tiny, together
from tests.training.parallel.ranks import run_ranks, world_of


def _norms(rank: int, text: str, moe: bool) -> tuple[float, float, float, float]:
    """The norm and the oracle's; then the largest differences after clipping to half of it."""
    config = tiny(moe=True) if moe else tiny(kv_heads=2, tied_head=True, mlp_dim=50)
    data, objective, layout = rows(config), CausalLM(), Layout.parse(text)
    model = made(config)
    oracle = copy.deepcopy(model)
    world = world_of(layout)
    alone(oracle, objective, data, layout.replicate * layout.shard)
    expected = nn.utils.clip_grad_norm_(oracle.parameters(), 0.5)
    passes = parallelise(model, objective, None, world, COMPUTE)
    together(passes, objective, data, world)
    parameters = list(model.parameters())
    norm = total_norm(parameters, world)
    clip(parameters, 0.5, norm)
    found, wanted = gradients(model), gradients(oracle)
    return (float(norm), float(expected), max(float((found[n] - g).abs().max()) for n, g in wanted.items()),
            float(total_norm(parameters, world)))


@pytest.mark.parametrize(("size", "layout", "moe"), [
    (2, "replicate=2", False), (2, "shard=2", False), (2, "tensor=2", False), (2, "tensor=2,sequence=false", False),
    (2, "shard=2", True), (2, "tensor=2", True), (4, "replicate=2,shard=2", False), (4, "shard=2,tensor=2", False),
    (4, "shard=2,tensor=2", True), (4, "shard=4", False),
])
def test_each_weight_counts_once(size, layout, moe):
    for found, expected, difference, clipped in run_ranks(_norms, size, layout, moe):
        assert found == pytest.approx(expected, rel=1e-6)
        assert clipped == pytest.approx(0.5, rel=1e-5)
        assert difference < 1e-6


@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_exact_however_products_are_made(dtype, precision):
    generator = torch.Generator().manual_seed(0)
    parameters = []
    for shape in ((), (5,), (300, 70), (4, 3, 200)):
        parameter = nn.Parameter(torch.zeros(shape, dtype=dtype))
        parameter.grad = torch.randn(shape, generator=generator).to(dtype)
        parameters.append(parameter)
    parameters[2].grad = parameters[2].grad.T.contiguous().T
    exact = sum(p.grad.double().square().sum() for p in parameters) ** 0.5
    torch.set_float32_matmul_precision(precision)  # what `torch.dot` minds; put back after every test
    assert float(total_norm(parameters, World.alone())) == pytest.approx(float(exact), rel=1e-6)


def test_what_is_small_enough_is_left_alone_and_what_is_not_a_number_is_not():
    parameter = nn.Parameter(torch.zeros(3))
    for found, wanted in (([0.1, -0.2, 0.3], [0.1, -0.2, 0.3]), ([30.0, 0.0, 40.0], [0.6, 0.0, 0.8])):
        parameter.grad = torch.tensor(found)
        clip([parameter], 1.0, total_norm([parameter], World.alone()))
        assert torch.allclose(parameter.grad, torch.tensor(wanted))
    parameter.grad = torch.tensor([1.0, float("nan"), 2.0])
    clip([parameter], 1.0, total_norm([parameter], World.alone()))
    assert parameter.grad.isnan().all()


def _stages(rank: int) -> float:
    """Two stages with a weight each, and one that both hold with the same gradient."""
    world = world_of(Layout(pipeline=2))
    own, both = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    own.grad, both.grad = torch.tensor([float(2 + rank)]), torch.tensor([6.0])
    setattr(both, HELD_BY_STAGES, 2)
    return float(total_norm([own, both], world))


def test_stages_add_up_and_what_two_hold_counts_once():
    assert run_ranks(_stages, 2) == pytest.approx([7.0, 7.0])  # 2² + 3² + 6² = 7²


def test_one_process_has_the_usual_norm():
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert float(total_norm([parameter, nn.Parameter(torch.zeros(1))], World.alone())) == 5.0
    clip([parameter], 1.0, torch.tensor(5.0))
    assert parameter.grad.tolist() == pytest.approx([0.6, 0.8])
