"""Adafactor: second moments of matrices from their row and column means (Shazeer and Stern 2018, arXiv:1804.04235).

The step size is the schedule's, times the root mean square of the weights (section 8); the paper's own 1/sqrt(t) is
off, and so is its first moment. torch's Adafactor puts the first epsilon elsewhere and raises it to 1.2e-7, which is
larger than the squared gradients of a language model, and bounds the rate by 1/sqrt(t): hence one of our own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from gristmill.training.optimizers.sharded import times, whole_sum
from gristmill.training.optimizers.unless import unless

SQUARE = 1e-30
"""Added to squared gradients (epsilon 1): a row without gradient does not move, and nothing is divided by zero."""
SMALLEST = 1e-3
"""Root mean square below which weights count as this large (epsilon 2), so that what starts at zero can move."""


class Adafactor(torch.optim.Optimizer):
    """lr: step size as a share of the weights' root mean square. clip: largest root mean square of an update before
    lr (section 6). decay: 1 - t**decay is the average's weight at step t (section 7.2). Weight decay is decoupled.

    Stacked matrices, (experts, rows, columns), have means, clipping and scale of their own each. Of matrices that are
    cut over processes, means are of the whole ones: a few numbers, a row and a column are summed over the processes.
    """

    found_inf: Tensor | None = None
    """0-d; where it is not zero a step changes nothing (torch's name, as its fused optimizers have it)."""

    def __init__(self, params: Iterable, lr: float = 1e-2, clip: float = 1.0, decay: float = -0.8,
                 weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "clip": clip, "decay": decay, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[no-untyped-def, override]
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state |= self._first(gradient)
                with unless(self.found_inf, parameter, *state.values()):
                    state["step"] += 1
                    update = _direction(gradient, state, (state["step"] ** group["decay"]).to(gradient.dtype))
                    update = times(update, 1 / (_size(update) / group["clip"]).clamp_(min=1))
                    update = times(update, group["lr"] * _size(parameter).clamp_(min=SMALLEST))
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(update)

    @staticmethod
    def _first(gradient: Tensor) -> dict[str, Tensor]:
        step = torch.zeros((), device=gradient.device)
        if gradient.ndim < 2:
            return {"step": step, "variance": torch.zeros_like(gradient)}
        return {"step": step, "row": torch.zeros_like(_mean(gradient, -1)),
                "column": torch.zeros_like(_mean(gradient, -2))}


def _direction(gradient: Tensor, state: dict[str, Tensor], new: Tensor) -> Tensor:
    """The gradient over the root of its second moment; `new`: weight of this step in the averages (a 0-d tensor)."""
    square = gradient.square().add_(SQUARE)
    if gradient.ndim < 2:
        state["variance"].lerp_(square, new)
        return state["variance"].rsqrt().mul_(gradient)
    state["row"].lerp_(_mean(square, -1), new)
    state["column"].lerp_(_mean(square, -2), new)
    rows = (state["row"] / state["row"].mean(-1, keepdim=True)).rsqrt_()
    return times(times(gradient, rows.unsqueeze(-1)), state["column"].rsqrt().unsqueeze(-2))


def _mean(values: Tensor, *dims: int, keepdim: bool = False) -> Tensor:
    return whole_sum(values, dims, keepdim) / math.prod(values.shape[dim] for dim in dims)


def _size(values: Tensor) -> Tensor:
    """Root mean square of each matrix, or of the vector."""
    return _mean(values.square(), *range(-min(values.ndim, 2), 0), keepdim=True).sqrt_()
