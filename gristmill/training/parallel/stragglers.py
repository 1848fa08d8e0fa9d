"""Finding a process that is slower than the others, and what it loses its time with.

In a synchronous training every step takes as long as on the slowest process, so that step times are the same on all.
What differs is where the time goes: the slow one spends more in a phase of its own, the others wait in a later one.
A collective inside backward hides that; therefore each process also times a small matrix product now and then.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gristmill.training.parallel.watch import PHASES
from gristmill.training.parallel.world import World

OWN = ("data", "forward", "backward", "optimizer", "evaluation", "checkpoint")
"""Phases in which a process works; in the others it waits."""
REMEMBERED = 5
"""Products whose median counts: one alone may meet a busy moment."""
REPEAT = 10
"""A warning is repeated after so many summaries."""


@dataclass(frozen=True)
class Slow:
    """One process that holds up the others."""

    rank: int
    phase: str
    """Where it loses its time, or `processor`."""
    share: float
    """Of a step: seconds more than the others, by the seconds of a step. For `processor`: how much longer."""
    seconds: float
    """More than the others take, of each step."""

    def __str__(self) -> str:
        if self.phase == "processor":
            return (f"process {self.rank} computes {1 + self.share:.1f} times slower than the others: its processor is "
                    "busy, hot or slow")
        return (f"process {self.rank} holds up the others: {1000 * self.seconds:.0f} ms more than they need in "
                f"{self.phase}, {self.share:.0%} of every step")


def slow(times: Sequence[Mapping[str, float]], products: Sequence[float], excess: float) -> list[Slow]:
    """Who is slow. times: of each process, seconds a step in each phase. products: seconds of its matrix product.
    excess: share of a step from which on it is told."""
    if len(times) < 2:
        return []
    step = median(sum(each.values()) for each in times)
    found = []
    for rank, own in enumerate(times):
        others = [each for at, each in enumerate(times) if at != rank]
        more = {phase: own.get(phase, 0.0) - median(each.get(phase, 0.0) for each in others) for phase in OWN}
        phase = max(more, key=more.__getitem__)
        if step > 0 and more[phase] > excess * step:
            found.append(Slow(rank, phase, more[phase] / step, more[phase]))
        usual = median(p for at, p in enumerate(products) if at != rank)
        if usual > 0 and products[rank] > (1 + 2 * excess) * usual:
            found.append(Slow(rank, "processor", products[rank] / usual - 1, products[rank] - usual))
    return sorted(found, key=lambda each: -each.share)


class Stragglers:
    """Collects the times of all processes on the first one, every `every` steps, without anybody waiting: what is sent
    at one step is read at a later one. All processes make it and call it at the same steps."""

    def __init__(self, world: World, *, every: int = 50, excess: float = 0.1,
                 say: Callable[[str], Any] = lambda text: None, note: Callable[[dict[str, Any]], Any] | None = None,
                 ) -> None:
        """excess: share of a step. say: gets warnings; note: gets every summary as a JSON-ready record; both only on
        the first process."""
        self.world, self.every, self.excess, self.say, self.note = world, every, excess, say, note
        self.group = dist.new_group(backend="gloo") if world.size > 1 else None
        self.work: Any = None
        self.sent: Tensor | None = None
        self.gathered: list[Tensor] = []
        self.sent_at = 0
        self.probe = Probe(world.device)
        self.products: list[deque[float]] = [deque(maxlen=REMEMBERED) for _ in range(world.size)]
        self.told: dict[tuple[int, str], int] = {}
        self.summaries = 0

    def __call__(self, step: int, take: Callable[[], Mapping[str, float]]) -> list[Slow]:
        """After update `step` (1, 2, ...). take: `Watch.take`. Returns who is slow, on the first process, once the
        figures of all have come in."""
        if self.group is None:
            return []
        found = self._read() if self.work is not None and step % self.every == min(1, self.every - 1) else []
        if step % self.every == 0 and self.work is None:
            spent = take()
            self.sent = torch.tensor([*(spent.get(phase, 0.0) / self.every for phase in PHASES), self.probe()],
                                     dtype=torch.float64)
            main = self.world.main
            self.gathered = [torch.empty_like(self.sent) for _ in range(self.world.size)] if main else []
            self.work = dist.gather(self.sent, self.gathered if main else None, dst=0, group=self.group, async_op=True)
            self.sent_at = step
        return found

    def _read(self) -> list[Slow]:
        self.work.wait()
        self.work = None
        if not self.world.main:
            return []
        rows = [row.tolist() for row in self.gathered]
        times = [dict(zip(PHASES, row, strict=False)) for row in rows]
        for kept, row in zip(self.products, rows, strict=True):
            if row[-1] > 0:
                kept.append(row[-1])
        found = slow(times, [median(kept) if kept else 0.0 for kept in self.products], self.excess)
        self.summaries += 1
        for each in found:
            key = each.rank, each.phase
            if self.summaries - self.told.get(key, -REPEAT) >= REPEAT:
                self.told[key] = self.summaries
                self.say(f"  {each}")
        if self.note is not None:
            self.note({"step": self.sent_at, "phases": {
                phase: [round(each[phase], 5) for each in times] for phase in PHASES},
                "product": [round(row[-1], 6) for row in rows],
                "slow": [{"process": each.rank, "phase": each.phase, "share": round(each.share, 4)} for each in found]})
        return found


class Probe:
    """Seconds of a small matrix product on the device; on a GPU those of the last call, so that nobody waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        size = 2048 if device.type == "cuda" else 192
        self.matrix = torch.ones(size, size, device=device, dtype=torch.bfloat16 if device.type == "cuda" else None)
        self.events: Any = None

    @torch.no_grad()
    def __call__(self) -> float:
        if self.device.type != "cuda":
            found = []
            for _ in range(5):
                began = time.perf_counter()
                self.matrix @ self.matrix
                found.append(time.perf_counter() - began)
            return median(found)
        seconds = 0.0
        if self.events is not None and self.events[1].query():
            seconds = self.events[0].elapsed_time(self.events[1]) / 1000
        self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self.events[0].record()
        for _ in range(8):
            self.matrix @ self.matrix
        self.events[1].record()
        return seconds
