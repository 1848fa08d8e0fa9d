"""What changes over a run as a pure function of the step: the learning rate, as a factor of its peak, and the decay of
averaged weights."""

from __future__ import annotations

import math
from typing import Literal

from gristmill.core.config import config, require


@config
class ScheduleConfig:
    """How the learning rate moves over the run."""

    kind: Literal["wsd", "cosine", "linear", "inverse_sqrt", "constant"] = "wsd"
    """wsd: warm up, stay, then decay (arXiv:2404.06395); cosine: SGDR's half period (arXiv:1608.03983); inverse_sqrt:
    falls with the root of the step, whatever the length of the run (arXiv:1706.03762, section 5.3)."""
    warmup: float = 0.02
    """Share of the steps that warm up linearly (1 or more: a number of steps)."""
    decay: float = 0.5
    """wsd: share of the steps that decay at the end."""
    shape: Literal["linear", "cosine", "1-sqrt"] = "linear"
    """wsd: how the decay falls; 1-sqrt falls fast first, and slowly at the end (arXiv:2405.18392)."""
    final: float = 0.0
    """Factor of the peak at the last step; for inverse_sqrt, which has no end, the factor below which it does not
    fall."""

    def __post_init__(self) -> None:
        require(self.warmup >= 0, "warmup", "must not be negative")
        require(0 <= self.decay <= 1, "decay", "is a share of the steps, between 0 and 1")
        require(0 <= self.final <= 1, "final", "is a factor between 0 and 1")
        require(self.decay == type(self).decay or self.kind == "wsd", "decay", "is the share of wsd's decay")
        require(self.final == 0 or self.kind != "constant", "final", "a constant rate has no end")
        require(self.shape == "linear" or self.kind == "wsd", "shape", "is the shape of the decay of wsd")


def require_warmup(config: ScheduleConfig, steps: int | None) -> None:
    """For a stage's checks: ValueError where a run whose steps are given ends before its warm-up does."""
    require(steps is None or config.warmup < max(1, steps), "training.schedule.warmup",
            f"{config.warmup:g} steps, and the run has {steps}: the learning rate would never reach its peak")


def missed_peak(config: ScheduleConfig, steps: int) -> str | None:
    """Why the learning rate will not reach its peak in a run of so many steps, None where it will; or where a wsd was
    asked for that decays all the time."""
    warmup = config.warmup if config.warmup >= 1 else config.warmup * steps
    if warmup >= steps:
        return f"the learning rate never reaches its peak: it warms up for {warmup:g} steps, and the run has {steps}"
    if config.kind == "wsd" and config.decay < 1 and warmup + config.decay * steps > steps:
        return (f"the learning rate never reaches its peak: of {steps} steps it warms up for {warmup:.0f} and "
                f"decays for {config.decay * steps:.0f}")
    return None


def factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """The factor for update number `step` (0-based) of `steps`."""
    warmup = config.warmup if config.warmup >= 1 else config.warmup * steps
    rising = min(1.0, (step + 1) / (warmup + 1))
    if config.kind == "constant":
        return rising
    if config.kind == "inverse_sqrt":
        return min(rising, max(config.final, math.sqrt((warmup + 1) / (step + 1))))
    start = (1 - config.decay) * steps if config.kind == "wsd" else warmup
    done = min(1.0, max(0.0, (step + 1 - start) / max(1.0, steps - start)))
    if "cosine" in (config.kind, config.shape):
        falling = config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * done))
    else:
        falling = 1 - (1 - config.final) * (math.sqrt(done) if config.shape == "1-sqrt" else done)
    return min(rising, falling)


def average_decay(ema: float, step: int) -> float:
    """The decay of averaged weights at update number `step` (0-based): less at first, so that they do not stay near the
    weights that training began with (TensorFlow's ExponentialMovingAverage with `num_updates`)."""
    return min(ema, (1 + step) / (10 + step))
