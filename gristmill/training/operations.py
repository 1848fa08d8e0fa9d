"""Where the time of recorded steps went: by operation, and by kind of work."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["matmul", "attention", "elementwise", "optimizer", "communication", "data", "other"]
KINDS: tuple[Kind, ...] = ("matmul", "attention", "elementwise", "optimizer", "communication", "data", "other")
RANGES: dict[str, Kind] = {"data": "data", "optimizer": "optimizer"}
"""Ranges that the loop marks: whatever runs inside belongs to them."""

_NAMES: dict[Kind, re.Pattern[str]] = {
    "communication": re.compile(
        r"nccl|gloo|c10d::|c10d_functional|all_?reduce|all_?gather|reduce_?scatter|all_?to_?all", re.IGNORECASE),
    # Products of batches of small matrices are attention's: weights are matrices that all rows share.
    "attention": re.compile(r"attention|flash|fmha|flex|(?<!log_)softmax|\b(?:badd)?bmm", re.IGNORECASE),
    # Our C++ makes the gate of a feed-forward layer and the losses of the head in one go with their products.
    "matmul": re.compile(
        r"\b(?:add)?mm\b|_mm\b|grouped_mm|\bmatmul|\blinear\b|_linear|gemm|cutlass|xmma|nvjet|cublas|cpu_gated|"
        r"_HeadLoss\b", re.IGNORECASE),
}
_OURS = re.compile(r"ProfilerStep|cudaDeviceSynchronize|\[memory\]")


@dataclass(frozen=True)
class Operation:
    """All calls of one operation inside one kind of work."""

    name: str
    kind: Kind
    calls: int
    seconds: float


@dataclass(frozen=True)
class Profiled:
    """Time of `steps` steps by operation."""

    steps: int
    wall_seconds: float
    device: str
    operations: tuple[Operation, ...]
    """The costliest first; `seconds` of an operation is its own time, without what it calls."""

    @property
    def seconds(self) -> float:
        """Of all operations: on a GPU the time in which it was busy."""
        return sum(operation.seconds for operation in self.operations)

    def share(self, kind: Kind) -> float:
        """Of the time of all operations."""
        return sum(o.seconds for o in self.operations if o.kind == kind) / self.seconds if self.seconds else 0.0

    def as_json(self, most: int = 50) -> dict[str, Any]:
        return {
            "steps": self.steps, "wall_seconds": self.wall_seconds, "device": self.device, "seconds": self.seconds,
            "shares": {kind: self.share(kind) for kind in KINDS},
            "operations": [{"name": o.name, "kind": o.kind, "calls": o.calls, "seconds": o.seconds,
                            "share": o.seconds / self.seconds} for o in self.operations[:most]],
        }

    def as_text(self, most: int = 25) -> str:
        """Two tables for a person."""
        each = self.wall_seconds / max(self.steps, 1)
        lines = [f"{self.steps} steps of {each * 1e3:.1f} ms on {self.device}",
                 f"in operations {self.seconds:.3f} s of {self.wall_seconds:.3f} s", "",
                 f"{'kind':<16}{'share':>8}{'ms a step':>12}"]
        for kind in sorted(KINDS, key=self.share, reverse=True):
            share = self.share(kind)
            lines.append(f"{kind:<16}{share:>8.1%}{share * self.seconds / max(self.steps, 1) * 1e3:>12.2f}")
        lines += ["", f"{'operation':<52}{'kind':<15}{'calls a step':>12}{'ms a step':>11}{'share':>8}"]
        for o in self.operations[:most]:
            lines.append(f"{shortened(o.name):<52}{o.kind:<15}{o.calls / max(self.steps, 1):>12.1f}"
                         f"{o.seconds / max(self.steps, 1) * 1e3:>11.3f}{o.seconds / self.seconds:>8.1%}")
        return "\n".join(lines) + "\n"


def shortened(name: str, most: int = 50) -> str:
    """A name in `most` characters; long ones differ at their ends, which stay."""
    return name if len(name) <= most else f"{name[:most // 2 - 3]}...{name[-most // 2:]}"


def profiled(events: Iterable[Any], steps: int, wall_seconds: float, device: str) -> Profiled:
    """From the events of torch.profiler (`prof.events()`); on a GPU the time of kernels counts, by who launched them,
    on a CPU the own time of operations."""
    found: dict[tuple[str, Kind], list[float]] = {}
    for event in events:
        if event.is_async or "CPU" not in str(event.device_type).upper():
            continue
        if device == "cpu":
            spent = event.self_cpu_time_total
        else:
            spent = sum(kernel.duration for kernel in event.kernels)
        if spent <= 0:
            continue
        name = re.sub(r"#\d+", "", event.name)
        entry = found.setdefault((name, kind_of(event)), [0, 0.0])
        entry[0] += 1
        entry[1] += spent / 1e6
    operations = [Operation(name, kind, int(calls), seconds) for (name, kind), (calls, seconds) in found.items()]
    return Profiled(steps, wall_seconds, device, tuple(sorted(operations, key=lambda o: (-o.seconds, o.name))))


def kind_of(event: Any) -> Kind:
    """By the range that it runs in, else by its name; what is left is element-wise work. The name of a kernel says
    more than that of the operation which launches it."""
    around = event
    while around is not None:
        if around.name in RANGES:
            return RANGES[around.name]
        if around.name.startswith("Optimizer."):
            return "optimizer"
        around = around.cpu_parent
    for name in (event.name, *(kernel.name for kernel in event.kernels)):
        for kind, pattern in _NAMES.items():
            if pattern.search(name):
                return kind
    return "other" if _OURS.search(event.name) else "elementwise"
