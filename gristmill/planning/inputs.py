"""What a plan is told: hardware, and numbers that replace its assumptions."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gristmill.core.errors import UserError
from gristmill.planning.cost import Rates
from gristmill.planning.interval import Interval
from gristmill.planning.tables import Device, Tables

_SUFFIX = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_NUMBER = re.compile(r"([-+]?[0-9][0-9_]*(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?)\s*([kmbgt]?)", re.IGNORECASE)


def number(text: Any, where: str) -> float:
    """`15e12`, `15T`, `300B`, `1_000`: positive and finite, or a UserError."""
    found = _NUMBER.fullmatch(str(text).strip()) if not isinstance(text, bool) else None
    value = float(found[1].replace("_", "")) * _SUFFIX[found[2].lower()] if found else math.nan
    if not math.isfinite(value) or value <= 0:
        raise UserError(f"{text!r} is no positive number", where=where, fix="write for example 2e9 or 2B")
    return value


@dataclass(frozen=True)
class Cluster:
    """So many devices of one kind; count None: as few as fit."""

    device: Device
    count: int | None

    @classmethod
    def parse(cls, text: str, tables: Tables) -> Cluster:
        """`h100-sxm:64`, or `h100-sxm` for as few as fit."""
        name, _, count = text.partition(":")
        device = tables.device(name.strip().lower())
        if not count:
            return cls(device, None)
        if not count.isdecimal() or int(count) < 1:
            raise UserError(f"{count!r} devices", where="--hardware",
                            fix="write a whole number from 1, as in h100-sxm:8")
        return cls(device, int(count))


@dataclass(frozen=True, kw_only=True)
class Given:
    """Numbers that somebody knows: each takes the place of a table or an assumption. All may be intervals."""

    mfu: Interval | None = None
    """Model FLOPs utilisation: share of the peak."""
    achieved_tflops: Interval | None = None
    """FLOPs a second that a device reaches, in place of mfu."""
    device_hours: Interval | None = None
    """Of the whole run, in place of any estimate of speed."""
    flops: Interval | None = None
    """Of the whole run, in place of our count."""
    device_watts: Interval | None = None
    """Average power of a device."""
    host_share: Interval | None = None
    pue: Interval | None = None
    grid_g_per_kwh: Interval | None = None
    usd_per_hour: Interval | None = None
    """Price of a device for an hour."""
    development: Interval | None = None
    """All runs over the final one."""
    embodied: bool = False
    """Whether making the devices counts too."""
    embodied_device_kg: Interval | None = None
    embodied_host_kg: Interval | None = None
    lifetime_hours: Interval | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    """Name -> source, of those of these that no person said."""

    def said(self, name: str) -> str:
        """What stands as the source of a number."""
        return self.sources.get(name, "given")

    @classmethod
    def from_plain(cls, values: Mapping[str, Any], where: str) -> Given:
        """From a mapping of numbers or {low, expected, high}."""
        names = {f.name for f in dataclasses.fields(cls)} - {"sources"}
        for name in values:
            if name not in names:
                raise UserError(f"{name!r} cannot be given", where=where, fix=f"choose from {', '.join(sorted(names))}")
        read: dict[str, Any] = {}
        for name, value in values.items():
            if name == "embodied":
                read[name] = bool(value)
            elif isinstance(value, Mapping):
                if set(value) != {"low", "expected", "high"}:
                    raise UserError(f"{name}: an interval has low, expected and high", where=where)
                read[name] = _ordered({key: _not_negative(v, f"{where}: {name}") for key, v in value.items()},
                                      f"{where}: {name}")
            elif value is not None:
                read[name] = Interval.of(_not_negative(value, f"{where}: {name}"))
        return cls(**read)


def _not_negative(value: Any, where: str) -> float:
    return 0.0 if str(value).strip() in ("0", "0.0") else number(value, where)


def _ordered(values: dict[str, float], where: str) -> Interval:
    try:
        return Interval.of(values)
    except ValueError as error:
        raise UserError("low <= expected <= high does not hold", where=where) from error


@dataclass(frozen=True)
class Used:
    """A number behind a plan, where it comes from, and whether somebody said it."""

    name: str
    value: Interval
    unit: str
    source: str

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "value": self.value.as_json(), "unit": self.unit, "source": self.source}


def rates(device: Device, region: str | None, given: Given, tables: Tables) -> tuple[Rates, list[Used]]:
    """What an hour of the device costs, and every number behind it with its source."""
    used: list[Used] = []

    def take(name: str, said: Interval | None, otherwise: Interval, unit: str, source: str) -> Interval:
        used.append(Used(name, otherwise if said is None else said, unit, source if said is None else given.said(name)))
        return used[-1].value

    def assumed(name: str, said: Interval | None) -> Interval:
        row = tables.assumptions[name]
        return take(name, said, row.value, row.unit, f"{row.source}, {row.date}")

    share = tables.assumptions["power_share"]
    watts = take("device_watts", given.device_watts, share.value * device.watts, "W",
                 f"{share.value.low:g} to {share.value.high:g} of {device.watts:g} W: {share.source}, {share.date}")
    host_share, pue = assumed("host_share", given.host_share), assumed("pue", given.pue)
    if given.grid_g_per_kwh is None and region is None:
        grid = take("grid_kg_per_kwh", None, tables.grid_spread(), "kg CO2e/kWh",
                    "no region named: the world's average, 10th and 90th percentile of the known regions")
    elif given.grid_g_per_kwh is not None:
        grid = take("grid_kg_per_kwh", given.grid_g_per_kwh * 1e-3, Interval.of(0), "kg CO2e/kWh", "given")
    else:
        assert region is not None
        row = tables.grid(region)
        grid = take("grid_kg_per_kwh", None, Interval.of(row.kg_per_kwh), "kg CO2e/kWh",
                    f"{row.name}: {row.source}, {row.date}")
    price = None
    if given.usd_per_hour is not None or device.name in tables.prices:
        price = take("usd_per_hour", given.usd_per_hour, tables.prices.get(device.name, Interval.of(0)), "USD",
                     tables.price_sources.get(device.name, "given"))
    embodied = None
    if given.embodied:
        host = assumed("embodied_host_kg", given.embodied_host_kg) / device.per_host
        if device.embodied_kg is None or given.embodied_device_kg is not None:
            made = assumed("embodied_device_kg", given.embodied_device_kg)
        else:
            made = take("embodied_device_kg", None, Interval.of(device.embodied_kg), "kg CO2e a device",
                        f"{device.source}, {device.date}")
        embodied = (made + host) / assumed("lifetime_hours", given.lifetime_hours)
    return Rates(watts=watts, host_share=host_share, pue=pue, kg_per_kwh=grid, usd_per_hour=price,
                 embodied_kg_per_hour=embodied), used
