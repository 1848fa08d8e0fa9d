"""Layouts that fit, in the order of their speed, and the fewest devices that hold a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gristmill.core.errors import UserError
from gristmill.planning.activations import CHECKPOINTING, Checkpointing
from gristmill.planning.anatomy import anatomy
from gristmill.planning.flops import flops
from gristmill.planning.layout import Layout, candidates
from gristmill.planning.memory import Memory, memory
from gristmill.planning.speed import LayoutCost, layout_cost
from gristmill.planning.tables import Device, Tables

if TYPE_CHECKING:
    from gristmill.planning.train import Request

MOST_DEVICES = 2**15
"""Where the search for a number of devices ends."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to run it."""

    layout: Layout
    checkpointing: Checkpointing
    memory: Memory
    cost: LayoutCost


def options(request: Request, device: Device, count: int, tables: Tables, grow: bool = True) -> list[Option]:
    """Ways to run it on so many devices: those that fit first, the fastest first; if none fits, the smallest first.

    grow: whether an update may grow where there are more devices than a usual one has rows.
    """
    layouts = [request.layout] if request.layout else list(candidates(count, device.per_host, anatomy(request.config)))
    fair = [layout for layout in layouts if layout.replicas * request.micro_batch <= request.rows]
    if not fair and grow and request.batch_tokens is None:
        fair = layouts
    found = [option for layout in fair for option in _options(request, device, layout, tables)]
    if not found:
        raise UserError(f"{count} devices cannot share an update of {request.batch_tokens or 0:g} tokens",
                        where="--batch-tokens", fix="use fewer devices, or more tokens an update")
    fitting = [option for option in found if option.memory.fits]
    if fitting:
        return sorted(fitting, key=lambda o: (o.cost.factor, o.memory.total))
    return sorted(found, key=lambda o: o.memory.total)


def _options(request: Request, device: Device, layout: Layout, tables: Tables) -> list[Option]:
    batch = request.batch(layout)
    counted = flops(request.config, request.row, predicted=request.predicted)
    rate = device.peak(request.precision) * (request.given.mfu or device.mfu or tables.mfu()).expected
    low = 2 if request.precision == "bf16" else 4
    modes = [request.checkpointing] if request.checkpointing else CHECKPOINTING
    found = []
    for mode in modes:
        needed = memory(request.config, batch, layout=layout, optimizer=request.optimizer, precision=request.precision,
                        checkpointing=mode, average=request.average, device="cpu" if device.kind == "cpu" else "cuda",
                        available=device.memory_bytes)
        cost = layout_cost(request.config, counted, batch, layout, device, mode, rate, low)
        found.append(Option(layout=layout, checkpointing=mode, memory=needed, cost=cost))
    return found


def cheapest_count(request: Request, device: Device, tables: Tables) -> int | None:
    """Fewest devices (a power of two) on which it fits, and ends in time where a time is set; None: no number does."""
    from gristmill.planning.train import assumed_mfu

    counted = flops(request.config, request.row, predicted=request.predicted)
    peak = device.peak(request.precision)
    count = 1
    while count <= MOST_DEVICES:
        try:
            best = options(request, device, count, tables, grow=False)[0]
        except UserError:
            return None  # the batch cannot be shared any further
        if best.memory.fits:
            if request.days is None:
                return count
            rate = assumed_mfu(device, request.given, tables, peak)[0].expected * peak
            seconds = counted.train * request.tokens * best.cost.factor / (count * rate)
            if seconds <= request.days * 86_400:
                return count
        count *= 2
    return None
