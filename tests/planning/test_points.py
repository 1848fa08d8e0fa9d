"""Points for a fit: from artifacts of runs, and from tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gristmill.core.errors import UserError
from gristmill.planning.points import read_points

A = '{"name": "a", "parameters": 1e6, "tokens": 2e7, "loss": 4.5}'
B = '{"name": "b", "parameters": 2000000, "tokens": 2e7, "loss": "4.25", "epochs": 2}'


def artifact(folder: Path, number: int = 1, *, corpus: str = "aaa", **changes) -> Path:
    """A pretrained artifact as the pipeline leaves it; changes: of its record, its metrics or its last evaluation."""
    path = folder / "artifacts" / f"base@{number}"
    path.mkdir(parents=True)
    config = {"corpus": "corpus", "tokenizer": "tokenizer", "start": None} | changes.pop("config", {})
    metrics = {"steps": 40, "tokens": 1e6 * number} | changes.pop("metrics", {})
    record = {"name": f"{folder.name}/base", "version": number, "kind": "model", "uses": "pretrain", "config": config,
              "metrics": metrics, "inputs": {"corpus": {"digest": corpus}, "tokenizer": {"digest": "ttt"}}}
    evaluation = {"step": 40, "valid_loss": 4.0 - 0.1 * number} | changes.pop("evaluation", {})
    (path / "artifact.json").write_text(json.dumps(record | changes))
    (path / "plan.json").write_text(json.dumps({"parameters": 1000 * number, "tokens": 5, "epochs": 1.5}))
    (path / "evaluations.jsonl").write_text(json.dumps({"step": 20, "valid_loss": 9}) + "\n" + json.dumps(evaluation)
                                            + "\n")
    return path


def test_a_run_an_artifact_and_its_folder_give_the_same_point(tmp_path):
    path = artifact(tmp_path / "runs" / "small")
    for source in ("small", "small/base", "small/base@1", str(path), str(tmp_path / "runs" / "small")):
        (point,) = read_points([source], tmp_path / "runs").points
        assert (point.parameters, point.tokens, point.loss, point.epochs) == (1000, 1e6, 3.9, 1.5), source
        assert point.name == "small/base@1"


def test_a_run_gives_all_its_versions_and_a_stage_its_newest(tmp_path):
    for number in (1, 2, 10):
        artifact(tmp_path / "runs" / "small", number)
    assert [p.parameters for p in read_points(["small"], tmp_path / "runs").points] == [1000, 2000, 10_000]
    assert [p.parameters for p in read_points(["small/base"], tmp_path / "runs").points] == [10_000]
    twice = read_points(["small", "small/base@2"], tmp_path / "runs")
    assert len(twice.points) == 3


@pytest.mark.parametrize(("changes", "reason"), [
    ({"uses": "finetune"}, "it was not pretrained"),
    ({"config": {"start": "other"}}, "it went on from another model"),
    ({"metrics": {"stopped_early": True}}, "it stopped early, before its learning rate had come down"),
    ({"evaluation": {"step": 39}}, "it has no loss on held-out text at its last step"),
    ({"evaluation": {"valid_loss": None}}, "it has no loss on held-out text at its last step"),
])
def test_runs_that_do_not_count_are_left_out_with_the_reason(tmp_path, changes, reason):
    artifact(tmp_path / "runs" / "small", **changes)
    found = read_points(["small"], tmp_path / "runs")
    assert found.points == []
    assert found.rejected == [("small/base@1", reason)]


def test_runs_on_different_text_are_refused(tmp_path):
    artifact(tmp_path / "runs" / "one", corpus="aaa")
    artifact(tmp_path / "runs" / "two", corpus="bbb")
    with pytest.raises(UserError, match=r"not measured alike.*1 like one/base@1; 1 like two/base@1"):
        read_points(["one", "two"], tmp_path / "runs")


def test_an_unknown_run_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no such run, artifact or file"):
        read_points(["nothing"], tmp_path)


@pytest.mark.parametrize(("name", "text"), [
    ("p.csv", "\ufeffname,parameters,tokens,loss,epochs\na,1e6,2e7,4.5,\nb,2e6,2e7,4.25,2\n"),
    ("p.json", f"[{A}, {B}]"), ("p.jsonl", f"{A}\n\n{B}\n"),
])
def test_tables_of_three_kinds(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    one, other = read_points([str(tmp_path / name)]).points
    assert (one.name, one.parameters, one.tokens, one.loss, one.epochs) == ("a", 1e6, 2e7, 4.5, None)
    assert (other.name, other.loss, other.epochs) == ("b", 4.25, 2.0)


@pytest.mark.parametrize(("name", "text", "says"), [
    ("p.csv", "parameters,tokens,loss\n1e6,2e7,-1\n", "row 1.*loss must be a positive number, but it is '-1'"),
    ("p.csv", "parameters,tokens\n1e6,2e7\n", "loss must be a positive number, but it is None"),
    ("p.csv", "parameters,tokens,loss\n1e6,2e7,nan\n", "loss must be a positive number"),
    ("p.json", '{"runs": []}', "holds no list of points"), ("p.json", "[3]", "a point is a mapping"),
    ("p.json", "{", "no JSON"), ("p.jsonl", "{\n", "no JSON"),
    ("p.csv", "parameters,tokens,loss,epochs\n1e6,2e7,3,many\n", "epochs must be a number"),
])
def test_wrong_tables_are_refused_with_the_place(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=says):
        read_points([str(tmp_path / name)])


def test_matrix_products_can_be_counted_in_place_of_all_parameters(tmp_path):
    from gristmill.models.families import FAMILIES

    config = FAMILIES["llama"].presets["tiny"]
    path = artifact(tmp_path / "runs" / "small")
    (path / "plan.json").write_text(json.dumps({"parameters": 5, "model": {"family": "llama", **config.__dict__}}))
    (point,) = read_points(["small"], tmp_path / "runs", "matmul").points
    assert point.parameters == config.matmul_parameters
    (path / "plan.json").write_text(json.dumps({"parameters": 5}))
    assert "cannot be counted" in read_points(["small"], tmp_path / "runs", "matmul").rejected[0][1]
