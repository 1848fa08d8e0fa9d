"""A number that is not known exactly: low, expected, high."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Interval:
    """low <= expected <= high, all finite and not negative; arithmetic takes the worst and the best corner."""

    low: float
    expected: float
    high: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) for v in (self.low, self.expected, self.high)):
            raise ValueError(f"interval: {self.low}, {self.expected}, {self.high} are not all finite")
        if not 0 <= self.low <= self.expected <= self.high:
            raise ValueError(f"interval: 0 <= {self.low} <= {self.expected} <= {self.high} does not hold")

    @classmethod
    def of(cls, value: Interval | Mapping[str, float] | float) -> Interval:
        """An interval from itself, from {"low", "expected", "high"}, or from one certain number."""
        if isinstance(value, Interval):
            return value
        if isinstance(value, Mapping):
            return cls(float(value["low"]), float(value["expected"]), float(value["high"]))
        return cls(float(value), float(value), float(value))

    @property
    def certain(self) -> bool:
        """Whether low and high are the same."""
        return self.low == self.high

    def __mul__(self, other: Interval | float) -> Interval:
        by = Interval.of(other)
        return Interval(self.low * by.low, self.expected * by.expected, self.high * by.high)

    __rmul__ = __mul__

    def __add__(self, other: Interval | float) -> Interval:
        by = Interval.of(other)
        return Interval(self.low + by.low, self.expected + by.expected, self.high + by.high)

    __radd__ = __add__

    def __truediv__(self, other: Interval | float) -> Interval:
        by = Interval.of(other)
        return Interval(self.low / by.high, self.expected / by.expected, self.high / by.low)

    def __rtruediv__(self, other: float) -> Interval:
        return Interval.of(other) / self

    def as_json(self) -> dict[str, Any]:
        return {"low": self.low, "expected": self.expected, "high": self.high}
