"""Float8 linear layers: how far they are from fp32, that gradients are theirs, and that a model learns with them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

from gristmill.models import Decoder, DecoderConfig
from gristmill.models.config import MoEConfig
from gristmill.models.layers import float8
from gristmill.models.layers.float8 import (
    BACKWARD,
    FORWARD,
    Float8Linear,
    float8_linears,
    float8_problem,
    hardware_product,
    product,
    quantise,
)
from gristmill.models.layers.linear import joined_linear
from gristmill.objectives import CausalLM

TINY = DecoderConfig(vocab_size=64, dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp_dim=64, context=32)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), size=st.sampled_from([1e-20, 1e-3, 1.0, 1e5]), backward=st.booleans())
def test_rounding_is_within_half_a_step(seed, size, backward):
    """e4m3 has 3 bits of mantissa, e5m2 two: at most 1/16 or 1/8 of a number, or half the scale's smallest step."""
    dtype = BACKWARD if backward else FORWARD
    x = size * torch.randn(64, generator=torch.Generator().manual_seed(seed))
    code, scale = quantise(x, dtype)
    assert code.dtype == dtype
    error = (code.float() * scale - x).abs()
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert (error <= x.abs() * torch.finfo(dtype).eps / 2 * 1.001 + smallest / 2 * scale * 1.001).all()
    assert float(code.float().abs().max()) == torch.finfo(dtype).max or size < 1e-12


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bad):
    x = torch.ones(16, 16)
    x[3, 5] = bad
    linear = Float8Linear(16, 16)
    assert not linear(x).isfinite().any()


def test_zeros_stay_zero():
    assert not Float8Linear(16, 16, bias=False)(torch.zeros(16, 16)).any()


@pytest.mark.parametrize("kinds", [(FORWARD, FORWARD), (BACKWARD, FORWARD)])
def test_the_imitation_gives_what_the_product_of_the_library_gives(kinds):
    torch.manual_seed(0)
    (a, scale_a), (b, scale_b) = quantise(torch.randn(32, 64), kinds[0]), quantise(torch.randn(64, 48), kinds[1])
    try:
        expected = hardware_product(a, scale_a, b, scale_b, torch.float32)
    except RuntimeError as error:
        pytest.skip(f"no float8 products on this CPU: {error}")
    torch.testing.assert_close(product(a, scale_a, b, scale_b, torch.float32), expected, rtol=1e-5, atol=1e-4)


def relative(found, true):
    return float((found - true).norm() / true.norm())


@pytest.mark.parametrize("bias", [False, True])
def test_the_layer_and_its_gradients_are_near_fp32(bias):
    """Rounding errors are independent: of two factors with relative errors of 2.6 % (e4m3) and 5 % (e5m2)."""
    torch.manual_seed(0)
    plain = nn.Linear(64, 96, bias=bias)
    low = Float8Linear(64, 96, bias=bias)
    low.load_state_dict(plain.state_dict())
    results = []
    for layer in (plain, low):
        x = torch.randn(4, 32, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = layer(x)
        out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(2)))
        results.append([out.detach(), x.grad, *(p.grad for p in layer.parameters())])
    for (true, found), bound in zip(zip(*results, strict=True), (0.045, 0.075, 0.075, 1e-6), strict=False):
        assert found.shape == true.shape
        assert found.dtype == true.dtype
        assert relative(found, true) < bound
    assert relative(results[1][0], results[0][0]) > 0.01  # it really was rounded


def test_gradients_are_those_of_the_rounded_layer():
    """With numbers that float8 holds exactly nothing is rounded, and all three products are exact."""
    generator = torch.Generator().manual_seed(0)
    plain, low = nn.Linear(32, 16, bias=False), Float8Linear(32, 16, bias=False)
    weight = torch.randint(-3, 4, (16, 32), generator=generator).float()
    weight[0, 0] = 3.5
    slopes = torch.randint(-2, 3, (16, 16), generator=generator).float()
    results = []
    for layer in (plain, low):
        layer.weight = nn.Parameter(weight.clone())
        x = torch.randint(-7, 8, (16, 32), generator=torch.Generator().manual_seed(1)).float()
        x[0, 0] = 7  # 448 / 64: scales are powers of two
        x.requires_grad_()
        out = layer(x)
        out.backward(slopes * (57344 / 2**15 / slopes.abs().max()))
        results.append((out.detach(), x.grad, layer.weight.grad))
    for true, found in zip(*results, strict=True):
        torch.testing.assert_close(found, true, rtol=1e-6, atol=1e-6)


def test_what_the_hardware_multiplies_compiles_in_one_graph_both_ways(monkeypatch):
    layer, graphs = Float8Linear(64, 32, bias=False), []
    x = torch.randn(2, 32, 64, requires_grad=True)
    slopes = torch.randn(2, 32, 32)
    try:
        hardware_product(*quantise(slopes[0], BACKWARD), *quantise(x[0].detach(), FORWARD), torch.float32)
    except RuntimeError as error:
        pytest.skip(f"no float8 products on this CPU: {error}")
    expected = layer(x)
    wanted = torch.autograd.grad(expected, (x, layer.weight), slopes)
    monkeypatch.setattr(float8, "product", hardware_product)

    def backend(graph, inputs):
        def made(graph, inputs):
            graphs.append([node.target for node in graph.graph.nodes])
            return make_boxed_func(graph.forward)

        return aot_autograd(fw_compiler=made)(graph, inputs)

    found = torch.compile(layer, backend=backend, fullgraph=True)(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for gradient, true in zip(torch.autograd.grad(found, (x, layer.weight), slopes), wanted, strict=True):
        torch.testing.assert_close(gradient, true, rtol=1e-4, atol=1e-4)
    assert [graph.count(torch.ops.aten._scaled_mm.default) for graph in graphs] == [1, 2]


def test_in_autocast_it_computes_and_returns_its_type():
    layer = Float8Linear(32, 16)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.randn(2, 16, 32))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_rows_that_the_hardware_does_not_take_are_made_as_ever():
    torch.manual_seed(0)
    layer = Float8Linear(32, 16)
    x = torch.randn(3, 5, 32)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert layer(torch.randn(0, 32)).shape == (0, 16)


def test_joined_projections_are_each_in_float8():
    torch.manual_seed(0)
    layers = [Float8Linear(32, 16), Float8Linear(32, 48)]
    x = torch.randn(16, 32)
    for found, layer in zip(joined_linear(x, *layers), layers, strict=True):
        assert torch.equal(found, layer(x))


def test_only_large_layers_of_blocks_change_and_no_name_does():
    moe = DecoderConfig(family="moe", vocab_size=64, dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp_dim=64,
                        context=32, moe=MoEConfig(experts=16, active=2, mlp_dim=48, shared=1, shared_gate=True))
    uneven = DecoderConfig(vocab_size=64, dim=32, layers=1, heads=2, kv_heads=1, head_dim=16, mlp_dim=72, context=32,
                           tied_head=False)
    for config, inside in ((TINY, {"query", "key", "value", "output", "gate", "up", "down"}),
                           (moe, {"query", "key", "value", "output", "gate", "up", "down"}),
                           (uneven, {"query", "key", "value", "output"})):
        model = Decoder(config)
        before = list(model.state_dict())
        changed = float8_linears(model)
        assert {name.split(".")[-1] for name in changed} == inside
        assert all(name.startswith("blocks.") and "router" not in name for name in changed)
        assert list(model.state_dict()) == before
        assert {n for n, m in model.named_modules() if isinstance(m, Float8Linear)} == set(changed)
    assert float8_linears(Decoder(TINY), smallest=64) == []


def test_it_learns_like_bf16():
    losses = {}
    for low in (False, True):
        model = Decoder(TINY)
        model.initialise(0)
        if low:
            float8_linears(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for step in range(40):
            ids = (torch.arange(33)[None] * (1 + torch.arange(4)[:, None]) + step) % 64
            with torch.autocast("cpu", torch.bfloat16):
                loss = CausalLM().terms(model, {"input_ids": ids[:, :-1], "targets": ids[:, 1:]}).sums["loss"] / 128
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.setdefault(low, []).append(float(loss.detach()))
    assert losses[False][-1] < 0.3 * losses[False][0]
    assert losses[True][-1] < losses[False][-1] + 0.05 * losses[False][0]
    assert losses[True] != losses[False]


def test_a_cpu_may_imitate_it():
    assert float8_problem(torch.device("cpu")) is None
