"""Predicted and actual: what a training stage expected before its first step, and what happened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gristmill.pipeline.report.page import render
from gristmill.pipeline.report.predictions import predictions
from gristmill.pipeline.report.run import Missing, read_run

PLAN = {"steps": 40, "tokens": 40 * 512, "flops_per_token": 1e6, "budget": {"minutes": 2.0}}


def run_folder(root: Path, *, finished: bool, steps: int, seconds: float = 2.2, plan: dict | None = None) -> Path:
    folder = root / ("artifacts/base@1" if finished else "work/base")
    (folder / "telemetry").mkdir(parents=True)
    state = {"run": "toy", "seed": 1, "state": "done" if finished else "failed", "stages": [
        {"name": "base", "kind": "pretrain", "version": 1 if finished else None,
         "state": "done" if finished else "interrupted"}]}
    (root / "run.json").write_text(json.dumps(state))
    if plan is None:
        plan = PLAN
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "telemetry" / "compute.json").write_text(json.dumps({"seconds_per_step": 2.0, "threads": 1}))
    (folder / "telemetry" / "speed.jsonl").write_text("".join(
        json.dumps({"step": n + 1, "seconds": seconds, "memory_mb": 500}) + "\n" for n in range(steps)))
    if finished:
        (folder / "artifact.json").write_text(json.dumps({
            "kind": "model", "name": "toy/base", "version": 1, "uses": "pretrain", "seconds": 126.0,
            "metrics": {"steps": steps}, "finished": "2026-01-01T00:00:00+00:00"}))
    return root


def rows(root: Path) -> dict[str, tuple[str, str, str]]:
    return {name: tuple(rest) for name, *rest in predictions(read_run(root))["stages"][0]["rows"]}


def test_a_finished_run_is_compared(tmp_path):
    found = rows(run_folder(tmp_path, finished=True, steps=40))
    assert found["time of a step"] == ("2 s", "2.2 s", "+10.0 %")
    assert found["time of all steps"] == ("1 min 20 s", "1 min 28 s", "+10.0 %")
    assert found["steps"] == ("40", "40", "+0.0 %")
    assert found["time of the stage"] == ("2 min 0 s", "2 min 6 s", "+5.0 %")
    text = render(read_run(tmp_path))
    assert 'id="predictions"' in text
    assert "Time of the steps" in text


def test_the_rest_of_an_unfinished_run_is_predicted_anew(tmp_path):
    root = run_folder(tmp_path, finished=False, steps=10, seconds=3.0)
    entry = predictions(read_run(root))["stages"][0]
    assert (entry["done"], entry["steps"], entry["left"]) == (10, 40, "1 min 30 s")
    assert rows(root)["time of all steps"] == ("1 min 20 s", "2 min 0 s", "+50.0 %")
    assert rows(root)["steps"][1] == "–"
    assert "10 of 40 steps are done, about 1 min 30 s are left" in render(read_run(root))


@pytest.mark.parametrize("plan", [{}, {"steps": 0}, {"steps": 40, "tokens": None}])
def test_stages_that_planned_nothing_are_left_out(tmp_path, plan):
    root = run_folder(tmp_path, finished=True, steps=40, plan=plan)
    if plan.get("steps"):
        assert "FLOPs a second" not in rows(root)
    else:
        with pytest.raises(Missing, match="for a budget in minutes, money or energy"):
            predictions(read_run(root))
