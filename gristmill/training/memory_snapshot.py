"""What holds memory: on a GPU torch's own snapshot, on a CPU a table of the largest things.

A GPU's snapshot is the file that torch's memory viewer opens. It is a pickle and we never read one. On a CPU the table
is made from the trace of a few steps: what was alive at the moment when most was, and which operation had made it.
"""

from __future__ import annotations

import bisect
import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gristmill.training.operations import shortened

MB = 1e6
ENTRIES = 100_000
"""Allocations that a GPU's history keeps at most."""


def record_history(device: torch.device) -> None:
    """Let the GPU's allocator remember who allocated what."""
    torch.cuda.memory._record_memory_history(max_entries=ENTRIES, device=device)  # the documented way has no other name


def write_history(path: Path, device: torch.device) -> None:
    """Write what was remembered, and stop remembering."""
    torch.cuda.memory._dump_snapshot(str(path))
    torch.cuda.memory._record_memory_history(enabled=None, device=device)


def held(groups: Mapping[str, Iterable[tuple[str, Tensor | None]]]) -> list[dict[str, Any]]:
    """Tensors that stay between steps, the largest first. groups: what they are (weights, gradients, ...) -> (name,
    tensor); memory that two of them share is counted once."""
    rows, seen = [], set()
    for what, tensors in groups.items():
        for name, tensor in tensors:
            if tensor is None or tensor.device.type == "meta":
                continue
            if hasattr(tensor, "to_local"):  # of a tensor that several processes share, what lies here
                tensor = tensor.to_local()
            storage = tensor.untyped_storage()
            if (place := storage.data_ptr()) in seen and place:
                continue
            seen.add(place)
            rows.append({"what": what, "name": name, "shape": list(tensor.shape),
                         "dtype": str(tensor.dtype).removeprefix("torch."), "mb": storage.nbytes() / MB})
    return sorted(rows, key=lambda row: -row["mb"])


def at_peak(trace: Path) -> dict[str, Any]:
    """From a chrome trace with memory events: the most that was allocated above the beginning, and by which operations
    what was alive then had been made (calls, megabytes), the largest first."""
    with gzip.open(trace, "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Addr"], e["args"]["Bytes"]) for e in events
                     if e.get("name") == "[memory]" and e["args"].get("Device Type") == 0)
    total = peak = 0
    peak_at = -1
    for at, (_, _, size) in enumerate(changes):
        total += size
        if total > peak:
            peak, peak_at = total, at
    alive: dict[int, tuple[float, int]] = {}
    for when, address, size in changes[:peak_at + 1]:
        if size > 0:
            alive[address] = (when, size)
        else:
            alive.pop(address, None)
    running = _Running(e for e in events if e.get("ph") == "X" and e.get("cat") == "cpu_op")
    by: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for when, size in alive.values():
        entry = by[running.at(when)]
        entry[0] += 1
        entry[1] += size / MB
    return {"peak_mb": peak / MB, "alive": [
        {"operation": name, "count": int(count), "mb": mb} for name, (count, mb) in
        sorted(by.items(), key=lambda item: -item[1][1])]}


class _Running:
    """Which operation ran at a time: the outermost, whose name says what was wanted."""

    def __init__(self, operations: Iterable[Mapping[str, Any]]) -> None:
        self._spans: list[tuple[float, float, str]] = []
        end = -1.0
        for start, stop, name in sorted((e["ts"], e["ts"] + e.get("dur", 0), e["name"]) for e in operations):
            if start >= end:
                self._spans.append((start, stop, name))
                end = stop
        self._starts = [start for start, _, _ in self._spans]

    def at(self, when: float) -> str:
        found = bisect.bisect_right(self._starts, when) - 1
        if found >= 0 and when <= self._spans[found][1]:
            return self._spans[found][2]
        return "(outside of operations)"


def as_text(rows: list[dict[str, Any]], peak: Mapping[str, Any], resident_mb: float, most: int = 20) -> str:
    """The tables for a person."""
    totals: dict[str, float] = defaultdict(float)
    for row in rows:
        totals[row["what"]] += row["mb"]
    lines = [f"resident {resident_mb:,.0f} MB; kept between steps {sum(totals.values()):,.1f} MB",
             f"allocated on top of that, at most {peak['peak_mb']:,.1f} MB", "",
             f"{'kept between steps':<32}{'MB':>10}"]
    lines += [f"{what:<32}{mb:>10,.2f}" for what, mb in sorted(totals.items(), key=lambda item: -item[1])]
    lines += ["", f"{'the largest of them':<72}{'MB':>10}"]
    lines += [f"{row['what'] + ': ' + row['name']:<52}{'x'.join(map(str, row['shape'])) + ' ' + row['dtype']:<20}"
              f"{row['mb']:>10,.2f}" for row in rows[:most]]
    lines += ["", f"{'alive at the peak, by operation':<52}{'tensors':>20}{'MB':>10}"]
    lines += [f"{shortened(row['operation']):<52}{row['count']:>20}{row['mb']:>10,.2f}" for row in peak["alive"][:most]]
    return "\n".join(lines) + "\n"
