"""Joined projections, and when they stay apart."""

import pytest
import torch
from torch import nn

from gristmill.models.layers.linear import joined_linear


class Doubled(nn.Linear):
    """A layer that is more than its weight."""

    def forward(self, x):
        return 2 * super().forward(x)


class Wrapped(torch.Tensor):
    """A weight that is not a plain tensor."""


@pytest.mark.parametrize("bias", [True, False])
def test_joined_and_apart_are_the_same_product(bias):
    torch.manual_seed(0)
    layers = [nn.Linear(6, size, bias=bias) for size in (4, 2, 3)]
    x = torch.randn(2, 5, 6, requires_grad=True)
    joined = joined_linear(x, *layers)
    assert [part.shape[-1] for part in joined] == [4, 2, 3]
    for part, layer in zip(joined, layers, strict=True):
        torch.testing.assert_close(part, layer(x), atol=1e-6, rtol=0)


def test_what_was_put_around_a_layer_happens():
    torch.manual_seed(0)
    x, plain, other = torch.randn(3, 6), nn.Linear(6, 4), Doubled(6, 4)
    torch.testing.assert_close(joined_linear(x, plain, other)[1], other(x))

    seen = []
    hooked = nn.Linear(6, 4)
    handle = hooked.register_forward_hook(lambda module, inputs, output: seen.append(1) or output + 1)
    torch.testing.assert_close(joined_linear(x, plain, hooked)[1], hooked(x))
    assert len(seen) == 2
    handle.remove()
    hooked.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3,))
    torch.testing.assert_close(joined_linear(x, plain, hooked)[1], hooked(x))

    strange = nn.Linear(6, 4, bias=False)
    strange.weight = nn.Parameter(strange.weight.detach().as_subclass(Wrapped))
    calls = []
    strange.forward = lambda x: calls.append(1) or x[..., :4]
    joined_linear(x, strange, strange)
    assert len(calls) == 2
