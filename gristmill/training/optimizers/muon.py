"""Muon: momentum whose update is orthogonalised (Jordan et al. 2024, kellerjordan.github.io/posts/muon)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration: singular values are driven into about [0.7, 1.2], quickly."""


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Approximate U Vᵀ of each matrix, by Newton-Schulz in bf16.

    matrices (count, rows, columns) -> the same shape. Products only, no decomposition; equal shapes are one call.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(-2, -1)
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).bfloat16()
    for _ in range(steps):
        gram = x @ x.transpose(-2, -1)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(-2, -1) if tall else x


class Muon(torch.optim.Optimizer):
    """For the matrices inside the blocks; embeddings, head and vectors belong to AdamW.

    lr: step size; an update has root-mean-square lr * 0.2 whatever the shape (Moonlight, arXiv:2502.16982, eq. 4),
    so that AdamW's learning rates and weight decay carry over. Nesterov momentum, decoupled weight decay.
    """

    def __init__(self, params: Iterable, lr: float = 1e-2, momentum: float = 0.95, weight_decay: float = 0.0,
                 steps: int = 5) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": steps})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[no-untyped-def, override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                updates = []
                for parameter in parameters:
                    state = self.state[parameter]
                    if not state:
                        state["momentum"] = torch.zeros_like(parameter)
                    gradient = parameter.grad
                    assert gradient is not None
                    state["momentum"].lerp_(gradient, 1 - group["momentum"])
                    updates.append(gradient.lerp(state["momentum"], group["momentum"]))
                # Stacked experts, (experts, rows, columns), are that many matrices, each with its own direction.
                matrices = torch.stack(updates).reshape(-1, *shape[-2:])
                directions = orthogonalise(matrices, group["steps"]).view(-1, *shape)
                size = 0.2 * max(shape[-2:]) ** 0.5
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(direction.to(parameter.dtype), alpha=-group["lr"] * size)
