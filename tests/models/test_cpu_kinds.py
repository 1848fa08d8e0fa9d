"""Each kind of code for products, whichever of them this processor takes by itself: that for AMX also without AMX."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from gristmill.core import native
from gristmill.models.layers import cpu_attention, cpu_linear
from gristmill.models.layers.masks import CAUSAL
from gristmill.objectives import cpu_head
from tests.models import test_cpu_attention, test_cpu_linear
from tests.models.test_cpu_linear import distance, exact_gated, numbers, rounded

pytestmark = pytest.mark.skipif(not cpu_linear.ready(), reason="this machine cannot run it")


@pytest.fixture(params=["avx512", "soft tiles"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What the rest of the process has is put back."""
    before = native.library(cpu_linear.SOURCE)
    monkeypatch.setenv(native.SWITCH, request.param)
    native.library.cache_clear()
    assert native.library(cpu_linear.SOURCE)._name != before._name or native.kind() == "avx512"  # type: ignore[union-attr]
    yield request.param
    monkeypatch.undo()
    native.library.cache_clear()


@pytest.mark.parametrize(("rows", "inner", "outer"), [(131, 32, 96), (700, 1120, 64), (1200, 96, 352)])
def test_linear_layers(rows: int, inner: int, outer: int) -> None:
    with test_cpu_linear.CAST:
        test_cpu_linear.check_linear(numbers(rows, inner).requires_grad_(), [
            numbers(outer, inner, seed=1).requires_grad_(), numbers(32, inner, seed=2).requires_grad_()],
            numbers(rows, outer + 32, seed=3))


def test_layers_with_a_gate() -> None:
    shapes = [(600, 64, 1), (160, 64, 8), (160, 64, 8), (64, 160, 12)]
    given = [numbers(*shape, seed=at) / by for at, (*shape, by) in enumerate(shapes)]
    exact = [rounded(tensor).requires_grad_() for tensor in given]
    expected = exact_gated(*exact)
    ours = [tensor.requires_grad_() for tensor in given]
    with test_cpu_linear.CAST:
        found = cpu_linear.gated(*ours)
    slope = numbers(600, 64, seed=4).bfloat16()
    assert distance(found, expected.detach()) < 0.006
    for one, other in zip(torch.autograd.grad(found, ours, slope), torch.autograd.grad(expected, exact, slope.double()),
                          strict=True):
        assert distance(one, other) < 0.006


def test_attention() -> None:
    assert cpu_attention.ready()
    test_cpu_attention.check(test_cpu_attention.tensors(4, 2, 150, 96), (torch.arange(150) // 40).expand(2, -1), CAUSAL)


def test_heads() -> None:
    hidden, head, targets = numbers(300, 64).bfloat16(), numbers(160, 64, seed=1) / 8, torch.arange(300) % 160
    losses, _, of_hidden, of_head = cpu_head.head_loss(hidden, head, targets, 128, of_hidden=True, of_head=True)
    states, matrix = hidden.double().requires_grad_(), rounded(head).requires_grad_()
    exact = torch.nn.functional.cross_entropy(states @ matrix.t(), targets, reduction="none")
    assert distance(losses, exact.detach()) < 0.003
    for one, other in zip((of_hidden, of_head), torch.autograd.grad(exact.sum(), [states, matrix]), strict=True):
        assert one is not None
        assert distance(one, other) < 0.006
