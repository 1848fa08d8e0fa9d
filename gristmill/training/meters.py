"""What every step of a training is measured by: speed, utilisation, waiting, memory, power.

All of it depends on the clock and goes to `telemetry/`; none of it belongs to what the training means. Nothing here
waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gristmill.training.device import Compute
from gristmill.training.hardware import Hardware, Peak, peak_of, power_meter
from gristmill.training.power import PowerMeter
from gristmill.training.trace import resident_mb

MB = 1e6


@dataclass
class StepMeter:
    """Turns the times of updates into what they are worth, and reads memory and power.

    processes: how many work on an update; hosts: on how many computers.
    """

    compute: Compute
    flops_per_token: Callable[[int], float] | None
    """Row length -> FLOPs to train on a token (`config.flops_per_token`)."""
    hardware: Hardware
    peak: Peak | None
    power: PowerMeter
    processes: int = 1
    hosts: int = 1

    @classmethod
    def of(cls, compute: Compute, config: Any, processes: int = 1, hosts: int = 1) -> StepMeter:
        """The meter of this process's device. config: of the model."""
        hardware = Hardware.of(compute)
        return cls(compute, getattr(config, "flops_per_token", None), hardware, peak_of(hardware, compute),
                   power_meter(hardware, compute), processes, hosts)

    def step(self, seconds: float, waited: float, tokens: int, context: int) -> dict[str, float]:
        """An update of so many tokens (of all processes, padding included) in rows of `context` took `seconds`, of
        which it `waited` for its batches.

        seconds; tokens_per_second; data_wait: share of the time in which it waited; mfu: FLOPs of the model over the
        peak of all devices, left out where that is not known; memory_mb: resident; cuda_peak_mb: the most that tensors
        held; watts and joules of all devices, or watts_estimated and joules_estimated.
        """
        seconds = max(seconds, 1e-9)
        values = {"seconds": seconds, "tokens_per_second": tokens / seconds, "data_wait": waited / seconds}
        if self.peak is not None and self.flops_per_token is not None:
            achieved = tokens * self.flops_per_token(context) / seconds
            values["mfu"] = achieved / (self.peak.flops * self.processes)
        values["memory_mb"] = resident_mb()
        if self.compute.device.type == "cuda":
            values["cuda_peak_mb"] = torch.cuda.max_memory_allocated(self.compute.device) / MB
        watts = self.power.watts()
        if watts is not None:
            mark = "_estimated" if self.power.kind == "estimated" else ""
            values[f"watts{mark}"] = watts * self.counted
            values[f"joules{mark}"] = watts * self.counted * seconds
        return values

    @property
    def counted(self) -> int:
        """How many times the power that this process reads is drawn: RAPL counts a whole computer."""
        return self.hosts if self.power.kind == "rapl" else self.processes

    def described(self) -> dict[str, Any]:
        """What the numbers rest on, for telemetry/meters.json."""
        peak = None if self.peak is None else {
            "flops": self.peak.flops, "kind": self.peak.kind, "source": self.peak.source}
        return {"hardware": self.hardware.name, "processes": self.processes, "hosts": self.hosts, "peak": peak,
                "power": self.power.kind, "power_source": self.power.source}

