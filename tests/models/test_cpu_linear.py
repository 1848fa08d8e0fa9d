"""Products in C++ against those of the same numbers in fp64: values, all gradients, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gristmill.core import native
from gristmill.core.compiler import compiler_problem
from gristmill.models.layers import cpu_linear as kernel
from gristmill.models.layers.linear import joined_linear, one_linear
from gristmill.models.layers.mlp import GatedMLP
from gristmill.objectives import CausalLM
from gristmill.training.activation_checkpointing import checkpoint_activations
from tests.models.random_models import random_decoder

pytestmark = pytest.mark.skipif(not kernel.ready(), reason="this machine cannot run it")
SIDES = st.sampled_from([32, 64, 96, 160, 352])
CAST = torch.autocast("cpu", torch.bfloat16)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rounded(x: Tensor) -> Tensor:
    """What the product sees of x, exactly."""
    return x.detach().bfloat16().double()


def distance(one: Tensor, other: Tensor) -> float:
    return float((one.detach().double() - other).norm() / other.norm())


def check_linear(x: Tensor, weights: list[Tensor], slope: Tensor) -> None:
    assert kernel.takes(x, weights)
    out = kernel.linear(x, weights)
    found = torch.autograd.grad(out, [x, *weights], slope.to(out.dtype))
    rows, slopes = rounded(x).flatten(0, -2), rounded(slope).flatten(0, -2)
    whole = torch.cat([rounded(weight) for weight in weights])
    assert out.dtype == torch.bfloat16
    assert distance(out.flatten(0, -2), rows @ whole.t()) < 0.003  # bf16 keeps 8 bits
    assert found[0].dtype == x.dtype
    assert distance(found[0].flatten(0, -2), slopes @ whole) < 0.003
    for one, weight, own in zip(found[1:], weights, slopes.split([len(w) for w in weights], dim=1), strict=True):
        assert one.dtype == weight.dtype
        assert distance(one, own.t() @ rows) < (1e-6 if one.dtype == torch.float32 else 0.003)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(kernel.FEWEST, 700), inner=SIDES, outers=st.lists(SIDES, min_size=1, max_size=3),
       wide=st.booleans(), seed=st.integers(0, 99))
def test_values_and_gradients_equal_exact_products(rows, inner, outers, wide, seed):
    dtype = torch.float32 if wide else torch.bfloat16
    x = numbers(rows, inner, seed=seed).to(dtype).requires_grad_()
    weights = [numbers(outer, inner, seed=seed + at + 1).to(dtype).requires_grad_() for at, outer in enumerate(outers)]
    slope = numbers(rows, sum(outers), seed=seed + 9)
    with CAST:
        check_linear(x, weights, slope)


@pytest.mark.parametrize("rows", [1152, 1153, 2400])
@pytest.mark.parametrize("side", [1024, 2048])
def test_many_rows_and_sides_that_share_places_in_the_cache(rows, side):
    with CAST:
        check_linear(numbers(rows, side).requires_grad_(), [numbers(64, side, seed=1).requires_grad_()],
                     numbers(rows, 64, seed=2))


def exact_gated(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return (F.silu(x @ gate.t()) * (x @ up.t())) @ down.t()


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(kernel.FEWEST, 1400), dim=SIDES, width=SIDES, wide=st.booleans(), seed=st.integers(0, 99))
def test_a_layer_with_a_gate_equals_the_exact_one(rows, dim, width, wide, seed):
    dtype = torch.float32 if wide else torch.bfloat16
    x = numbers(rows, dim, seed=seed).to(dtype).requires_grad_()
    shapes = (width, dim), (width, dim), (dim, width)
    weights = [(numbers(*shape, seed=seed + at + 1) * shape[1] ** -0.5).to(dtype).requires_grad_()
               for at, shape in enumerate(shapes)]
    slope = numbers(rows, dim, seed=seed + 7)
    exact = [rounded(tensor).requires_grad_() for tensor in (x, *weights)]
    expected = exact_gated(*exact)
    with CAST:
        out = kernel.gated(x, *weights)
    assert distance(out, expected.detach()) < 0.006
    found = torch.autograd.grad(out, [x, *weights], slope.bfloat16())
    reference = torch.autograd.grad(expected, exact, rounded(slope))
    for one, other, given_ in zip(found, reference, (x, *weights), strict=True):
        assert one.dtype == given_.dtype
        assert distance(one, other) < 0.006  # what lies between the products is rounded to bf16


def test_the_gate_holds_for_extreme_numbers():
    """Rows of the identity's weights: what comes out is silu(x) * 1 for numbers of every size."""
    sizes = torch.tensor([0.0, 1e-30, 1, -1, 20, -20, 88, -88, 200, -200, 1e4, -1e4, 1e30, -1e30, float("inf"),
                          float("nan")])
    x = torch.zeros(128, 32)
    x[:, 0], x[:16, 1] = 1, sizes
    gate, up, down = torch.zeros(32, 32), torch.zeros(32, 32), torch.zeros(32, 32)
    gate[0, 1], up[0, 0], down[5, 0] = 1, 1, 1
    with CAST:
        found = kernel.gated(x.nan_to_num(nan=0.0, posinf=3e38), gate, up, down)[:14, 5]
    torch.testing.assert_close(found.float(), F.silu(sizes[:14].bfloat16().float()), rtol=0.01, atol=2e-8)
    with CAST:  # what is not a number stays none, and only in its own row
        broken = kernel.gated(x, gate, up, down)
    assert not broken[14:16, 5].isfinite().any()
    assert broken[16:].isfinite().all()


@pytest.mark.parametrize("frozen", [["x"], ["gate"], ["gate", "up"], ["down"], ["x", "up", "down"]], ids=str)
def test_what_needs_no_gradient_gets_none(frozen):
    given_ = {"x": numbers(130, 32), "gate": numbers(64, 32), "up": numbers(64, 32), "down": numbers(32, 64)}
    learnt = {name: tensor.clone().requires_grad_() for name, tensor in given_.items()}
    with CAST:
        kernel.gated(*learnt.values()).sum().backward()
        kernel.gated(*(tensor.requires_grad_(name not in frozen) for name, tensor in given_.items())).sum().backward()
    for name, tensor in given_.items():
        if name in frozen:
            assert tensor.grad is None
        else:
            assert torch.equal(tensor.grad, learnt[name].grad)
    x, weights = given_["x"].detach(), [given_["gate"].detach(), given_["up"].detach().requires_grad_()]
    with CAST:
        kernel.linear(x, weights).sum().backward()
    assert x.grad is weights[0].grad is None
    assert weights[1].grad is not None


def test_no_bit_hangs_on_other_rows_or_on_the_number_of_threads():
    x, weight = numbers(400, 64), [numbers(96, 64, seed=1).requires_grad_()]
    small = numbers(32, 64, seed=5).requires_grad_()  # fewer rows and columns than some of the threads
    gates = [numbers(64, 64, seed=at).requires_grad_() for at in (2, 3, 4)]

    def everything() -> list[Tensor]:
        with CAST:
            outs = kernel.linear(x, weight), kernel.gated(x, *gates), kernel.linear(x, [small])
        return [*outs, *torch.autograd.grad([out.sum() for out in outs], [*weight, *gates, small])]

    whole, threads = everything(), torch.get_num_threads()
    try:
        for count in (1, 2, 3, 4, 5, 8):
            torch.set_num_threads(count)
            assert all(map(torch.equal, everything(), whole))
    finally:
        torch.set_num_threads(threads)
    with CAST:
        assert torch.equal(kernel.linear(x[37:170], weight), whole[0][37:170])
        assert torch.equal(kernel.gated(x[37:170], *gates), whole[1][37:170])


def test_any_layout_in_memory_gives_the_same():
    x, weight, slope = numbers(4, 50, 64).bfloat16(), numbers(96, 64, seed=1), numbers(4, 50, 96, seed=2).bfloat16()

    def both(x: Tensor, weight: Tensor, slope: Tensor) -> tuple[Tensor, ...]:
        x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
        with CAST:
            out = kernel.linear(x, [weight])
        return out, *torch.autograd.grad(out, [x, weight], slope)

    expected = both(x, weight, slope)
    turned = both(x.transpose(1, 2).contiguous().transpose(1, 2), weight.t().contiguous().t(),
                  torch.cat([slope, slope], dim=-1)[..., :96])
    assert all(map(torch.equal, turned, expected))
    rows, slopes = x.flatten(0, 1), slope.flatten(0, 1)
    flat = both(rows, weight, slopes)
    for more in (1, 2):  # rows that begin at an odd distance from each other, and at an even one
        wide = [torch.cat([part, part[:, :more]], dim=1)[:, :-more] for part in (rows, slopes)]
        assert all(map(torch.equal, both(wide[0], weight, wide[1]), flat))
    with CAST:  # the gradient of a sum has no memory of its own
        kernel.linear(x.flatten(0, 1).requires_grad_(), [weight.requires_grad_()]).sum().backward()
    torch.testing.assert_close(weight.grad, x.flatten(0, 1).float().sum(0).expand_as(weight).detach(), rtol=1e-5,
                               atol=1e-4)


def test_what_it_does_not_take_is_made_by_torch():
    x, layer = numbers(200, 64), nn.Linear(64, 96, bias=False)
    weights = [layer.weight]
    assert not kernel.takes(x, weights)  # fp32
    assert kernel.takes(x.bfloat16(), [layer.weight.bfloat16()])
    assert not kernel.takes(x.bfloat16(), weights)  # without autocast, types that differ are a mistake of the caller's
    with torch.autocast("cpu", torch.float16):
        assert not kernel.takes(x, weights)
    with CAST:
        assert kernel.takes(x, weights)
        assert not kernel.takes(x[:100], weights)  # as one token that is generated
        assert not kernel.takes(x, [numbers(97, 64)])
        assert not kernel.takes(numbers(200, 48), [numbers(96, 48)])
        assert not kernel.takes(x, [layer.weight, numbers(32, 64).bfloat16()])
        assert not kernel.takes(x.to("meta"), weights)
        assert distance(one_linear(x[:100], layer), rounded(x[:100]) @ rounded(layer.weight).t()) < 0.003


@pytest.mark.parametrize("bias", [True, False])
def test_layers_use_it_and_say_the_same_as_without(bias, monkeypatch):
    torch.manual_seed(0)
    layers = [nn.Linear(64, size, bias=bias) for size in (96, 32)]
    mlp, x = GatedMLP(64, 96, bias=bias), numbers(3, 70, 64)

    def everything() -> list[Tensor]:
        with CAST:
            outs = [*joined_linear(x, *layers), mlp(x)]
        learnt = [parameter for module in (*layers, mlp) for parameter in module.parameters()]
        return [*outs, *torch.autograd.grad([out.float().square().sum() for out in outs], learnt)]

    calls = []
    call = native.call
    monkeypatch.setattr(native, "call", lambda source, name, *rest: calls.append(name) or call(source, name, *rest))
    ours = everything()
    linears = [f"linear_{way}" for way in (("forward", "forward", "forward", "backward", "backward", "backward")
                                           if bias else ("forward", "backward"))]
    assert sorted(calls) == sorted(linears + ([] if bias else ["gated_forward", "gated_backward"]))
    monkeypatch.setattr(kernel, "ready", lambda: False)
    for one, other in zip(ours, everything(), strict=True):
        assert one.dtype == other.dtype
        assert distance(one, other.detach().double()) < 0.01


@pytest.mark.skipif(compiler_problem() is not None, reason="no compiler")
def test_compiled_it_is_one_graph_and_operators_by_the_book():
    torch.manual_seed(0)
    mlp, layer, x = GatedMLP(32, 64), nn.Linear(32, 96, bias=False), numbers(2, 80, 32)

    def both(x: Tensor) -> Tensor:
        with CAST:
            return one_linear(mlp(x), layer)

    expected = both(x)
    learnt = [*mlp.parameters(), layer.weight]
    compiled = torch.compile(both, fullgraph=True)(x)
    assert torch.equal(compiled, expected)
    assert all(map(torch.equal, *(torch.autograd.grad(out.sum(), learnt) for out in (compiled, expected))))
    rows, tests = x.bfloat16().requires_grad_(), ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.gristmill.cpu_linear.default, (rows, [layer.weight]), test_utils=tests)
    torch.library.opcheck(torch.ops.gristmill.cpu_gated.default, (rows, [*mlp.parameters()]), test_utils=tests)


@pytest.mark.parametrize("choice", ["selective", "full"])
def test_a_model_learns_the_same_with_activations_made_again(choice):
    inputs = torch.randint(0, 96, (4, 64), generator=torch.Generator().manual_seed(1))
    batch, found = {"input_ids": inputs, "targets": inputs.roll(-1, 1)}, []
    for again in ("none", choice):
        model = random_decoder(vocab_size=96, dim=64, mlp_dim=96, heads=2, kv_heads=1, head_dim=32)
        checkpoint_activations(model, again)
        with CAST:
            loss = CausalLM().terms(model, batch).sums["loss"]
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(map(torch.equal, *found))
