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
class Numbers:
    """Numbers of a device on their way to this process.

    To ask a GPU for one (`item`) is to wait until it has done everything that it was given, the next update too. So
    they are sent behind the work that makes them, and reading waits for that alone.
    """

    here: dict[str, list[float]]
    """Those that no device has."""
    lengths: dict[str, int]
    """How many of each the device has, in order."""
    host: Tensor
    there: torch.cuda.Event | None

    @classmethod
    def sent(cls, values: Mapping[str, Any]) -> Numbers:
        """values: numbers, or tensors of one device, 0-d or lists."""
        parts = {name: value.detach().reshape(-1).double() for name, value in values.items()
                 if isinstance(value, Tensor)}
        here = {name: [float(value)] for name, value in values.items() if name not in parts}
        host, there = torch.cat([*parts.values()]), None
        if host.device.type == "cuda":
            sent, host = host, torch.empty(host.shape, dtype=host.dtype, pin_memory=True)
            host.copy_(sent, non_blocking=True)
            there = torch.cuda.Event()
            there.record(torch.cuda.current_stream(sent.device))
        return cls(here, {name: len(part) for name, part in parts.items()}, host, there)

    def read(self) -> dict[str, list[float]]:
        """By name; waits until they are here."""
        if self.there is not None:
            self.there.synchronize()
        found = iter(self.host.tolist())
        return self.here | {name: [next(found) for _ in range(length)] for name, length in self.lengths.items()}


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
    _sent: Numbers | None = field(default=None, repr=False)

    def share(self, world: World, *, stop: bool, save: bool) -> None:
        """Add up the parts of all processes, in one message, and let them agree on what comes next."""
        self.stop, self.save = stop, save
        if world.size > 1:
            self._pack(world, stop=stop, save=save)
        self._sent = self._numbers()

    def _pack(self, world: World, *, stop: bool, save: bool) -> None:
        # Filled there: numbers that are copied to a GPU wait for it.
        flags = torch.stack([torch.full((), float(flag), device=world.device) for flag in (stop, save and world.main)])
        # Processes along `tensor` find the same values, but may be asked to stop at different moments.
        parts = [torch.as_tensor(v, dtype=torch.float32, device=world.device).reshape(1) / world.layout.tensor
                 for v in (*self.values.values(), *self.measured.values())]
        stages, members = world.layout.pipeline, world.size // world.layout.pipeline
        idle = torch.zeros(stages if IDLE in self.telemetry else 0, device=world.device)
        if len(idle):
            idle[world.place("pipeline")] = self.telemetry[IDLE] / members
        self._packed = world.sum(torch.cat([flags, *parts, idle]), "all")

    def _numbers(self) -> Numbers:
        """All numbers that are still on the device, sent to this process."""
        found: dict[str, Any] = {"norm": self.norm, "counted": self.counted, "tokens": self.tokens}
        found |= {f"same/{name}": value for name, value in self.same.items()}
        if self._packed is None:
            found |= {f"own/{name}": value for name, value in (*self.values.items(), *self.measured.items())}
        else:
            found["packed"] = self._packed
        return Numbers.sent(found)

    def read(self) -> dict[str, float]:
        """Everything as numbers, in the order of a trace; sets `stop` and `save` to what was agreed."""
        names = [*self.values, *self.measured]
        arrived = (self._sent or self._numbers()).read()
        self.counted, self.tokens = int(arrived["counted"][0]), int(arrived["tokens"][0])
        if self._packed is None:
            found = [arrived[f"own/{name}"][0] for name in names]
        else:
            stop, save, *found = arrived["packed"]
            self.stop, self.save = stop > 0, save > 0
            found, idle = found[:len(names)], found[len(names):]
            if idle:
                waited = {IDLE: sum(idle) / len(idle), **{f"{IDLE}_{place}": share for place, share in enumerate(idle)}}
                # Nothing is known of the first update on a GPU.
                self.telemetry = {**self.telemetry, **waited} if all(map(math.isfinite, idle)) else {
                    name: value for name, value in self.telemetry.items() if name != IDLE}
        numbers = dict(zip(names, found, strict=True))
        same = {n: number for n in self.same if math.isfinite(number := arrived[f"same/{n}"][0])}
        return {**{n: numbers[n] for n in self.values}, **self.known, "grad_norm": arrived["norm"][0],
                **{n: numbers[n] for n in self.measured}, **same, **self.later}
