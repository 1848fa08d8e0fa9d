"""How the documents lie on every signal, beside the thresholds that were set: for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gristmill.data.decide import Rule
from gristmill.data.selection import PHASES, Selection

BINS = 32
SAMPLED = 50_000
"""Values of a signal from which its range is taken; all are counted."""


def signal_histograms(selection: Selection, names: Sequence[str], rules: Sequence[Rule]) -> dict[str, Any]:
    """{signal: {edges, kept, dropped, rules}}: how many documents lie in each bin, those that the filter kept and
    those that it dropped; what lies beyond the outermost edges counts into the outermost bins.

    The edges run from the 0.5th to the 99.5th percentile, and far enough to show every threshold; evenly, or by equal
    factors where the values spread over more than two powers of ten. Signals that nobody was measured by are left out.
    """
    dropped = selection.phase == PHASES.index("filter")
    counted = selection.phase != PHASES.index("sample")
    found: dict[str, Any] = {}
    edges: dict[str, np.ndarray] = {}
    bounds = {name: [rule for rule in rules if rule.signal == name] for name in names}
    step = max(1, selection.count // SAMPLED)
    sample = {name: [np.empty(0)] for name in names}
    for start, table in selection.tables(names):
        places = np.arange(-start % step, len(table), step)
        for name in names:
            sample[name].append(table[name].to_numpy()[places])
    for name in names:
        values = np.concatenate(sample[name])
        values = values[np.isfinite(values)]
        if len(values):
            edges[name] = _edges(values, bounds[name])
    for start, table in selection.tables(list(edges)):
        here = slice(start, start + len(table))
        for name, cuts in edges.items():
            values = table[name].to_numpy()
            there = np.isfinite(values) & counted[here]
            places = np.clip(np.searchsorted(cuts, values[there], side="right") - 1, 0, len(cuts) - 2)
            entry = found.setdefault(name, {
                "edges": [float(f"{cut:.6g}") for cut in cuts], "kept": np.zeros(len(cuts) - 1, np.int64),
                "dropped": np.zeros(len(cuts) - 1, np.int64), "rules": [_threshold(rule) for rule in bounds[name]],
            })
            gone = dropped[here][there]
            entry["kept"] += np.bincount(places[~gone], minlength=len(cuts) - 1)
            entry["dropped"] += np.bincount(places[gone], minlength=len(cuts) - 1)
    return {name: {**entry, "kept": entry["kept"].tolist(), "dropped": entry["dropped"].tolist()}
            for name, entry in found.items()}


def _edges(values: np.ndarray, rules: Sequence[Rule]) -> np.ndarray:
    low, high = (float(np.quantile(values, q)) for q in (0.005, 0.995))
    thresholds = [bound for rule in rules for bound in (rule.low, rule.high) if bound is not None]
    low, high = min([low, *thresholds]), max([high, *thresholds])
    if high <= low:
        return np.array([low, low + (abs(low) or 1.0)])
    smallest = values[values > 0].min(initial=high)
    if low >= 0 and high > 100 * max(low, float(np.quantile(values, 0.25)), smallest):
        start = max(low, smallest, high * 1e-6)
        return np.concatenate(([low] if low < start else [], np.geomspace(start, high, BINS + 1)))
    return np.linspace(low, high, BINS + 1)


def _threshold(rule: Rule) -> Mapping[str, Any]:
    return {"rule": rule.name, "low": rule.low, "high": rule.high}
