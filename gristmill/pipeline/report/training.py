"""Sections `training` and `prediction trace`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gristmill.core.files import read_json
from gristmill.pipeline.report.charts import Level, LineChart, Series, line_chart, smooth, sparkline
from gristmill.pipeline.report.formatting import count, duration, number, short_count
from gristmill.pipeline.report.overview import is_bits_per_byte
from gristmill.pipeline.report.run import Missing, Run, Stage
from gristmill.pipeline.report.speed_panels import speed_facts, speed_panels

HELD_OUT_LOSS = {"valid_loss": "held-out text", "answer_loss": "held-out answers", "preference_loss": "held-out pairs"}
SHARES = {
    "valid_accuracy": "Next-token accuracy",
    "answer_accuracy": "Accuracy on answers",
    "preference_accuracy": "Preferred answer ranked first",
}
BITS = ("valid_bits_per_byte", "general_bits_per_byte")
NOT_DRAWN = {"step", "tokens", "score", "prompts", "samples", *HELD_OUT_LOSS, *SHARES, *BITS}
MOST_ROWS = 12
"""Evaluations shown in the trace; of more, the first, the last and an even choice between."""


def training(run: Run) -> dict[str, Any]:
    """One entry a trained model: charts, plan."""
    models = [s for s in run.of_kind("model") if s.lines("trace.jsonl") or s.lines("evaluations.jsonl")]
    if not models:
        raise Missing("No model has been trained in this run yet.")
    levels = baselines(run.results())
    return {"models": [_model(stage, levels) for stage in models], "baselines": levels}


def baselines(results: dict[str, Any]) -> list[Level]:
    """What other ways reach in bits per byte, from the evaluation."""
    found: dict[str, Level] = {}
    for task in results.get("tasks") or []:
        if is_bits_per_byte(task):
            for baseline in task.get("baselines") or []:
                if isinstance(baseline.get("value"), (int, float)):
                    name = str(baseline.get("name"))
                    found.setdefault(
                        name, Level(f"{name} {baseline['value']:.2f}", baseline["value"], 3 + len(found) % 2)
                    )
    return list(found.values())


def _model(stage: Stage, levels: Sequence[Level]) -> dict[str, Any]:
    trace, evaluations = stage.lines("trace.jsonl"), stage.lines("evaluations.jsonl")
    speed = stage.lines("telemetry/speed.jsonl")
    plan = stage.json("plan.json") or {}
    second = _tokens_at(trace)
    large = [_loss(trace, evaluations, second), _bits(evaluations, levels, second)]
    shares = [(title, key) for key, title in SHARES.items() if any(key in e for e in evaluations)]
    if large[1] is None and shares:
        title, key = shares.pop(0)
        large[1] = line_chart(
            title, [Series("held out", *_column(evaluations, key), 2, "dots")], zero=True, second=second
        )
    small = [
        *(_single(title, evaluations, key, "dots", 2, zero=True) for title, key in shares),
        *(_single(key.replace("_", " ").capitalize(), evaluations, key, "dots", 2) for key in _others(evaluations)),
        *_experts(trace),
        _single("Learning rate", trace, "lr", "line", 4, zero=True),
        _single("Gradient norm", trace, "grad_norm", "line", 5, log_y=True, note="before clipping"),
        _single("Tokens per second", speed, "tokens_per_second", "line", 1, zero=True, note=_pace(speed)),
        *speed_panels(stage, speed),
    ]
    return {
        "stage": stage,
        "facts": [*_facts(stage, plan), *speed_facts(speed)],
        "large": [c for c in large if c],
        "small": [c for c in small if c],
        "derivations": plan.get("derivations") or [],
    }


def _facts(stage: Stage, plan: dict[str, Any]) -> list[tuple[str, str]]:
    metrics = stage.metrics
    facts = [
        ("parameters", count(plan.get("parameters") or metrics.get("parameters"))),
        ("steps", count(metrics.get("steps"))),
        ("tokens learned from", count(metrics.get("tokens"))),
    ]
    done = 1.0
    if metrics.get("stopped_early") and plan.get("steps"):
        # Growing updates are not all of one size.
        done = 0.0 if "batch_warmup" in plan.get("reading", {}) else metrics.get("steps", 0) / plan["steps"]
    if plan.get("epochs") and done:
        facts.append(("passes over the text", number(plan["epochs"] * done, 3)))
    if plan.get("replay_rows"):
        facts.append(("replayed text", f"{plan['replay_rows']} of {plan.get('batch')} rows"))
    for name, said in (("conversations", "conversations"), ("train_pairs", "pairs")):
        if metrics.get(name):
            facts.append((said, count(metrics[name])))
    if metrics.get("rejected"):
        facts.append(("rejected rows", count(metrics["rejected"])))
    if metrics.get("stopped_early"):
        facts.append(("stopped early", f"of {count(plan['steps'])} steps" if plan.get("steps") else "yes"))
    return [*((name, value) for name, value in facts if value != "–"), ("time", duration(stage.seconds))]


def _tokens_at(trace: Sequence[dict[str, Any]]) -> tuple[str, Callable[[float], str]] | None:
    """Tokens below the steps of an axis."""
    last = trace[-1] if trace else {}
    if not last.get("step") or not last.get("tokens"):
        return None
    return "tokens", lambda step: short_count(step * last["tokens"] / last["step"])


def _loss(trace: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]], second: Any) -> LineChart | None:
    steps, losses = _column(trace, "loss")
    series = [Series("each step", steps, losses, 1, "faint"), Series("training", steps, smooth(losses), 1)]
    for key, name in HELD_OUT_LOSS.items():
        series.append(Series(name, *_column(evaluations, key), 2, "dots"))
    return line_chart(
        "Loss", series, second=second, note="nats; the faint line is every step"
    )


def _bits(evaluations: Sequence[dict[str, Any]], levels: Sequence[Level], second: Any) -> LineChart | None:
    key = next((k for k in BITS if any(k in e for e in evaluations)), BITS[0])
    steps, values = _column(evaluations, key)
    if not values:
        return None
    name = "held-out text" if key == BITS[0] else "general text"
    near = [level for level in levels if level.value < max(values) * 1.5]
    wide = max(values) > 3 * min(values)
    return line_chart(
        "Bits per byte",
        [Series(name, steps, values, 2, "dots")],
        levels=near,
        second=second,
        log_y=wide,
        note=f"{name}, lower is better",
    )


def _single(
    title: str,
    rows: Sequence[dict[str, Any]],
    key: str,
    style: Any,
    tone: int,
    *,
    zero: bool = False,
    log_y: bool = False,
    note: str = "",
) -> LineChart | None:
    return line_chart(
        title, [Series(title.lower(), *_column(rows, key), tone, style)], small=True, zero=zero, log_y=log_y, note=note
    )


def _experts(trace: Sequence[dict[str, Any]]) -> list[LineChart | None]:
    """How even the loads of experts are, of a model that has them, and what found no room."""
    series = []
    for key, name, tone in (("router_max_load", "busiest", 2), ("router_min_load", "idlest", 4)):
        steps, values = _column(trace, key)
        series.append(Series(name, steps, smooth(values), tone))
    load = line_chart("Load of experts", series, levels=[Level("even", 1.0)], small=True, zero=True,
                      note="of the worst layer, over the even share")
    lost = _single("Dropped choices", trace, "router_dropped", "line", 5, zero=True, note="share, for lack of room")
    return [load, lost]


def _others(evaluations: Sequence[dict[str, Any]]) -> list[str]:
    """Further numbers of the evaluations, such as the reward margin, in the order in which they are written."""
    names = dict.fromkeys(
        k for e in evaluations for k, v in e.items() if isinstance(v, (int, float)) and k not in NOT_DRAWN
    )
    return list(names)[:4]


def _column(rows: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    found = [(r["step"], r[key]) for r in rows if isinstance(r.get(key), (int, float)) and "step" in r]
    return [a for a, _ in found], [b for _, b in found]


def _pace(speed: Sequence[dict[str, Any]]) -> str:
    values = sorted(_column(speed, "tokens_per_second")[1])
    return f"median {count(values[len(values) // 2])}" if values else ""


def trace(run: Run) -> dict[str, Any]:
    """One entry a model with a prediction trace: a grid of guesses for every prompt, and continuations."""
    models = []
    for stage in run.of_kind("model"):
        evaluations = [e for e in stage.lines("evaluations.jsonl") if e.get("prompts")]
        if evaluations:
            chosen = _evenly(evaluations, MOST_ROWS)
            prompts = [_prompt(i, chosen, evaluations) for i in range(len(evaluations[0]["prompts"]))]
            gaps = any(prompt["rest"] for prompt in prompts)
            models.append({"stage": stage, "prompts": prompts, "samples": _samples(chosen), "gaps": gaps})
    if not models:
        raise Missing("No model of this run wrote a prediction trace; pretraining does.")
    return {"models": models}


def _prompt(number_: int, chosen: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rows = []
    for evaluation in chosen:
        entry = evaluation["prompts"][number_]
        cells, found = [], False
        for text, probability in entry.get("top") or []:
            right = text == entry.get("true") and not found
            found = found or right
            cells.append({"text": text, "p": probability, "right": right})
        rows.append(
            {
                "step": evaluation.get("step"),
                "tokens": evaluation.get("tokens"),
                "cells": cells,
                "p": entry.get("true_probability"),
                "found": found,
            }
        )
    first, last = evaluations[0]["prompts"][number_], evaluations[-1]["prompts"][number_]
    history = [float(e["prompts"][number_].get("true_probability") or 0) for e in evaluations]
    return {
        "prompt": last.get("prompt", ""),
        "true": last.get("true", ""),
        "rest": last.get("rest", ""),
        "rows": rows,
        "spark": sparkline(history),
        "before": first.get("true_probability"),
        "after": last.get("true_probability"),
        "ranks": max(len(r["cells"]) for r in rows),
    }


def _samples(evaluations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """prompt -> what the model wrote at each evaluation."""
    found: dict[str, list[dict[str, Any]]] = {}
    for evaluation in evaluations:
        for sample in evaluation.get("samples") or []:
            found.setdefault(str(sample.get("prompt", "")), []).append(
                {"step": evaluation.get("step"), "text": sample.get("text", "")}
            )
    return [{"prompt": prompt, "rows": rows} for prompt, rows in found.items()]


def _evenly(items: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def compute(stage: Stage) -> dict[str, Any]:
    """What the training used: threads, precision, compilation; {} where it is not written down."""
    path = stage.path / "telemetry" / "compute.json" if stage.path is not None else None
    return read_json(path) if path is not None and path.is_file() else {}
