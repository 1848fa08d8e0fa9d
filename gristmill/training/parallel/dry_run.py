"""A layout of any number of processes built in this one, without weights: what each process would hold.

The model's shapes (meta device) go through the very function that spreads a training, `apply.parallelise`, in a process
group that talks to nobody (torch's `fake` backend). What is left of every parameter is what a real process would hold,
uneven cuts and replicated norms included; activations come from the planner's model.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from gristmill.core.errors import InternalError, UserError
from gristmill.models.loading import skeleton
from gristmill.objectives.base import attach
from gristmill.planning.memory import OPTIMIZERS, Memory
from gristmill.training.device import Compute
from gristmill.training.optimizers.build import parameter_part
from gristmill.training.parallel.apply import Settings, parallelise
from gristmill.training.parallel.auto import Workload, check, predicted
from gristmill.training.parallel.gradients import local
from gristmill.training.parallel.layout import Layout
from gristmill.training.parallel.world import World


@dataclass(frozen=True)
class Held:
    """What one process of many would hold."""

    rank: int
    parameters: int
    """Numbers of this process's shares."""
    memory: Memory
    """Weights, gradients and optimizer states as built, the rest as predicted."""
    seconds: float
    """That building took."""


def dry_run(work: Workload, layout: Layout, ranks: tuple[int, ...] | None = None, *, available: float | None = None,
            device: str = "cuda") -> list[Held]:
    """Build `ranks` (default the first process of the first and of the last stage) of a layout, one after another.

    Raises UserError where a training would, whose model, objective or batch cannot be cut so; InternalError inside of
    a process group.
    """
    if dist.is_initialized():
        raise InternalError("a dry run makes a process group of its own, and there is one already")
    check(work, layout)
    if ranks is None:
        stage = layout.processes // layout.pipeline
        ranks = tuple(sorted({0, (layout.pipeline - 1) * stage}))
    return [_build(work, layout, rank, available, device) for rank in ranks]


def _build(work: Workload, layout: Layout, rank: int, available: float | None, device: str) -> Held:
    if not 0 <= rank < layout.processes:
        raise UserError(f"there is no process {rank} among {layout.processes}", where="rank")
    began = time.monotonic()
    model: Any = skeleton(work.config)
    if layout.processes > 1:
        with _nobody(rank, layout.processes):
            world = World.join(dataclasses.replace(layout, offload=False), torch.device("cpu"))
            world.imagined = True
            # Whole copies (DDP) leave every parameter as it is, and would look at weights that are not there.
            if layout.processes != layout.replicate:
                with torch.device("meta"):
                    attached = attach(work.objective, model)
                parallelise(model, work.objective, attached, world, Compute(torch.device("cpu"), torch.float32, 1),
                            Settings())
            shares = _shares(model)
    else:
        shares = _shares(model)
    plan = predicted(work, layout, available=available, device=device)
    matrix, other = OPTIMIZERS[work.optimizer]
    inside = sum(count for name, count, ndim in shares if parameter_part(name, ndim) == "matrices")
    everything = sum(count for _, count, _ in shares)
    averaged = 4.0 * everything if work.average else 0.0
    built = dataclasses.replace(plan, weights=4.0 * everything, gradients=4.0 * everything,
                                optimizer=matrix * inside + other * (everything - inside) + averaged)
    return Held(rank, everything, built, time.monotonic() - began)


def _shares(model: torch.nn.Module) -> list[tuple[str, int, int]]:
    """(name, numbers on this process, dimensions) of every parameter."""
    return [(name, local(parameter).numel(), parameter.ndim) for name, parameter in model.named_parameters()]


@contextmanager
def _nobody(rank: int, size: int) -> Iterator[None]:
    """A process group of `size` in which nothing is ever sent."""
    # The only way to it; in torch 2.11 and 2.13 alike, and nothing but this function needs it.
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()
