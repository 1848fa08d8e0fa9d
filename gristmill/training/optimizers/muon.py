"""Muon: momentum whose update is orthogonalised (Jordan et al. 2024, kellerjordan.github.io/posts/muon)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gristmill.training.device import bf16_pays
from gristmill.training.optimizers.sharded import kind, local, on_matrices
from gristmill.training.optimizers.unless import unless

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration: singular values are driven into about [0.7, 1.2], quickly."""
BATCH = {"cpu": 2**19, "cuda": 2**26}
"""Numbers in matrices that are orthogonalised at a time: on a CPU what stays in its cache between products, on a GPU
enough to fill it, so that the workspace does not grow with the depth."""


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Approximate U Vᵀ of each matrix, by Newton-Schulz in bf16; in fp32 where products in bf16 are emulated.

    matrices (count, rows, columns) -> the same shape. Products only, no decomposition; equal shapes are one call.
    """
    a, b, c = NEWTON_SCHULZ
    dtype = torch.bfloat16 if bf16_pays(matrices.device) else torch.float32
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(-2, -1)
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).to(dtype)
    for _ in range(steps):
        gram = x @ x.transpose(-2, -1)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(-2, -1) if tall else x


class Muon(torch.optim.Optimizer):
    """For the matrices inside the blocks; embeddings, head and vectors belong to AdamW.

    lr: step size; an update has root-mean-square lr * 0.2 whatever the shape (Moonlight, arXiv:2502.16982, eq. 4),
    so that AdamW's learning rates and weight decay carry over. Nesterov momentum, decoupled weight decay.
    """

    found_inf: Tensor | None = None
    """0-d; where it is not zero a step changes nothing (torch's name, as its fused optimizers have it)."""

    def __init__(self, params: Iterable, lr: float = 1e-2, momentum: float = 0.95, weight_decay: float = 0.0,
                 steps: int = 5) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": steps})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[no-untyped-def, override]
        for group in self.param_groups:
            alike: dict[tuple[Hashable, ...], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape, kind(parameter)].append(parameter)
            for parameters in alike.values():
                for batch in _batches(parameters):
                    for parameter in batch:
                        if not self.state[parameter]:
                            self.state[parameter]["momentum"] = torch.zeros_like(parameter)
                    with unless(self.found_inf, *batch, *(self.state[parameter]["momentum"] for parameter in batch)):
                        self._move(batch, group)

    def _move(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> None:
        """One step of parameters of the same shape and kind."""
        shape, updates = parameters[0].shape, []
        for parameter in parameters:
            assert parameter.grad is not None
            momentum, gradient = local(self.state[parameter]["momentum"]), local(parameter.grad)
            momentum.lerp_(gradient, 1 - group["momentum"])
            updates.append(gradient.lerp(momentum, group["momentum"]))
        # Stacked experts, (experts, rows, columns), are that many matrices, each with its own direction.
        directions = on_matrices(lambda whole: orthogonalise(whole, group["steps"]), updates, parameters[0])
        size = 0.2 * max(shape[-2:]) ** 0.5
        for parameter, direction in zip(map(local, parameters), directions, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(direction.to(parameter.dtype), alpha=-group["lr"] * size)


def _batches(parameters: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """Equal shares of about BATCH numbers, of two matrices or more: a single one would take another product, and its
    bits would depend on how many matrices there are."""
    each = max(2, BATCH.get(parameters[0].device.type, 2**26) // parameters[0].numel())
    count = max(1, len(parameters) // each)
    edges = [len(parameters) * i // count for i in range(count + 1)]
    return (parameters[start:stop] for start, stop in pairwise(edges))
