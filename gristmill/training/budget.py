"""How much training: a budget in steps, tokens, FLOPs, minutes, money or energy, and a loss at which to stop.

Steps, tokens and FLOPs become steps by arithmetic. Minutes, money and energy become seconds first, and steps by a short
measurement at the start of the run. Either way the number of steps is written down before the first one: the schedule
fits, and a resumed run keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.planning.tables import user_folder
from gristmill.tokens import Positions
from gristmill.training.device import Compute
from gristmill.training.hardware import Hardware, estimated_watts, tables
from gristmill.training.power import Estimate, PowerMeter

TOKENS_PER_PARAMETER = 20
JOULES_PER_KWH = 3.6e6
KINDS = ("minutes", "tokens", "steps", "flops", "money", "energy_kwh")
TIMED = ("minutes", "money", "energy_kwh")
"""Those that hang on how fast this machine is."""
OF_AMOUNTS = {"hardware": ("money", "energy_kwh"), "price_per_hour": ("money",), "watts": ("energy_kwh",),
              "currency": ("money",)}
"""Setting -> the amounts for which it is read."""
LEAST_STEPS = 10
"""A time in which fewer steps fit is refused: no schedule has room in them."""
ROOM = 1.2
"""By how much more than what was needed this time is advised: it will not be the same next time."""


@config
class Budget:
    """How much training: at most one amount, or none for 20 tokens a parameter (Hoffmann et al. 2022); and beside it,
    if wanted, a loss at which to stop."""

    alternatives = KINDS

    minutes: float | None = None
    """Wall-clock minutes for the whole stage. A short measurement at its start turns them into a number of steps,
    which is written down: the schedule fits, and a resumed run keeps it."""
    tokens: int | None = None
    """Training tokens."""
    steps: int | None = None
    """Optimizer steps."""
    flops: float | None = None
    """FLOPs of forward and backward: 6 a matmul parameter and token, and those of attention."""
    money: float | None = None
    """What the time on this hardware may cost, in `currency`; becomes time by the price of an hour."""
    energy_kwh: float | None = None
    """Electricity in kWh; becomes time by the power that the short measurement saw, or that is estimated."""
    target_loss: float | None = None
    """Stop as soon as the held-out loss (nats a token) is at or below this, before the budget is used up."""
    hardware: str | None = None
    """A row of the hardware table whose price and power count, e.g. h200; default the device that is recognised."""
    price_per_hour: float | None = None
    """Of one device (of the whole computer where it trains on a CPU), instead of the table's."""
    watts: float | None = None
    """Average power of one device (of the whole computer where it trains on a CPU), instead of a measurement."""
    currency: str = "USD"
    """Of `money` and `price_per_hour`; the table's prices are in US dollars."""

    def __post_init__(self) -> None:
        given = [name for name in KINDS if getattr(self, name) is not None]
        require(len(given) <= 1, "budget", f"give one of {', '.join(KINDS)}; these were given: {', '.join(given)}")
        for name in (*given, "target_loss", "price_per_hour", "watts"):
            require(getattr(self, name) is None or getattr(self, name) > 0, name, "must be positive")
        for name, amounts in OF_AMOUNTS.items():
            require(getattr(self, name) == getattr(type(self), name) or bool({*given} & {*amounts}), name,
                    f"is for a budget in {' or '.join(amounts)}")
        known = tables().devices if self.hardware is not None else ()
        require(self.hardware is None or self.hardware in known, "hardware",
                f"{self.hardware!r} is not in the hardware table; choose from {', '.join(known)}, or add it to "
                f"{user_folder() / 'hardware.yaml'}")
        require(self.money is None or self.currency == "USD" or self.price_per_hour is not None, "currency",
                f"the hardware table knows US dollars only; give price_per_hour in {self.currency}")

    @property
    def timed(self) -> bool:
        """Whether it hangs on how fast this machine is."""
        return any(getattr(self, name) is not None for name in TIMED)


@dataclass(frozen=True)
class Here:
    """What a training runs on: the device of this process, how many processes there are, on how many computers."""

    hardware: Hardware
    compute: Compute
    processes: int = 1
    hosts: int = 1

    @property
    def units(self) -> int:
        """What a price or a power counts: devices, or computers where it trains on CPUs."""
        return self.processes if self.compute.device.type == "cuda" else self.hosts

    @property
    def unit(self) -> str:
        return "device" if self.compute.device.type == "cuda" else "computer"


@dataclass(frozen=True)
class Allowance:
    """Time that a budget gives."""

    seconds: float
    said: str
    """The budget in words: `10 minutes`, `20 USD`."""
    derivation: str | None = None
    """How it became time, None where it was time already."""


def counted_steps(budget: Budget, positions: Positions, context: int, flops_per_token: float, parameters: int,
                  growing: bool = False) -> tuple[int, str | None]:
    """Steps for a budget in steps, tokens, FLOPs or none, and how they were derived.

    context: tokens a row; flops_per_token: of training, at this context; growing: whether updates grow at first."""
    if budget.steps is not None:
        return budget.steps, None
    if budget.flops is not None:
        wanted = budget.flops / flops_per_token
        rule = f"{budget.flops:.4g} FLOPs / {flops_per_token:.4g} a token = {wanted:.0f} tokens"
    elif budget.tokens is not None:
        wanted, rule = budget.tokens, "budget.tokens"
    else:
        wanted, rule = TOKENS_PER_PARAMETER * parameters, f"{TOKENS_PER_PARAMETER} tokens a parameter"
    each = positions.batch * context
    steps = positions.steps(wanted / context) if growing else max(1, round(wanted / each))
    return steps, f"steps = {steps}: {rule} / {each} tokens a step"


def timed_steps(allowed: Allowance, sizes: Sequence[range], takes: Sequence[float], *, before: float, beside: float,
                budget: Budget, where: str) -> tuple[int, str]:
    """Steps that fit into a time, and their derivation.

    sizes: the updates of each size, in order; takes: seconds that one of each takes; before: seconds that are gone;
    beside: those that something else than updates will take; where: of the stage. UserError, with what would do, where
    fewer than LEAST_STEPS fit.
    """
    steps, left = 0, allowed.seconds - before - beside
    for size, take in zip(sizes, takes, strict=True):
        fit = int(min(len(size), max(0.0, left / take)))
        steps, left = steps + fit, left - fit * take
        if fit < len(size):
            break
    if steps < LEAST_STEPS:
        updates = sum(take * len(range(size.start, min(size.stop, LEAST_STEPS)))
                      for size, take in zip(sizes, takes, strict=True))
        amount = next(name for name in TIMED if getattr(budget, name) is not None)
        least = getattr(budget, amount) * ROOM * (before + beside + updates) / allowed.seconds
        digit = 10.0 ** (math.floor(math.log10(least)) - 1)
        raise UserError(
            f"{allowed.said} are too little: {before:.0f} s went into preparation, evaluation takes {beside:.0f} s, "
            f"and {LEAST_STEPS} steps take {updates:.3g} s", where=f"{where}: budget.{amount}",
            fix=f"raise it to {math.ceil(least / digit) * digit:.6g} at least, or say steps or tokens instead")
    said = f"a step takes {takes[-1]:.3f} s" + (f", one of the first {takes[0]:.3f} s" if len(takes) > 1 else "")
    return steps, (f"steps = {steps}: {allowed.seconds - before - beside:.0f} s are left of {allowed.said}, "
                   f"and {said}")


def allowance(budget: Budget, here: Here, power: PowerMeter | None = None) -> Allowance:
    """Time for a budget in minutes, money or energy.

    power: of this process, with what it saw while steps were measured; without, energy rests on an estimate, or is
    endless where there is none. UserError where the hardware table has no price or power and none was given."""
    if budget.minutes is not None:
        return Allowance(budget.minutes * 60, f"{budget.minutes:g} minutes")
    if budget.money is not None:
        price, source = _price(budget, here)
        seconds = budget.money / (price * here.units) * 3600
        return Allowance(seconds, f"{budget.money:g} {budget.currency}", (
            f"{budget.money:g} {budget.currency} pay for {seconds:.0f} s: {_many(here)} at {price:g} "
            f"{budget.currency} an hour ({source})"))
    if budget.energy_kwh is None:
        raise ValueError("this budget is not one of time")
    watts, source = _watts(budget, here, power)
    seconds = budget.energy_kwh * JOULES_PER_KWH / watts if watts else math.inf
    said = f"{budget.energy_kwh:g} kWh"
    return Allowance(seconds, said, f"{said} last for {seconds:.0f} s at {watts:.0f} W ({source})"
                     if math.isfinite(seconds) else None)


def _price(budget: Budget, here: Here) -> tuple[float, str]:
    """Of one unit for an hour, and where it comes from."""
    if budget.price_per_hour is not None:
        return budget.price_per_hour, "budget.price_per_hour"
    known = tables()
    name = known.device(budget.hardware).name if budget.hardware is not None else here.hardware.name
    if name not in known.prices:
        raise UserError(
            f"the hardware table has no price for {_called(name)}, so money cannot become time", where="budget.money",
            fix=f"say price_per_hour in the budget (of one {here.unit}), or hardware with one of "
                f"{', '.join(known.prices)}; or add a price to {user_folder() / 'prices.yaml'}")
    return known.prices[name].expected, f"{name}: {known.price_sources[name]}"


def _watts(budget: Budget, here: Here, power: PowerMeter | None) -> tuple[float, str]:
    """Of everything that trains, and where it comes from."""
    if budget.watts is not None:
        return budget.watts * here.units, f"{_many(here)} at budget.watts"
    if budget.hardware is not None:
        row = tables().device(budget.hardware)
        found = estimated_watts(Hardware(row.name, row), here.compute)
        assert found is not None
        return found.watts * here.units, f"estimated: {here.units} x {found.source}"
    if power is not None and power.kind not in (None, "estimated"):
        seen = power.average() or power.average(least=0.2)
        if seen is not None:
            units = here.hosts if power.kind == "rapl" else here.processes
            return seen * units, f"measured, {units} x {seen:.0f} W, {power.source}"
    estimate: Estimate | None = estimated_watts(here.hardware, here.compute)
    if estimate is not None:
        return estimate.watts * here.processes, f"estimated: {here.processes} x {estimate.source}"
    if power is None:
        return 0.0, "not known yet"
    raise UserError(
        f"nothing measures the power of {_called(here.hardware.name)}, and the hardware table does not know it "
        f"({power.source or 'no counter'})", where="budget.energy_kwh",
        fix=f"say watts in the budget (of one {here.unit}), or hardware with one of {', '.join(tables().devices)}")


def _many(here: Here) -> str:
    return f"{here.units} {here.unit}{'s' if here.units > 1 else ''}"


def _called(name: str) -> str:
    return "this computer's CPU" if name == "cpu" else repr(name)
