"""From a few measured updates to the time of a large run.

A step of training costs something outside of the blocks (embedding, head, loss) and the same again for each block. So
the blocks of the planned model are measured at their real width, batch and row length, but few of them, at two depths.
The difference is what a block costs, its matrix products, attention, norms and optimizer included, at the rate that
this machine really reaches for these shapes; no share of a peak is guessed.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from gristmill.planning.anatomy import anatomy
from gristmill.planning.depth import pattern, shallow
from gristmill.planning.interval import Interval

CLAIMED = 0.10
"""Relative error that is claimed for a predicted step, and the least width of its interval."""
STEPS = 10
"""Measured steps of each depth."""

Measure = Callable[[Any], Callable[[], float]]
"""config -> a function that runs one update of a warm model of this config, at the batch that is planned for, and
gives its seconds."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Seconds of an update as a line over the blocks."""

    fixed_s: float
    block_s: float
    spread: float
    """Relative half-width of the middle half of the measured steps."""
    depths: tuple[int, ...]
    steps: int
    watts: float | None

    def step(self, blocks: int) -> Interval:
        """Seconds of an update of a model with so many blocks."""
        expected = self.fixed_s + self.block_s * blocks
        width = max(CLAIMED, self.spread)
        return Interval(expected * (1 - min(width, 0.9)), expected, expected * (1 + width))

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def depths(config: Any) -> tuple[int, ...]:
    """Where to measure: one and three times the pattern of layers; the whole model where it is no deeper than that."""
    first, period = pattern(config)
    return (first + period, first + 3 * period) if config.layers > first + 3 * period else (config.layers,)


def calibrate(config: Any, measure: Measure, joules: Callable[[], float | None] = lambda: None) -> Calibration:
    """Measure and fit. The depths take turns step by step, so that a slow minute of the machine meets all of them, and
    none finds its weights in the cache. joules: energy that the processor counted so far, None where nobody may know.
    """
    chosen = depths(config)
    updates = {depth: measure(shallow(config, depth)) for depth in chosen}
    times: dict[int, list[float]] = {depth: [] for depth in chosen}
    before, began = joules(), time.monotonic()
    for _ in range(STEPS * (1 if len(chosen) > 1 else 2)):
        for depth in chosen:
            times[depth].append(updates[depth]())
    after, took = joules(), time.monotonic() - began
    usual = {depth: _lower_quartile(seconds) for depth, seconds in times.items()}
    counts = {depth: len(anatomy(shallow(config, depth)).per_block) for depth in chosen}
    first, last = chosen[0], chosen[-1]
    if len(chosen) == 1:
        # No line through one point: all of it is the model as it is.
        block, fixed = 0.0, usual[first]
    else:
        block = max(0.0, (usual[last] - usual[first]) / (counts[last] - counts[first]))
        fixed = max(0.0, usual[first] - block * counts[first])
    known = before is not None and after is not None and after >= before and took > 0
    return Calibration(
        fixed_s=fixed, block_s=block, spread=max(_spread(seconds) for seconds in times.values()), depths=chosen,
        steps=sum(map(len, times.values())),
        watts=(after - before) / took if known else None)  # type: ignore[operator]


def _lower_quartile(seconds: Sequence[float]) -> float:
    """What delays an update of a small model, such as new pages of memory, often meets more than half of them, and a
    large one's far less."""
    return sorted(seconds)[len(seconds) // 4]


def _spread(seconds: Sequence[float]) -> float:
    ordered = sorted(seconds)
    quarter = len(ordered) // 4
    return (ordered[-1 - quarter] - ordered[quarter]) / 2 / median(ordered)
