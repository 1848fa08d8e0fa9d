"""Small histograms of the signals of a corpus, with the thresholds that were set drawn in."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gristmill.pipeline.report.formatting import short_count

WIDTH, HEIGHT = 240.0, 64.0


@dataclass(frozen=True)
class Block:
    """A bin: where it stands, and how high its kept and dropped documents reach, in the panel's units."""

    x: float
    width: float
    kept: float
    dropped: float
    tip: str


@dataclass(frozen=True)
class Panel:
    """One signal."""

    name: str
    label: str
    low: str
    high: str
    blocks: list[Block]
    thresholds: list[tuple[float, str]]
    """Place and meaning."""


def signal_panels(signals: dict[str, Any]) -> dict[str, list[Panel]]:
    """{judged, others}: the panels of signals that a rule asks for, and of those that none does."""
    panels = {name: panel for name, entry in signals.items() if (panel := _panel(name, entry))}
    return {
        "judged": [panel for panel in panels.values() if panel.thresholds],
        "others": [panel for panel in panels.values() if not panel.thresholds],
    }


def _panel(name: str, entry: dict[str, Any]) -> Panel | None:
    edges, kept, dropped = entry.get("edges") or [], entry.get("kept") or [], entry.get("dropped") or []
    bins = len(edges) - 1
    if bins < 1 or len(kept) != bins or len(dropped) != bins or not sum(kept) + sum(dropped):
        return None
    top, width = max(a + b for a, b in zip(kept, dropped, strict=True)), WIDTH / bins
    blocks = [
        Block(round(i * width, 2), round(width, 2), _height(a, top), _height(b, top),
              f"{short_count(edges[i])} to {short_count(edges[i + 1])}: {a:,} kept, {b:,} dropped")
        for i, (a, b) in enumerate(zip(kept, dropped, strict=True)) if a + b
    ]
    thresholds = [
        (round(WIDTH * _place(edges, bound), 2), f"{rule['rule']}: {said} {short_count(bound)}")
        for rule in entry.get("rules") or []
        for bound, said in ((rule.get("low"), "at least"), (rule.get("high"), "at most")) if bound is not None
    ]
    label = f"{name}: {sum(kept):,} kept and {sum(dropped):,} dropped documents"
    if thresholds:
        label += "; " + ", ".join(meaning for _, meaning in thresholds)
    return Panel(name, label, short_count(edges[0]), short_count(edges[-1]), blocks, thresholds)


def _height(documents: int, top: int) -> float:
    """Even one document among many can be seen."""
    return round(max(HEIGHT * documents / top, 1.0 if documents else 0.0), 2)


def _place(edges: Sequence[float], value: float) -> float:
    """Where a value lies between the first edge (0) and the last (1); bins are equally wide on paper."""
    if value <= edges[0]:
        return 0.0
    if value >= edges[-1]:
        return 1.0
    i = bisect_right(edges, value) - 1
    return (i + (value - edges[i]) / (edges[i + 1] - edges[i])) / (len(edges) - 1)
