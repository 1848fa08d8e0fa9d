"""Section `predicted and actual`: what was known before the training, and what happened; unfinished runs as they stand.

A stage that pretrains writes plan.json before its first step, with the seconds of a step that it measured there. That
is the prediction; telemetry and the record are what happened. Of an unfinished stage the rest is predicted anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from gristmill.core.files import read_json, read_jsonl
from gristmill.pipeline.report.account import flops
from gristmill.pipeline.report.charts import LineChart, Series, line_chart
from gristmill.pipeline.report.formatting import count, duration, size
from gristmill.pipeline.report.run import Missing, Run, Stage

RECENT = 20
"""Steps from which the rest of an unfinished run is predicted."""


def predictions(run: Run) -> dict[str, Any]:
    """One entry a stage that was planned: rows of (what, predicted, actual, how far off), and a chart."""
    found = [entry for stage in run.stages if (entry := _stage(run, stage)) is not None]
    if not found:
        raise Missing("No stage of this run measured its steps before the first one; pretraining does so for a budget "
                      "in minutes, money or energy.")
    return {"stages": found}


def _stage(run: Run, stage: Stage) -> dict[str, Any] | None:
    folder = stage.path if stage.path is not None else run.folder / "work" / stage.name
    plan = _json(folder / "plan.json")
    step = (plan or {}).get("seconds_per_step") or (_json(folder / "telemetry" / "compute.json") or {}).get(
        "seconds_per_step")
    if not plan or not step or not plan.get("steps"):
        return None
    speed = [r for r in read_jsonl(folder / "telemetry" / "speed.jsonl") if isinstance(r, dict) and r.get("seconds")]
    if not speed:
        return None
    seconds = [float(r["seconds"]) for r in speed]
    steps, done = int(plan["steps"]), len(speed)
    finished = stage.path is not None
    spent = sum(seconds)
    # What is still to come takes as long as the last steps did.
    whole = spent if finished else spent + max(0, steps - done) * median(seconds[-RECENT:])
    rows = [_row("time of a step", step, median(seconds), _seconds),
            _row("time of all steps", step * steps, whole, duration),
            _row("steps", steps, stage.metrics.get("steps") if finished else None, count)]
    per_token = plan.get("flops_per_token")
    tokens = plan.get("tokens")
    if per_token and tokens:
        per_step = per_token * tokens / steps
        rows.append(_row("FLOPs a second", per_step / step, per_step / median(seconds), flops))
    if budget := (plan.get("budget") or {}).get("minutes"):
        rows.append(_row("time of the stage", budget * 60, stage.seconds if finished else None, duration))
    memory = [r["memory_mb"] for r in speed if r.get("memory_mb")]
    return {"stage": stage, "rows": rows, "finished": finished, "done": done, "steps": steps,
            "left": None if finished else duration(whole - spent), "memory": size(max(memory) * 1e6) if memory else "",
            "chart": _chart(step, steps, speed, whole, finished)}


def _row(name: str, predicted: float, actual: Any, show: Any) -> tuple[str, str, str, str]:
    if actual is None:
        return name, show(predicted), "–", ""
    off = f"{(actual / predicted - 1) * 100:+.1f} %".replace("-", "−") if predicted else ""
    return name, show(predicted), show(actual), off


def _chart(step: float, steps: int, speed: Sequence[dict[str, Any]], whole: float, finished: bool) -> LineChart | None:
    """Minutes over steps: as predicted, as it was, and as it will go on."""
    at, minutes, total = [0.0], [0.0], 0.0
    for number, record in enumerate(speed, 1):
        total += float(record["seconds"])
        at.append(float(number))
        minutes.append(total / 60)
    series = [Series("predicted", [0.0, float(steps)], [0.0, step * steps / 60], 3), Series("actual", at, minutes, 1)]
    if not finished:
        series.append(Series("still to come", [at[-1], float(steps)], [minutes[-1], whole / 60], 4))
    return line_chart("Time of the steps", series, note="minutes", zero=True)


def _seconds(value: float) -> str:
    return f"{value:.3g} s"


def _json(path: Path) -> dict[str, Any] | None:
    found = read_json(path) if path.is_file() else None
    return found if isinstance(found, dict) else None
