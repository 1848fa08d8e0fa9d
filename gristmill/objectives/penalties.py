"""Penalties on the size of the weights, as terms of the loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def weight_penalty(parameters: Iterable[Tensor], l1: float = 0.0, l2: float = 0.0) -> Tensor:
    """l1 Σ|w| + l2 / 2 Σw² over all entries of all parameters: scalar, fp32, differentiable.

    Its gradient, l1 sign(w) + l2 w, goes through the optimizer like that of the loss: an adaptive optimizer divides it
    by the gradient's usual size, and an orthogonalising one keeps its direction alone. Weight decay is decoupled: it
    takes learning rate x decay off each weight whatever the gradient is (Loshchilov and Hutter 2019,
    arXiv:1711.05101). Only for plain SGD are the two the same.
    """
    terms = [weight * size for parameter in parameters for weight, size in (
        (l1, parameter.float().abs().sum()), (l2 / 2, parameter.float().square().sum())) if weight]
    return torch.stack(terms).sum() if terms else torch.zeros(())


@torch.no_grad()
def penalise(parameters: Iterable[Tensor], l1: float = 0.0, l2: float = 0.0, factor: Tensor | float = 1.0) -> Tensor:
    """Add the gradient of `weight_penalty`, times `factor`, to `grad`, and return its value; no graph, so that weights
    may lie on many processes, and experts on another mesh than the rest."""
    by_mesh: dict[Any, list[Tensor]] = {}
    for parameter in parameters:
        gradient = factor * (l1 * parameter.sign() + l2 * parameter)
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        by_mesh.setdefault(getattr(parameter, "device_mesh", None), []).append(parameter)
    values = [weight_penalty(members, l1, l2) for members in by_mesh.values()]
    whole = [value.full_tensor() if hasattr(value, "full_tensor") else value for value in values]
    return torch.stack(whole).sum() if whole else torch.zeros(())
