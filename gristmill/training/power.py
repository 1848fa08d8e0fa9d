"""Watts and joules of a running training: from a counter where there is one, else estimated and marked so.

Counters are RAPL on Linux (`/sys/class/powercap/intel-rapl:*`, AMD's processors too), which count what whole packages
use, whoever runs on them, and NVML for NVIDIA devices, which counts the board.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")
EVERY = 0.5
"""Seconds between two readings: counters move about ten times a second, and reading one is not free."""


class Counter(Protocol):
    """Energy that was used since some moment."""

    name: str

    def joules(self) -> float:
        """Never falls. Raises OSError or ValueError where it cannot be read any more."""


class Unreadable(Exception):
    """There is no counter, or this process may not read it; the text says why."""


class Rapl:
    """Packages and their memory; a counter that starts again from zero is carried on.

    A package holds its cores and its graphics, so those are not added; `psys` and the memory-mapped copies of the
    same packages are left out.
    """

    name = "rapl"

    def __init__(self, root: Path = POWERCAP) -> None:
        """Raises Unreadable."""
        zones = [zone for zone in sorted(root.glob("intel-rapl:*")) if _counts(zone)]
        if not zones:
            raise Unreadable(f"no energy counter of the processor under {root}")
        self._files = {zone / "energy_uj": _ceiling(zone) for zone in zones}
        try:
            self._last = {file: int(file.read_text()) for file in self._files}
        except PermissionError:
            raise Unreadable(f"only root may read the processor's energy counter ({zones[0] / 'energy_uj'}); "
                             "`chmod a+r` it to have watts") from None
        except (OSError, ValueError) as error:
            raise Unreadable(f"the processor's energy counter cannot be read: {error}") from None
        self._used = 0

    def joules(self) -> float:
        for file, ceiling in self._files.items():
            now = int(file.read_text())
            grown = now - self._last[file]
            self._used += grown if grown >= 0 else grown + ceiling
            self._last[file] = now
        return self._used / 1e6


def _counts(zone: Path) -> bool:
    """Whether a zone is a package, or the memory beside it."""
    try:
        name = (zone / "name").read_text().strip()
    except OSError:
        return False
    return name.startswith("package") or name == "dram"


def _ceiling(zone: Path) -> int:
    """Microjoules at which a counter starts again from zero."""
    try:
        return int((zone / "max_energy_range_uj").read_text())
    except (OSError, ValueError):
        return 2**32


class Nvml:
    """One NVIDIA device, by the library `nvidia-ml-py` (imported as pynvml)."""

    name = "nvml"

    def __init__(self, uuid: str, library: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        """uuid: as torch gives it, with or without "GPU-". Raises Unreadable."""
        try:
            self._library = library or importlib.import_module("pynvml")
        except ImportError:
            raise Unreadable("to have watts of the GPU: pip install nvidia-ml-py") from None
        try:
            self._library.nvmlInit()
            self._handle = self._library.nvmlDeviceGetHandleByUUID(
                (uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}").encode())
        except Exception as error:  # the library's own errors have no common base but this
            raise Unreadable(f"NVML does not answer: {error}") from None
        self._clock = clock
        try:
            self._energy()
            self._counted = True
        except Exception:
            # Before Volta there is no counter: power times time, as often as somebody asks.
            self._counted, self._used, self._at = False, 0.0, clock()
            try:
                self._watts()
            except Exception as error:
                raise Unreadable(f"NVML gives neither energy nor power: {error}") from None

    def joules(self) -> float:
        try:
            if self._counted:
                return self._energy()
            now, watts = self._clock(), self._watts()
        except Exception as error:
            raise OSError(f"NVML does not answer any more: {error}") from error
        self._used += watts * (now - self._at)
        self._at = now
        return self._used

    def _energy(self) -> float:
        return self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3

    def _watts(self) -> float:
        return self._library.nvmlDeviceGetPowerUsage(self._handle) / 1e3


@dataclass(frozen=True)
class Estimate:
    """What a device is taken to draw where nothing counts."""

    watts: float
    source: str


class PowerMeter:
    """Watts since the last reading; joules since the start."""

    def __init__(self, counter: Counter | None, estimate: Estimate | None, why: str = "",
                 clock: Callable[[], float] = time.monotonic, every: float = EVERY) -> None:
        """why: the reason for which there is no counter. every: least seconds between two readings."""
        self._counter, self._estimate, self._why, self._clock, self._every = counter, estimate, why, clock, every
        self._first: tuple[float, float] | None = None
        self._watts: float | None = None
        self._read()

    @property
    def kind(self) -> str | None:
        """rapl, nvml or estimated; None where nothing is known."""
        if self._counter is not None:
            return self._counter.name
        return None if self._estimate is None else "estimated"

    @property
    def source(self) -> str:
        """In words: the counter, or what the estimate rests on."""
        if self._counter is not None:
            return {"rapl": "counted by the processor (RAPL), all that ran on it",
                    "nvml": "counted by the device (NVML)"}.get(self._counter.name, self._counter.name)
        said = [self._why] if self._why else []
        return "; ".join([*said, self._estimate.source] if self._estimate is not None else said)

    def watts(self) -> float | None:
        """Mean power since the last reading (kept until the next one is due), or the estimate."""
        now = self._clock()
        if self._counter is not None and self._first is not None and now - self._at >= self._every:
            before, began = self._energy, self._at
            self._read()
            if self._counter is not None:
                self._watts = (self._energy - before) / (self._at - began)
        if self._counter is not None:
            return self._watts
        return None if self._estimate is None else self._estimate.watts

    def average(self, least: float = 1.0) -> float | None:
        """Mean power since this meter was made, or since `restart`; the estimate where nothing counts. None where
        nothing is known, or where less than `least` seconds have passed: counters are too coarse for that."""
        if self._counter is not None:
            self._read()
        if self._counter is None or self._first is None:
            return None if self._estimate is None else self._estimate.watts
        energy, began = self._first
        return (self._energy - energy) / (self._at - began) if self._at - began >= least else None

    def restart(self) -> None:
        """Let `average` begin here."""
        self._first = None
        self._read()

    def _read(self) -> None:
        if self._counter is None:
            return
        try:
            self._energy, self._at = self._counter.joules(), self._clock()
        except (OSError, ValueError) as error:
            self._counter, self._why = None, f"the energy counter stopped answering ({error})"
            return
        if self._first is None:
            self._first = (self._energy, self._at)
