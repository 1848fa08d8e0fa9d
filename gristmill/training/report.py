"""The numbers of an update, on their way from the device and from other processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gristmill.training.parallel.world import World

Count = Tensor | int
"""Items over all processes: a 0-d tensor where several count, so that nobody waits for it."""


IDLE = "pipeline_idle"
"""Name of the share of an update that a process waited for other stages."""


def over(value: Any, count: Count) -> Any:
    """value / count, or nothing where nothing was counted; neither side waits for a device."""
    return value / (max(count, 1) if isinstance(count, int) else count.clamp(min=1))


@dataclass
class Report:
    """What one update found. Reading it waits for the device; until then it is only scheduled."""

    step: int
    values: dict[str, Tensor]
    """Terms, each over its count: this process's part until `share`."""
    measured: dict[str, Tensor]
    norm: Tensor
    counted: Count
    """Items of the term `loss`."""
    tokens: Count
    """Targets."""
    rows: int
    """Tokens that were read, by all processes."""
    context: int
    """Tokens of one row of them."""
    known: Mapping[str, float]
    began: float
    waited: float
    later: Mapping[str, float] = field(default_factory=dict)
    """Numbers that stand at the end of the record."""
    same: Mapping[str, Tensor] = field(default_factory=dict)
    """Numbers that every process has, 0-d; one that is not finite is left out of the record."""
    telemetry: Mapping[str, float] = field(default_factory=dict)
    """How it went on this process (`Passes.telemetry`), after `read` on all of them."""
    stop: bool = False
    """Whether some process was asked to stop."""
    save: bool = False
    """Whether the first process finds that a checkpoint is due."""
    _packed: Tensor | None = field(default=None, repr=False)

    def share(self, world: World, *, stop: bool, save: bool) -> None:
        """Add up the parts of all processes, in one message, and let them agree on what comes next."""
        self.stop, self.save = stop, save
        if world.size == 1:
            return
        flags = torch.tensor([stop, save and world.main], dtype=torch.float32, device=world.device)
        # Processes along `tensor` find the same values, but may be asked to stop at different moments.
        parts = [torch.as_tensor(v, dtype=torch.float32, device=world.device).reshape(1) / world.layout.tensor
                 for v in (*self.values.values(), *self.measured.values())]
        stages, members = world.layout.pipeline, world.size // world.layout.pipeline
        idle = torch.zeros(stages if IDLE in self.telemetry else 0, device=world.device)
        if len(idle):
            idle[world.place("pipeline")] = self.telemetry[IDLE] / members
        self._packed = world.sum(torch.cat([flags, *parts, idle]), "all")

    def read(self) -> dict[str, float]:
        """Everything as numbers, in the order of a trace; sets `stop` and `save` to what was agreed."""
        names = [*self.values, *self.measured]
        if self._packed is None:
            found = [float(v) for v in (*self.values.values(), *self.measured.values())]
        else:
            stop, save, *found = self._packed.tolist()
            self.stop, self.save = stop > 0, save > 0
            found, idle = found[:len(names)], found[len(names):]
            if idle:
                waited = {IDLE: sum(idle) / len(idle), **{f"{IDLE}_{place}": share for place, share in enumerate(idle)}}
                # Nothing is known of the first update on a GPU.
                self.telemetry = {**self.telemetry, **waited} if all(map(math.isfinite, idle)) else {
                    name: value for name, value in self.telemetry.items() if name != IDLE}
        numbers = dict(zip(names, found, strict=True))
        same = {n: number for n, value in self.same.items() if math.isfinite(number := value.item())}
        return {**{n: numbers[n] for n in self.values}, **self.known, "grad_norm": float(self.norm),
                **{n: numbers[n] for n in self.measured}, **same, **self.later}
