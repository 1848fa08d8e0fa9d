"""What a training computes on: its row of the hardware table, its peak and its power. Unknown stays unknown."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Literal

import torch

from gristmill.core.errors import UserError
from gristmill.planning.tables import Device, Tables, from_files, user_folder
from gristmill.training.device import Compute
from gristmill.training.power import Counter, Estimate, Nvml, PowerMeter, Rapl, Unreadable

PRECISIONS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
SQUARE = 2048
"""Rows and columns of the product whose rate is called the peak of a CPU; fewer where that took too long."""
AFFORDED = 0.6
"""Seconds that measuring a CPU's peak may take, about; it is measured once."""


@dataclass(frozen=True)
class Peak:
    """FLOPs a second that a device could do at most, in this precision."""

    flops: float
    kind: Literal["table", "measured"]
    source: str


@dataclass(frozen=True)
class Hardware:
    """One device of a training."""

    name: str
    """Of its row in the table; else `cpu`, or what its driver calls it."""
    device: Device | None
    """Its row, None where it has none."""

    @classmethod
    def of(cls, compute: Compute) -> Hardware:
        """The device of this process."""
        if compute.device.type != "cuda":
            return cls("cpu", None)
        return cls.called(torch.cuda.get_device_name(compute.device))

    @classmethod
    def called(cls, reported: str) -> Hardware:
        """By what its driver calls it, exactly."""
        found = next((row for row in tables().devices.values() if reported in row.reported), None)
        return cls(reported if found is None else found.name, found)


def tables() -> Tables:
    """The planning tables with the user's own rows; read once."""
    return _tables(str(user_folder()))


@functools.cache
def _tables(folder: str) -> Tables:
    return from_files()


def peak_of(hardware: Hardware, compute: Compute) -> Peak | None:
    """From the table, or measured on a CPU; None for a device that nobody knows."""
    precision = PRECISIONS.get(compute.dtype, str(compute.dtype))
    if compute.device.type == "cpu":
        flops = measured_peak(compute.dtype, compute.threads)
        return None if flops is None else Peak(
            flops, "measured", f"the best of some square {precision} products here, {_threads(compute)}")
    if hardware.device is None:
        return None
    try:
        flops = hardware.device.peak(precision)
    except UserError:
        return None
    return Peak(flops, "table", f"{hardware.device.title}, {precision}: {hardware.device.source}")


@functools.cache
def measured_peak(dtype: torch.dtype, threads: int, afforded: float = AFFORDED) -> float | None:
    """FLOPs a second of the best of some square products on this CPU; None where even small ones take too long."""
    size, best = 256, 0.0
    began = time.monotonic()
    while True:
        a = torch.ones(size, size, dtype=dtype)
        for _ in range(3):
            start = time.monotonic()
            a @ a
            best = max(best, 2 * size**3 / max(time.monotonic() - start, 1e-9))
        next_takes = 3 * 2 * (2 * size)**3 / best
        if size >= SQUARE or time.monotonic() - began + next_takes > afforded:
            return best if size >= 1024 else None
        size *= 2


def power_meter(hardware: Hardware, compute: Compute) -> PowerMeter:
    """What measures the power of this process's device: RAPL for a CPU, NVML for an NVIDIA device, else an estimate."""
    counter: Counter | None = None
    why = ""
    try:
        if compute.device.type == "cuda":
            counter = Nvml(str(getattr(torch.cuda.get_device_properties(compute.device), "uuid", "")))
        else:
            counter = Rapl()
    except Unreadable as error:
        why = str(error)
    return PowerMeter(counter, estimated_watts(hardware, compute), why)


def estimated_watts(hardware: Hardware, compute: Compute) -> Estimate | None:
    """From the tables: a share of the device's limit, or so many watts for each thread of a CPU."""
    assumptions = tables().assumptions
    if hardware.device is not None:
        share = assumptions["power_share"].value.expected
        return Estimate(share * hardware.device.watts,
                        f"{share:g} of the {hardware.device.watts:g} W of {hardware.device.title}")
    if compute.device.type == "cpu":
        each = assumptions["cpu_watts_per_thread"].value.expected
        return Estimate(each * compute.threads, f"{_threads(compute)} at {each:g} W")
    return None


def _threads(compute: Compute) -> str:
    return f"{compute.threads} thread{'s' if compute.threads > 1 else ''}"
