"""Norms in C++ against the module's own formula in fp64: values, all gradients, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from gristmill.core import native
from gristmill.core.compiler import compiler_problem
from gristmill.models.decoder import Block
from gristmill.models.layers import cpu_norm as kernel
from gristmill.models.layers.norms import Parts, RMSNorm, add_norm_for_products, norm_for_products
from tests.models.random_models import random_decoder

pytestmark = pytest.mark.skipif(not kernel.ready(), reason="this machine cannot run it")
CAST = torch.autocast("cpu", torch.bfloat16)
EPS = 1e-5


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def distance(one: Tensor, other: Tensor) -> float:
    return float((one.detach().double() - other.detach()).norm() / other.detach().norm())


def exact(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 300), dim=st.sampled_from([16, 48, 256, 528]), added=st.booleans(),
       size=st.sampled_from([1e-3, 1.0, 1e4]), seed=st.integers(0, 99))
def test_values_and_gradients_equal_the_formula(rows, dim, added, size, seed):
    x = (numbers(1, rows, dim, seed=seed) * size).requires_grad_()
    weight = (1 + 0.3 * numbers(dim, seed=seed + 1)).requires_grad_()
    more = (numbers(1, rows, dim, seed=seed + 2) * size).bfloat16().requires_grad_()
    slopes = numbers(1, rows, dim, seed=seed + 3), numbers(1, rows, dim, seed=seed + 4).bfloat16()
    wide = [tensor.detach().double().requires_grad_() for tensor in (x, weight, more)]
    total = wide[0] + wide[2] if added else wide[0]
    expected = exact(total, wide[1])
    if added:
        assert kernel.takes(x, weight) is False  # no autocast here
        found_total, found = kernel.add_norm(x, more, weight, EPS)
        assert found_total.dtype == torch.float32
        assert distance(found_total, total) < 1e-6
        ours = torch.autograd.grad([found_total, found], [x, weight, more], slopes)
        theirs = torch.autograd.grad([total, expected], wide, [slope.double() for slope in slopes])
    else:
        found = kernel.norm(x, weight, EPS)
        ours = torch.autograd.grad(found, [x, weight], slopes[1])
        theirs = torch.autograd.grad(expected, wide[:2], slopes[1].double())
    assert found.dtype == torch.bfloat16
    assert distance(found, expected) < 0.003
    for one, other in zip(ours, theirs, strict=True):
        assert distance(one, other) < (0.003 if one.dtype == torch.bfloat16 else 3e-6)


def test_what_is_not_used_has_no_gradient_to_give():
    x, weight, more = numbers(70, 32).requires_grad_(), torch.ones(32).requires_grad_(), numbers(70, 32, seed=1)
    total, _ = kernel.add_norm(x, more, weight, EPS)
    assert torch.equal(torch.autograd.grad(total.sum(), x)[0], torch.ones(70, 32))
    _, normed = kernel.add_norm(x, more, weight, EPS)
    slope = numbers(70, 32, seed=2).bfloat16()
    wide = (x.detach() + more.bfloat16()).double().requires_grad_()
    assert distance(torch.autograd.grad(normed, x, slope)[0],
                    torch.autograd.grad(exact(wide, weight.double()), wide, slope.double())[0]) < 1e-5


def test_no_bit_hangs_on_other_rows_or_on_the_number_of_threads():
    x, weight, slope = numbers(400, 64).requires_grad_(), numbers(64, seed=1).requires_grad_(), numbers(400, 64, seed=2)

    def everything() -> list[Tensor]:
        out = kernel.norm(x, weight, EPS)
        return [out, *torch.autograd.grad(out, [x, weight], slope.bfloat16())]

    whole, threads = everything(), torch.get_num_threads()
    try:
        for count in (1, 3, 5):
            torch.set_num_threads(count)
            assert all(map(torch.equal, everything(), whole))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(kernel.norm(x[37:170], weight, EPS), whole[0][37:170])
    wide = torch.cat([x, x], dim=1)[:, :64]
    assert torch.equal(kernel.norm(wide, weight, EPS), whole[0])


def test_what_it_does_not_take_is_made_by_the_module():
    norm, x = RMSNorm(32, EPS), numbers(3, 5, 32)
    assert torch.equal(norm_for_products(norm, x), norm(x))  # without autocast all is fp32
    with CAST:
        assert norm_for_products(norm, x).dtype == torch.bfloat16
        for other, rows in ((nn.LayerNorm(32), x), (norm.bfloat16(), x.bfloat16()), (RMSNorm(24, EPS), x[..., :24])):
            assert torch.equal(norm_for_products(other, rows), other(rows))
            total, normed = add_norm_for_products(other, rows, rows)
            assert torch.equal(total, rows + rows)
            assert torch.equal(normed, other(rows + rows))
    with torch.autocast("cpu", torch.float16):
        assert norm_for_products(RMSNorm(32, EPS), x).dtype == torch.float32


@pytest.mark.parametrize("changes", [{}, {"parallel": True}], ids=str)
def test_a_model_says_the_same_with_it_and_without(changes, monkeypatch):
    model = random_decoder(vocab_size=96, dim=64, heads=2, kv_heads=1, head_dim=32, **changes)
    inputs = torch.randint(0, 96, (4, 40), generator=torch.Generator().manual_seed(1))
    exactly, names = model(inputs).detach().double(), []
    call = native.call
    monkeypatch.setattr(native, "call", lambda source, name, *rest: names.append(name) or call(source, name, *rest))
    with CAST:
        found = model(inputs)
        assert names.count("norm_forward") == 1 + model.config.layers * (1 if changes else 2)
        monkeypatch.setattr(kernel, "ready", lambda: False)
        apart = model(inputs)
    assert distance(found, exactly) < max(0.01, 1.2 * distance(apart, exactly))


@pytest.mark.parametrize("changes", [{}, {"value_embeddings": True}], ids=str)
def test_sums_left_to_the_next_block_are_the_same(changes, monkeypatch):
    model = random_decoder(vocab_size=96, dim=64, heads=2, kv_heads=1, head_dim=32, **changes)
    inputs = torch.randint(0, 96, (4, 40), generator=torch.Generator().manual_seed(1))
    slope = numbers(4, 40, 64).bfloat16()
    given = []
    model.blocks[1].register_forward_pre_hook(lambda block, args: given.append(type(args[0])))

    def everything() -> list[Tensor]:
        with CAST:
            states = model.hidden(inputs)
        return [states, *torch.autograd.grad(states, list(model.blocks.parameters()), slope)]

    parts = everything()
    monkeypatch.setattr(Block, "takes_parts", lambda self, x: False)
    whole = everything()
    assert given == [Parts, Tensor]
    assert torch.equal(parts[0], whole[0])
    for one, other in zip(parts, whole, strict=True):
        assert distance(one, other) < 0.005  # gradients of the stream are summed in another order, then rounded


def test_blocks_that_leave_sums_to_the_next_are_compiled_once():
    model = random_decoder(vocab_size=96, dim=64, layers=3, heads=2, kv_heads=1, head_dim=32)
    counter = CompileCounterWithBackend("eager")
    for block in model.blocks:
        block.compile(dynamic=False, backend=counter, fullgraph=True)
    for _ in range(2):
        with CAST:
            model.hidden(torch.zeros(4, 40, dtype=torch.int64)).sum().backward()
    assert counter.frame_count == 1


@pytest.mark.skipif(compiler_problem() is not None, reason="no compiler")
def test_operators_by_the_book():
    x, weight = numbers(2, 40, 32).requires_grad_(), torch.ones(32).requires_grad_()
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.gristmill.cpu_norm.default, (x, weight, EPS), test_utils=tests)
    torch.library.opcheck(torch.ops.gristmill.cpu_add_norm.default, (x, x.detach().bfloat16(), weight, EPS),
                          test_utils=tests)
