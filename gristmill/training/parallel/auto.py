"""A layout for a training, from the planner's memory model, and why that one.

The rule: of the layouts that fit, the one whose processes talk least. Whole copies exchange gradients once an update;
shards gather weights for every pass; matrices cut over a computer's devices exchange activations in every layer; stages
of a pipeline wait for each other. So they are tried in this order, tensor parallelism only within a computer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from gristmill.core.errors import UserError
from gristmill.planning.activations import Checkpointing
from gristmill.planning.anatomy import anatomy
from gristmill.planning.layout import Layout as PlannedLayout
from gristmill.planning.memory import USABLE, Batch, Memory, memory
from gristmill.training.parallel.layout import Layout

WHY = {
    "replicate": "whole copies talk least: gradients, once an update",
    "shard": "a whole copy does not fit, shares of weights, gradients and optimizer states do",
    "tensor": "shares of whole matrices do not fit, so matrices are cut over the devices of a computer",
    "pipeline": "cut matrices do not fit either, so blocks are dealt to stages",
}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is to be trained, as far as memory hangs on it."""

    config: Any
    rows: int
    """Of an update."""
    context: int
    micro_batch: int = 1
    """Rows that go through a replica at once, at most."""
    optimizer: str = "adamw"
    average: bool = False
    precision: str = "bf16"
    checkpointing: Checkpointing = "none"


@dataclass(frozen=True)
class Proposal:
    """A layout and its reasons."""

    layout: Layout
    memory: Memory
    why: str

    def line(self) -> str:
        """For a person."""
        available = f" of {self.memory.available / 1e9:.1f}" if self.memory.available else ""
        return (f"parallel: {self.layout.describe()}, {self.memory.total / 1e9:.2f}{available} GB on the fullest "
                f"process; {self.why}")


def propose(work: Workload, processes: int, *, per_host: int, available: float, device: str = "cuda") -> Proposal:
    """The layout of `processes` that fits with least talk. per_host: processes of one computer; available: bytes for
    each. Raises UserError that names the closest one where none fits."""
    tried: list[Proposal] = []
    for layout, why in layouts(work, processes, per_host):
        found = Proposal(layout, predicted(work, layout, available=available, device=device), why)
        if found.memory.fits:
            return found
        tried.append(found)
    if not tried:
        raise UserError(f"an update of {work.rows} rows cannot be dealt to {processes} processes", where="batch",
                        fix="raise batch, or use fewer processes")
    closest = min(tried, key=lambda one: one.memory.total)
    raise UserError(
        f"no layout of {processes} processes fits: {closest.layout.describe()} would need "
        f"{closest.memory.total / 1e9:.1f} GB of {USABLE * available / 1e9:.1f} that can be used", where="parallel",
        fix="use more processes, a smaller micro_batch, activation checkpointing, or another optimizer")


def layouts(work: Workload, processes: int, per_host: int) -> Iterator[tuple[Layout, str]]:
    """Every layout worth a try, least talk first, with the reason for its kind."""
    found = anatomy(work.config)

    def fits(layout: Layout) -> bool:
        return (layout.processes == processes and layout.replicate * layout.shard <= work.rows
                and planned(layout).problem(found) is None)

    sizes = [2**at for at in range(processes.bit_length()) if processes % 2**at == 0]
    tried = [(Layout(replicate=processes), "replicate")]
    for tensor in [size for size in sizes if size <= per_host]:
        for pipeline in [size for size in sizes if tensor * size <= processes and size <= 16]:
            rest = processes // (tensor * pipeline)
            kind = "pipeline" if pipeline > 1 else "tensor" if tensor > 1 else "shard"
            if per_host < rest and rest % per_host == 0 and tensor * pipeline == 1:
                tried.append((Layout(replicate=rest // per_host, shard=per_host), kind))
            tried.append((Layout(pipeline=pipeline, shard=rest, tensor=tensor), kind))
    order = list(WHY)
    for layout, kind in sorted(tried, key=lambda one: (order.index(one[1]), one[0].pipeline, one[0].tensor)):
        if fits(layout):
            yield layout, WHY[kind]


def planned(layout: Layout) -> PlannedLayout:
    """As the planner has it."""
    return PlannedLayout(replicate=layout.replicate, shard=layout.shard, tensor=layout.tensor,
                         pipeline=layout.pipeline, context=layout.context, expert=layout.expert)


def predicted(work: Workload, layout: Layout, *, available: float | None = None, device: str = "cuda") -> Memory:
    """Memory of the fullest process."""
    share = -(-work.rows // (layout.replicate * layout.shard))
    batch = Batch(context=work.context, rows=work.rows, micro_batch=min(work.micro_batch, share))
    return memory(work.config, batch, layout=planned(layout), optimizer=work.optimizer, precision=work.precision,
                  checkpointing=work.checkpointing, average=work.average, device=device, available=available)


def memory_of_a_process(device: torch.device, per_host: int) -> float:
    """Bytes that this process may take."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / per_host
