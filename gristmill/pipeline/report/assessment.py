"""Sections `fine-tuning and preferences`, `evaluation` and `samples`."""

from __future__ import annotations

from typing import Any

from gristmill.pipeline.report.charts import whiskers
from gristmill.pipeline.report.formatting import (
    clip,
    count,
    exact_percent,
    number,
    percent,
    short_count,
    short_name,
    signed,
    tick_percent,
)
from gristmill.pipeline.report.run import Missing, Run, Stage

PAIRS, TEXT, SAMPLES = 3, 900, 8


def adaptation(run: Run) -> dict[str, Any]:
    """One entry a model that was fine-tuned or aligned: what it was taught, and what was left out."""
    models = []
    for stage in run.of_kind("model"):
        preferences, rejects = stage.json("preferences.json"), stage.json("rejects.json")
        if preferences or rejects is not None or stage.kind in ("finetune", "align"):
            models.append(_adapted(stage, preferences or {}, rejects or {}))
    if not models:
        raise Missing("No model was fine-tuned or aligned in this run.")
    return {"models": models}


def _adapted(stage: Stage, preferences: dict[str, Any], rejects: dict[str, Any]) -> dict[str, Any]:
    counts = preferences.get("counts") or (stage.metrics if "answers" in stage.metrics else {})
    metrics, facts = stage.metrics, []
    if counts:
        answers = counts.get("answers") or 0
        facts = [
            ("answers sampled", count(answers)),
            ("of them good", percent((counts.get("parse") or 0) / max(answers, 1))),
            ("good but trivial", percent((counts.get("trivial") or 0) / max(answers, 1))),
            ("pairs to learn from", count(counts.get("train_pairs"))),
            ("pairs held out", count(counts.get("valid_pairs"))),
        ]
    elif metrics.get("conversations"):
        facts = [("conversations", count(metrics["conversations"])), ("rejected", count(metrics.get("rejected")))]
    pairs = [
        {name: clip(str(pair.get(name, "")).strip("\n"), TEXT) for name in ("prompt", "chosen", "rejected")}
        for pair in [*(preferences.get("valid") or []), *(preferences.get("train") or [])][:PAIRS]
    ]
    reasons = sorted((rejects.get("counts") or {}).items(), key=lambda item: -item[1])
    return {
        "stage": stage,
        "facts": facts,
        "pairs": pairs,
        "reasons": reasons,
        "examples": [{**e, "row": clip(e.get("row", ""), 200)} for e in (rejects.get("examples") or [])[:3]],
    }


def evaluation(run: Run) -> dict[str, Any]:
    """Tasks with intervals, baselines and comparisons; forgetting."""
    results = run.results()
    if not results.get("tasks"):
        raise Missing("No evaluation has finished in this run yet.")
    tasks: dict[str, list[dict[str, Any]]] = {}
    for table in results["tasks"]:
        tasks.setdefault(str(table.get("task")), []).append(_table(table))
    return {"tasks": tasks, "forgetting": _forgetting(results.get("forgetting") or [])}


def _table(table: dict[str, Any]) -> dict[str, Any]:
    share = str(table.get("unit", "")).lower() == "share"
    show = exact_percent if share else number
    rows = [
        {**row, "name": short_name(row.get("model")), "tone": i % 5 + 1}
        for i, row in enumerate(table.get("rows") or [])
    ]
    rows += [{**b, "hollow": True, "tag": "baseline"} for b in table.get("baselines") or []]
    about = [
        "" if share else str(table.get("unit") or ""),
        _direction(table.get("better")),
        f"{count(table['n'])} {table.get('n_unit') or 'items'}" if table.get("n") is not None else "",
        f"split {table['split']}" if table.get("split") else "",
    ]
    return {
        "metric": table.get("metric"),
        "about": ", ".join(part for part in about if part),
        "notes": table.get("notes") or [],
        "points": share,
        "chart": whiskers(
            f"{table.get('task')}, {table.get('metric')}", rows, show, tick_percent if share else short_count
        ),
        "comparisons": [
            {
                "from": short_name(c.get("from")),
                "to": short_name(c.get("to")),
                "verdict": _verdict(table, c),
                "p_value": c.get("p_value"),
                "test": c.get("test") or "",
                **{k: _difference(c.get(k), share) for k in ("difference", "low", "high")},
            }
            for c in table.get("comparisons") or []
        ],
    }


def _direction(better: Any) -> str:
    return f"{better} is better" if better in ("lower", "higher") else ""


def _difference(value: Any, share: bool) -> str:
    """A difference of shares is in percentage points."""
    if share and isinstance(value, (int, float)):
        return signed(value * 100, 1)
    return signed(value)


def _forgetting(entries: list[Any]) -> dict[str, Any] | None:
    """Differences on general text with their intervals, and what they say in a sentence."""
    entries = [e for e in entries if isinstance(e, dict)]
    rows = [
        {
            "name": short_name(e.get("model")),
            "value": e.get("difference"),
            "low": e.get("low"),
            "high": e.get("high"),
            "tone": i % 5 + 2,
        }
        for i, e in enumerate(entries)
    ]
    if not rows:
        return None
    first = entries[0]
    against = short_name(first.get("against") or "the first model")
    about = f"{first.get('metric') or 'loss'} on general text minus that of {against}"
    zero = {"name": short_name(first.get("against") or "no change"), "value": 0.0, "hollow": True, "tag": "zero"}
    return {
        "chart": whiskers("Forgetting", [zero, *rows], signed, _signed_tick),
        "about": about,
        "texts": [str(e["text"]) for e in entries if e.get("text")],
    }


def _signed_tick(value: float) -> str:
    return f"+{short_count(value)}" if value > 0 else short_count(value).replace("-", "−")


def _verdict(table: dict[str, Any], comparison: dict[str, Any]) -> str:
    """In a word what a comparison says."""
    difference, p = comparison.get("difference"), comparison.get("p_value")
    if not isinstance(difference, (int, float)) or not isinstance(p, (int, float)) or p >= 0.05 or difference == 0:
        return "no clear difference"
    if table.get("better") not in ("lower", "higher"):
        return "different"
    return "better" if (difference < 0) == (table["better"] == "lower") else "worse"


def samples(run: Run) -> dict[str, Any]:
    """The same prompts answered by every model."""
    found = run.results().get("samples") or []
    if not found:
        raise Missing("No evaluation has written samples in this run yet.")
    rows = []
    for sample in sorted(found, key=lambda s: (not s.get("documented"), not s.get("question"))):
        outputs = [
            (short_name(m), clip(str(text).strip("\n"), TEXT)) for m, text in (sample.get("outputs") or {}).items()
        ]
        rows.append(
            {
                "prompt": str(sample.get("prompt", "")).strip("\n"),
                "outputs": outputs,
                "documented": clip(str(sample.get("documented") or "").strip("\n"), TEXT),
            }
        )
    return {"samples": rows[:SAMPLES], "more": max(0, len(rows) - SAMPLES)}
