"""How a training went, beside what it learned: utilisation, waiting for data, power and energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gristmill.pipeline.report.charts import Level, LineChart, Series, line_chart, smooth
from gristmill.pipeline.report.formatting import number, percent
from gristmill.pipeline.report.run import Stage

IDLE, BUBBLE = "pipeline_idle", "pipeline_bubble"
"""Names of the share of an update in which stages of a pipeline waited, and of what it has to be by the schedule."""
ESTIMATED = "_estimated"
"""End of the names of numbers that no meter counted."""


def speed_panels(stage: Stage, speed: Sequence[dict[str, Any]]) -> list[LineChart | None]:
    """Small charts; None where nothing was measured."""
    meters = stage.json("telemetry/meters.json") or {}
    power = f"watts{ESTIMATED}" if not any("watts" in row for row in speed) else "watts"
    return [
        _panel("Utilisation", speed, "mfu", 2, f"share of {_peak(meters)}", scale=100.0, unit="%"),
        _panel("Waiting for data", speed, "data_wait", 4, "share of a step", scale=100.0, unit="%"),
        _panel("Watts", speed, power, 5, "estimated, not measured" if power.endswith(ESTIMATED) else
               f"measured ({meters.get('power') or 'a counter'})"),
        *_stages(speed),
    ]


def speed_facts(speed: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Median utilisation, and the energy of the steps."""
    facts = []
    shares = sorted(_values(speed, "mfu"))
    if shares:
        facts.append(("utilisation (MFU)", percent(shares[len(shares) // 2])))
    for key, said in (("joules", "measured"), (f"joules{ESTIMATED}", "estimated")):
        joules = _values(speed, key)
        if joules:
            facts.append((f"energy of its steps, {said}", energy(sum(joules))))
    idle, bubble = (sorted(_values(speed, key)) for key in (IDLE, BUBBLE))
    if idle and bubble:
        waited, planned = (percent(shares[len(shares) // 2]) for shares in (idle, bubble))
        facts.append(("stages waited", f"{waited} of an update, by the schedule {planned}"))
    return facts


def measured_watts(speed: Sequence[dict[str, Any]]) -> float | None:
    """Mean power over the steps whose energy a meter counted, None where none did."""
    counted = [(row["joules"], row["seconds"]) for row in speed
               if isinstance(row.get("joules"), (int, float)) and isinstance(row.get("seconds"), (int, float))]
    seconds = sum(second for _, second in counted)
    return sum(joule for joule, _ in counted) / seconds if seconds > 0 else None


def energy(joules: float) -> str:
    """3.2 Wh, 1.25 kWh."""
    hours = joules / 3600
    return f"{number(hours / 1000, 3)} kWh" if hours >= 1000 else f"{number(hours, 3)} Wh"


def _peak(meters: dict[str, Any]) -> str:
    peak = meters.get("peak") or {}
    if not isinstance(peak.get("flops"), (int, float)):
        return "the peak"
    rate = number(peak["flops"] / 1e12, 3)
    return f"{rate} TFLOP/s, {'measured here' if peak.get('kind') == 'measured' else 'by the data sheet'}"


def _stages(speed: Sequence[dict[str, Any]]) -> list[LineChart | None]:
    """How much each stage of a pipeline waited; nothing for a run without one."""
    names = sorted({name for row in speed for name in row if name.startswith(f"{IDLE}_")}, key=lambda n: (len(n), n))
    if not names:
        return []
    series = [_series(f"stage {place}", speed, name, 1 + place % 5, 100.0) for place, name in enumerate(names)]
    bubbles = dict.fromkeys(_values(speed, BUBBLE))
    levels = [Level(f"by the schedule {percent(share)}", 100 * share) for share in bubbles]
    return [line_chart("Waiting for other stages, %", series, small=True, zero=True, levels=levels,
                       note="share of an update")]


def _panel(title: str, rows: Sequence[dict[str, Any]], key: str, tone: int, note: str, scale: float = 1.0,
           unit: str = "") -> LineChart | None:
    name = f"{title}, {unit}" if unit else title
    return line_chart(name, [_series(title.lower(), rows, key, tone, scale)], small=True, zero=True, note=note)


def _series(name: str, rows: Sequence[dict[str, Any]], key: str, tone: int, scale: float) -> Series:
    found = [(row["step"], row[key] * scale) for row in rows
             if isinstance(row.get(key), (int, float)) and "step" in row]
    return Series(name, [step for step, _ in found], smooth([value for _, value in found]), tone)


def _values(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [row[key] for row in rows if isinstance(row.get(key), (int, float))]
