"""How near two computations of the same model must come to each other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch

CLOSE = 1e-5
Gradients = Mapping[str, torch.Tensor]


def difference(a: torch.Tensor, b: torch.Tensor, scale: float | None = None) -> float:
    """The largest difference, relative to `scale` or to the largest magnitude of `b`."""
    if not a.numel():
        return 0.0
    return float((a - b).detach().abs().max() / (scale or b.detach().abs().max().clamp(min=1e-6)))


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = CLOSE) -> bool:
    """Of one shape, and equal relative to the largest magnitude."""
    return a.shape == b.shape and difference(a, b) <= tolerance


def gradients_of(model: Any) -> dict[str, torch.Tensor]:
    """What the last backward pass left."""
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def furthest(found: Gradients, wanted: Gradients) -> tuple[float, str]:
    """The largest difference of a gradient, relative to the largest gradient of all, and whose it is."""
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    return max((difference(found[name], wanted[name], largest), name) for name in wanted)


def check_gradients(found: Gradients, public: Any, loss: Callable[[Any], torch.Tensor]) -> None:
    """`found` are as near to the gradients of `public`, after its backward pass, as these are to the truth.

    A few random models magnify rounding (a norm over few channels, a ReLU at its kink): there the public model's own
    gradients move by nearly as much between single and double precision. `loss` computes its loss again.
    """
    wanted = gradients_of(public)
    worst, name = furthest(found, wanted)
    if worst > CLOSE:
        twin = copy.deepcopy(public).double()
        twin.zero_grad()
        loss(twin).backward()
        rounding = furthest(gradients_of(twin), wanted)[0]
        assert worst <= min(8 * rounding, 1e-4), (name, worst, rounding)
