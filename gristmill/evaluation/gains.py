"""What each training stage gained on its own metric, said plainly, also where it gained nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gristmill.core.artifact import Artifact
from gristmill.evaluation.tasks.base import Setting, predecessor

ALPHA = 0.05
CLEARLY = 0.05
"""Bits per byte by which a model has to beat the 5-gram to beat it clearly, besides an interval without 0."""

OWN_METRICS: dict[str, tuple[tuple[str, str], ...]] = {
    "pretrain": (("perplexity", "bits per byte"),),
    "finetune": (("docstring", "bits per byte of the answer"), ("perplexity", "bits per byte")),
    "align": (("python_functions", "parses and does something"),),
    "other": (("perplexity", "bits per byte"),),
}
"""Kind of stage -> (task, metric), the first that was evaluated counts."""


def stage_of(model: Artifact) -> str:
    """The kind of stage that made a model."""
    made_by = model.record.get("uses")
    return made_by if made_by in OWN_METRICS else "other"


def gains(tables: Sequence[Mapping[str, Any]], setting: Setting) -> list[dict[str, Any]]:
    """One entry a model: {"stage", "model", "against", "metric", "before", "after", "p_value", "improved", "text"}.

    A pretrained model is held against the 5-gram model (else xz), a later one against the model it was made from.
    improved: the difference is in the right direction with p < 0.05; after preference optimisation also among answers
    of like length. Models whose metric was not evaluated are left out.
    """
    found = []
    for subject in setting.subjects:
        stage = stage_of(subject.artifact)
        before = predecessor(subject.name, setting) if stage != "pretrain" else None
        for task, metric in OWN_METRICS[stage]:
            table = next((t for t in tables if (t["task"], t["metric"]) == (task, metric)), None)
            if table is None:
                continue
            rivals = [before] if before else ["5-gram", "xz"]
            compared = next((c for rival in rivals for c in table["comparisons"]
                             if (c["from"], c["to"]) == (rival, subject.name)), None)
            if compared:
                found.append(_gain(stage, table, compared))
                break
    return found


def _gain(stage: str, table: Mapping[str, Any], compared: Mapping[str, Any]) -> dict[str, Any]:
    values = {r["model"]: r["value"] for r in table["rows"]} | {b["name"]: b["value"] for b in table["baselines"]}
    sign = -1 if table["better"] == "lower" else 1
    improved = sign * compared["difference"] > 0 and compared["p_value"] < ALPHA
    entry: dict[str, Any] = {
        "stage": stage, "model": compared["to"], "against": compared["from"], "task": table["task"],
        "metric": table["metric"], "unit": table["unit"], "before": values[compared["from"]],
        "after": values[compared["to"]], "difference": compared["difference"], "low": compared["low"],
        "high": compared["high"], "p_value": compared["p_value"],
    }
    remarks = []
    if compared["from"] == "5-gram":
        entry["clearly"] = improved and compared["difference"] <= -CLEARLY and compared["high"] < 0
        if improved:
            remarks.append("clearly" if entry["clearly"] else f"by less than the {CLEARLY} that we call clear")
    if stage == "align" and "matched_length" in compared:
        matched = compared["matched_length"]
        entry["matched_length"] = matched
        holds = sign * matched["difference"] > 0 and matched["p_value"] < ALPHA
        remarks.append(f"among answers of like length {shown(matched['difference'], table['unit'], signed=True)}, "
                       f"p = {matched['p_value']:.2g}")
        if improved and not holds:
            remarks.append("so the gain does not hold at matched length")
        improved = improved and holds
    smallest = 2.0 ** (1 - compared["n"])
    if not improved and compared["p_value"] <= smallest and smallest >= ALPHA:
        remarks.append(f"{compared['n']} documents allow no smaller p: evaluate on more text (max_bytes)")
    return {**entry, "improved": bool(improved), "text": sentence(entry, improved, remarks)}


def sentence(entry: Mapping[str, Any], improved: bool, remarks: Sequence[str] = ()) -> str:
    """The entry for a person."""
    unit = entry["unit"]
    verdict = "is better than" if improved else "is NOT shown to be better than"
    tail = f"; {'; '.join(remarks)}" if remarks else ""
    return (f"{entry['model']} {verdict} {entry['against']}: {entry['metric']} {shown(entry['before'], unit)} -> "
            f"{shown(entry['after'], unit)} ({shown(entry['difference'], unit, signed=True)}, 95 % interval "
            f"{shown(entry['low'], unit, signed=True)} to {shown(entry['high'], unit, signed=True)}, "
            f"p = {entry['p_value']:.2g}){tail}")


def shown(value: float, unit: str, *, signed: bool = False) -> str:
    """A number in its unit: shares as per cent, bits with three places."""
    plus = "+" if signed else ""
    if unit == "share":
        return f"{100 * value:{plus}.1f} %" if not signed else f"{100 * value:+.1f} points"
    return f"{value:{plus}.1f}" if unit == "tokens" else f"{value:{plus}.3f}"
