"""From device hours to money, energy and carbon, each as low, expected, high.

energy = device hours x watts x (1 + host share) x PUE; carbon = energy x grid intensity
(Patterson et al. 2021, arXiv:2104.10350, eq. 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gristmill.planning.interval import Interval


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What an hour of a device costs."""

    watts: Interval
    """Of the device itself, on average."""
    host_share: Interval
    """What the host adds, as a share of the devices' energy."""
    pue: Interval
    """Energy of the building over energy of its computers."""
    kg_per_kwh: Interval
    usd_per_hour: Interval | None
    """None: nobody said."""
    embodied_kg_per_hour: Interval | None = None
    """Making the device and its part of the host, spread over their life."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """What some device hours cost."""

    device_hours: Interval
    cost_usd: Interval | None
    energy_kwh: Interval
    co2e_kg: Interval
    """Of the electricity."""
    embodied_kg: Interval | None

    def times(self, factor: Interval | float) -> Account:
        """The same work done several times."""
        return Account(
            device_hours=self.device_hours * factor, energy_kwh=self.energy_kwh * factor,
            cost_usd=None if self.cost_usd is None else self.cost_usd * factor, co2e_kg=self.co2e_kg * factor,
            embodied_kg=None if self.embodied_kg is None else self.embodied_kg * factor)

    def as_json(self) -> dict[str, Any]:
        return {name: None if (value := getattr(self, name)) is None else value.as_json()
                for name in ("device_hours", "cost_usd", "energy_kwh", "co2e_kg", "embodied_kg")}


def account(device_hours: Interval, rates: Rates) -> Account:
    """Money, energy and carbon of so many device hours."""
    energy = device_hours * rates.watts * (1.0 + rates.host_share) * rates.pue * 1e-3
    return Account(
        device_hours=device_hours, energy_kwh=energy, co2e_kg=energy * rates.kg_per_kwh,
        cost_usd=None if rates.usd_per_hour is None else device_hours * rates.usd_per_hour,
        embodied_kg=None if rates.embodied_kg_per_hour is None else device_hours * rates.embodied_kg_per_hour)
