"""Geometry of the report's charts; `charts.html.jinja` draws it.

The drawing area is an SVG that stretches with the page, everything with letters is HTML placed in percent of it: the
text stays crisp and equally large at every width, and the page is complete without a script (which only adds hover).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gristmill.pipeline.report.formatting import number, short_count, short_counts

WIDTH, HEIGHT = 1000.0, 400.0
POINTS = 240
"""Points of a drawn line; longer series are averaged over equal stretches."""


@dataclass(frozen=True)
class Series:
    """Values over x. style: line, faint (a thin line behind others, not in the legend), dots (few points, marked and
    joined), or marks (points alone)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    tone: int = 1
    style: Literal["line", "faint", "dots", "marks"] = "line"


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare with."""

    name: str
    value: float
    tone: int = 3


@dataclass(frozen=True)
class PlacedLevel:
    """Where a level's line and its name are, in percent; names keep a distance from each other."""

    at: float
    name_at: float
    level: Level


@dataclass(frozen=True)
class Tick:
    """A label at `at` percent of an axis."""

    at: float
    text: str
    second: str = ""


@dataclass(frozen=True)
class Path:
    d: str
    tone: int
    style: str


@dataclass(frozen=True)
class LineChart:
    """A chart ready to be drawn; percentages run from the left and from the bottom."""

    title: str
    note: str
    label: str
    x_name: str
    paths: list[Path]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    levels: list[PlacedLevel]
    legend: list[Series]
    data: str
    small: bool = False
    second_name: str = ""


@dataclass(frozen=True)
class Scale:
    """Values to percent, straight or logarithmic."""

    low: float
    high: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (
            (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return 100 * (at - low) / (high - low)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    note: str = "",
    levels: Sequence[Level] = (),
    x_name: str = "step",
    log_x: bool = False,
    log_y: bool = False,
    zero: bool = False,
    small: bool = False,
    second: tuple[str, Callable[[float], str]] | None = None,
) -> LineChart | None:
    """A line chart, or None where nothing can be drawn.

    second: name and text of a second label under each tick of x. zero: the y axis starts at 0.
    """
    drawn = [s for s in (_clean(s, log_x, log_y) for s in series) if len(s.x)]
    if not drawn:
        return None
    values = [y for s in drawn for y in s.y] + [level.value for level in levels]
    across = [x for s in drawn for x in s.x]
    x = _scale(min(across), max(across), log_x, margin=0.0)
    y = _scale(0.0 if zero else min(values), max(values), log_y, margin=0.06, floor=zero)
    paths = []
    for s in drawn:
        points = [(x(a) * WIDTH / 100, HEIGHT - y(b) * HEIGHT / 100) for a, b in zip(s.x, s.y, strict=True)]
        if s.style != "marks":
            paths.append(Path("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points), s.tone, s.style))
        if s.style in ("dots", "marks"):
            # A line of no length with round ends is a dot that keeps its shape however the drawing is stretched.
            paths.append(Path("".join(f"M{a:.1f} {b:.1f}h0" for a, b in points), s.tone, "points"))
    whole = all(a == int(a) for s in drawn for a in s.x)  # there is no step 2.5
    along = [t for t in ticks(x, 4 if small else 5) if t == int(t) or not whole]
    x_ticks = [
        Tick(round(x(t), 3), text, second[1](t) if second else "")
        for t, text in zip(along, short_counts(along), strict=True)
    ]
    up = ticks(y, 3 if small else 5)
    y_ticks = [Tick(round(y(t), 3), text) for t, text in zip(up, short_counts(up), strict=True)]
    main = next((s for s in drawn if s.style != "faint"), drawn[0])
    label = (
        f"{title}: {main.name} goes from {number(main.y[0])} to {number(main.y[-1])}, "
        f"{x_name} {short_count(main.x[0])} to {short_count(main.x[-1])}"
    )
    label += "".join(f"; {level.name} {number(level.value)}" for level in levels)
    data = {
        "x": x_name,
        "range": [x.low, x.high, y.low, y.high],
        "log": [log_x, log_y],
        "series": [
            {"name": s.name, "tone": s.tone, "points": [[_round(a), _round(b)] for a, b in zip(s.x, s.y, strict=True)]}
            for s in drawn
            if s.style != "faint"
        ],
    }
    legend = [s for s in drawn if s.style != "faint"] if len(drawn) > 1 else []
    placed = place_levels(levels, y)
    return LineChart(
        title,
        note,
        label,
        x_name,
        paths,
        x_ticks,
        y_ticks,
        placed,
        legend,
        json.dumps(data, separators=(",", ":")),
        small,
        second[0] if second else "",
    )


def place_levels(levels: Sequence[Level], scale: Scale, distance: float = 8.0) -> list[PlacedLevel]:
    """Levels from the bottom up, their names moved upwards where they would touch."""
    placed: list[PlacedLevel] = []
    for level in sorted(levels, key=lambda level: level.value):
        at = round(scale(level.value), 3)
        placed.append(PlacedLevel(at, round(max(at, placed[-1].name_at + distance), 3) if placed else at, level))
    return placed


def _clean(series: Series, log_x: bool, log_y: bool) -> Series:
    pairs = [
        (float(a), float(b))
        for a, b in zip(series.x, series.y, strict=True)
        if _finite(a) and _finite(b) and (a > 0 or not log_x) and (b > 0 or not log_y)
    ]
    if len(pairs) > POINTS and series.style != "dots":
        pairs = average(pairs, POINTS)
    return Series(series.name, [a for a, _ in pairs], [b for _, b in pairs], series.tone, series.style)


def average(pairs: Sequence[tuple[float, float]], points: int) -> list[tuple[float, float]]:
    """Means over `points` equal stretches."""
    edges = [round(i * len(pairs) / points) for i in range(points + 1)]
    return [
        (sum(a for a, _ in part) / len(part), sum(b for _, b in part) / len(part))
        for part in (pairs[i:j] for i, j in itertools.pairwise(edges))
        if part
    ]


def smooth(values: Sequence[float]) -> list[float]:
    """A centred mean over about a thirtieth of the series, narrower at its ends; what is no number is skipped."""
    half = len(values) // 60
    sums, counts = [0.0], [0]
    for value in values:
        good = _finite(value)
        sums.append(sums[-1] + (value if good else 0.0))
        counts.append(counts[-1] + good)
    result = []
    for i in range(len(values)):
        reach = min(half, i, len(values) - 1 - i)
        n = counts[i + reach + 1] - counts[i - reach]
        result.append((sums[i + reach + 1] - sums[i - reach]) / n if n else math.nan)
    return result


def _scale(low: float, high: float, log: bool, margin: float, floor: bool = False) -> Scale:
    if log:
        if high <= low:
            low, high = low / 1.5, high * 1.5
        room = (high / low) ** margin
        return Scale(low / room, high * room, True)
    if high <= low:
        spread_ = abs(high) * 0.1 or 1.0
        low, high = (low if floor else low - spread_), high + spread_
    room = (high - low) * margin
    return Scale(low if floor else low - room, high + room)


def ticks(scale: Scale, wanted: int) -> list[float]:
    """Round numbers within a scale, about as many as wanted."""
    if scale.log and scale.high / scale.low >= 8:
        decades = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            found = [m * 10.0**d for d in decades for m in steps if scale.low <= m * 10.0**d <= scale.high]
            if len(found) <= wanted + 1:
                return found
        return found[:: -(-len(found) // wanted)]
    raw = (scale.high - scale.low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(scale.low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(scale.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Bar:
    """One column; `height` in percent of the tallest."""

    label: str
    height: float
    tip: str


@dataclass(frozen=True)
class Histogram:
    """Columns over bins; `ends` closes the axis."""

    title: str
    note: str
    label: str
    x_name: str
    bars: list[Bar]


def histogram(
    title: str, edges: Sequence[float], counts: Sequence[int], *, x_name: str, unit: str, note: str = ""
) -> Histogram | None:
    """Counts in bins whose lower edges are `edges`; the last bin is open. Empty bins at the ends are left out."""
    n = min(len(edges), len(counts))
    filled = [i for i in range(n) if counts[i]]
    if not filled:
        return None
    first, last = filled[0], filled[-1]
    top, total = max(counts[:n]), sum(counts[:n])
    bars = []
    for i in range(first, last + 1):
        upper = f"to {short_count(edges[i + 1])}" if i + 1 < len(edges) else "and more"
        bars.append(
            Bar(
                short_count(edges[i]),
                round(100 * counts[i] / top, 2),
                f"{short_count(edges[i])} {upper} {x_name}: {counts[i]:,} {unit} ({100 * counts[i] / total:.1f} %)",
            )
        )
    peak = max(range(n), key=lambda i: counts[i])
    label = f"{title}: {total:,} {unit}, most of them from {short_count(edges[peak])} {x_name}"
    return Histogram(title, note, label, x_name, bars)


@dataclass(frozen=True)
class Whisker:
    """A value with its interval, in percent of the axis; `hollow` for baselines."""

    name: str
    at: float
    low: float
    high: float
    text: str
    interval: str
    note: str = ""
    hollow: bool = False
    tone: int = 1
    tag: str = ""


@dataclass(frozen=True)
class Whiskers:
    label: str
    rows: list[Whisker]
    ticks: list[Tick]


def whiskers(
    label: str,
    rows: Sequence[dict[str, Any]],
    show: Callable[[Any], str] = number,
    show_tick: Callable[[Any], str] = short_count,
) -> Whiskers | None:
    """Dots with intervals on one axis. rows: {name, value, low, high, note, hollow, tone, tag}."""
    rows = [r for r in rows if _finite(r.get("value"))]
    if not rows:
        return None
    ends = [
        (r["low"] if _finite(r.get("low")) else r["value"], r["high"] if _finite(r.get("high")) else r["value"])
        for r in rows
    ]
    scale = _scale(min(low for low, _ in ends), max(high for _, high in ends), False, margin=0.08)
    made = []
    for row, (low, high) in zip(rows, ends, strict=True):
        interval = f"{show(low)} to {show(high)}" if high > low else ""
        made.append(
            Whisker(
                str(row["name"]),
                round(scale(row["value"]), 3),
                round(scale(low), 3),
                round(scale(high), 3),
                show(row["value"]),
                interval,
                str(row.get("note") or ""),
                bool(row.get("hollow")),
                int(row.get("tone", 1)),
                str(row.get("tag") or ""),
            )
        )
    text = f"{label}: " + "; ".join(f"{w.name} {w.text}" for w in made)
    return Whiskers(text, made, [Tick(round(scale(t), 3), show_tick(t)) for t in ticks(scale, 4)])


def bins(values: Any, edges: Sequence[float]) -> list[int]:
    """How many values (n,) lie in each bin; the last one is open."""
    import numpy as np

    places = np.searchsorted(np.asarray(edges), np.asarray(values), side="right") - 1
    return [int(c) for c in np.bincount(places[places >= 0], minlength=len(edges))]


def sparkline(values: Sequence[float]) -> str:
    """The path of a small line in a box of 100 by 24; probabilities fill it from 0 to 1."""
    step = 100 / max(len(values) - 1, 1)
    return "M" + "L".join(f"{i * step:.1f} {23 - 22 * min(max(v, 0.0), 1.0):.1f}" for i, v in enumerate(values))


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _round(value: float) -> float:
    rounded = float(f"{value:.5g}")
    return int(rounded) if rounded == int(rounded) else rounded
