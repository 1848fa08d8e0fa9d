"""Learning-rate schedules: a factor of the peak, as a pure function of the step."""

from __future__ import annotations

import math
from typing import Literal

from gristmill.core.config import config, require


@config
class ScheduleConfig:
    """How the learning rate moves over the run."""

    kind: Literal["wsd", "cosine", "linear", "constant"] = "wsd"
    """wsd: warm up, stay, then decay linearly (arXiv:2404.06395); cosine: SGDR's half period (arXiv:1608.03983)."""
    warmup: float = 0.02
    """Share of the steps that warm up linearly (1 or more: a number of steps)."""
    decay: float = 0.5
    """wsd: share of the steps that decay at the end."""
    final: float = 0.0
    """Factor of the peak at the last step."""

    def __post_init__(self) -> None:
        require(self.warmup >= 0, "warmup", "must not be negative")
        require(0 <= self.decay <= 1, "decay", "is a share of the steps, between 0 and 1")
        require(0 <= self.final <= 1, "final", "is a factor between 0 and 1")


def factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """The factor for update number `step` (0-based) of `steps`."""
    warmup = config.warmup if config.warmup >= 1 else config.warmup * steps
    rising = min(1.0, (step + 1) / (warmup + 1))
    if config.kind == "constant":
        return rising
    start = (1 - config.decay) * steps if config.kind == "wsd" else warmup
    done = min(1.0, max(0.0, (step + 1 - start) / max(1.0, steps - start)))
    if config.kind == "cosine":
        falling = config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * done))
    else:
        falling = 1 - (1 - config.final) * done
    return min(rising, falling)
