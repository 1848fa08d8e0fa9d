"""What the report says of a training: of one that ended early, what it did rather than what it had planned."""

from __future__ import annotations

import json

import pytest

from gristmill.pipeline.display import headline
from gristmill.pipeline.report import charts
from gristmill.pipeline.report.run import Run, Stage
from gristmill.pipeline.report.training import training


def facts(folder, *, done, early, **plan):
    (folder / "plan.json").write_text(json.dumps({"steps": 60, "epochs": 0.36, **plan}))
    (folder / "trace.jsonl").write_text(json.dumps({"step": done, "tokens": 512 * done, "loss": 3.0}) + "\n")
    metrics = {"steps": done, "tokens": 512 * done, "stopped_early": early}
    stage = Stage("base", "pretrain", "done", path=folder, record={"kind": "model", "metrics": metrics})
    return dict(training(Run(folder, "r", 1, "done", "", [stage], ""))["models"][0]["facts"])


def test_a_training_that_ended_early_has_read_less_than_planned(tmp_path):
    whole = facts(tmp_path, done=60, early=False)
    assert whole["passes over the text"] == "0.360"
    assert "stopped early" not in whole
    early = facts(tmp_path, done=20, early=True)
    assert (early["passes over the text"], early["stopped early"]) == ("0.120", "of 60 steps")


@pytest.mark.parametrize(("ended", "said"), [
    ({}, "valid loss 3.5, steps 20"),
    ({"stopped_early": True}, "valid loss 3.5, steps 20, stopped early after 20 steps"),
    ({"stopped_early": True, "target_reached": True}, "valid loss 3.5, steps 20, target loss reached after 20 steps"),
    ({"stopped_early": False, "target_reached": True}, "valid loss 3.5, steps 20"),
])
def test_the_summary_says_why_a_training_is_short(ended, said):
    assert headline({"steps": 20, "valid_loss": 3.5, **ended}) == said


def test_how_much_growing_updates_have_read_is_not_guessed(tmp_path):
    assert "passes over the text" not in facts(tmp_path, done=20, early=True, reading={"batch_warmup": {"start": 1}})


@pytest.mark.parametrize("values", [[4.8807, 4.8798], [6.2381, 6.2372], [0.5, 3.0], [1_234_000.0, 1_234_600.0]])
def test_no_two_ticks_of_an_axis_read_alike(values):
    texts = [tick.text for tick in charts.line_chart("t", [charts.Series("s", [1, 2], values)]).y_ticks]
    assert len(texts) == len({*texts}) > 1
