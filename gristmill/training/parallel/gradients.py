"""The norm of a gradient whose parts lie on many processes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial

from gristmill.training.parallel.world import World

HELD_BY_STAGES = "held_by_stages"
"""Attribute of a parameter that several stages of a pipeline hold (a tied head): by how many."""


def total_norm(parameters: Iterable[nn.Parameter], world: World) -> Tensor:
    """The 2-norm of all gradients of all processes, each weight counted once; a scalar, the same everywhere.

    A gradient may be a plain tensor, which every process of a pipeline's stage holds, or a DTensor on any mesh within
    the stage. All processes call it together, each with what it holds.
    """
    by_copies: dict[int, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            copies = _copies(parameter.grad, world) * getattr(parameter, HELD_BY_STAGES, 1)
            by_copies.setdefault(copies, []).append(local(parameter.grad))
    exact = torch.float64 if world.device.type == "cpu" else torch.float32
    squares = torch.zeros((), dtype=exact, device=world.device)
    for copies, gradients in by_copies.items():
        squares += sum_of_squares(gradients).to(world.device) / copies
    if world.groups is not None:
        dist.all_reduce(squares)
    return squares.sqrt().float()


def sum_of_squares(gradients: Sequence[Tensor]) -> Tensor:
    """Of all numbers of all gradients; on a CPU the same to nearly all bits of fp32 wherever rows are shared out."""
    if all(g.device.type == "cpu" for g in gradients):
        # Rows first: torch sums the squares of a whole tensor on one core.
        wide = [torch.promote_types(g.dtype, torch.float32) for g in gradients]
        rows = [torch.linalg.vector_norm(g, dim=-1, dtype=d) for g, d in zip(gradients, wide, strict=True)]
        return torch.cat([row.reshape(-1).double() for row in rows]).square().sum()
    return nn.utils.get_total_norm(gradients).float().square()


@torch.no_grad()
def scale(parameters: Iterable[nn.Parameter], factor: Tensor) -> None:
    """Multiply all gradients by a 0-d tensor, without waiting for it (`clip_grads_with_norm_` mixes meshes up)."""
    if factor.device.type == "cpu" and factor == 1:
        return  # nothing is waited for here
    gradients = [local(p.grad) for p in parameters if p.grad is not None]
    by_place: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for gradient in gradients:
        by_place.setdefault((gradient.device, gradient.dtype), []).append(gradient)
    for (device, dtype), members in by_place.items():
        torch._foreach_mul_(members, factor.to(device, dtype))


def clip(parameters: Iterable[nn.Parameter], largest: float, norm: Tensor) -> None:
    """Scale all gradients so that their norm is at most `largest`."""
    scale(parameters, (largest / (norm + 1e-6)).clamp(max=1.0))


def local(tensor: Tensor) -> Tensor:
    """What of a tensor lies on this process."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _copies(gradient: Tensor, world: World) -> int:
    """How many processes of the stage hold the same part of a gradient."""
    stage = world.size // world.layout.pipeline
    if not isinstance(gradient, DTensor):
        return stage
    mesh, parts = gradient.device_mesh, []
    for at, placement in enumerate(gradient.placements):
        if isinstance(placement, Partial):
            raise RuntimeError(f"a gradient is {gradient.placements}: sums are to be finished before its norm is taken")
        if not placement.is_replicate():
            parts.append(mesh.size(at))
    return stage // math.prod(parts)
