"""Runs: reuse, change, versions, errors, dry runs, pinned and outside inputs."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import toy_stages
import yaml

import gristmill
from gristmill.core.errors import GristmillError, InternalError, Interrupted, MachineError, UserError
from gristmill.core.files import read_json, read_jsonl
from gristmill.core.hashing import digest_folder
from gristmill.core.progress import Lines
from gristmill.core.stage import Runtime
from gristmill.pipeline import work
from gristmill.pipeline.runner import run as run_recipe
from gristmill.pipeline.status import run_status
from gristmill.recipe import RecipeError
from tests.processes import start
from tests.shared import HANG, wait_for

RECIPE = toy_stages.RECIPE


def run(runs, recipe=RECIPE, **options):
    return run_recipe(recipe, runs_dir=runs, report=False, **options)


def states(result):
    return {s["name"]: s["state"] for s in run_status(result.folder)["stages"]}


def test_a_second_run_reuses_everything_and_says_so(runs, capsys):
    first = run(runs)
    assert first.ran == ["corpus", "tokenizer", "base", "tuned", "scores"]
    assert first.reused == []
    before = {p: p.stat().st_mtime_ns for p in (first.folder / "artifacts").rglob("*")}
    second = run(runs, progress=Lines(stream=sys.stdout))
    assert second.ran == []
    assert second.reused == first.ran
    assert "base: reused toy/base@1" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in (first.folder / "artifacts").rglob("*")} == before


def test_a_change_runs_what_depends_on_it_as_the_next_version(runs):
    run(runs)
    second = run(runs, set=["stages.tuned.rate=0.5"])
    assert second.ran == ["tuned", "scores"]
    assert second["tuned"].name == "toy/tuned@2"
    assert second["scores"].record["inputs"]["tuned"]["version"] == 2
    assert second["base"].name == "toy/base@1"
    assert second.plan.step("tuned").why == "rate: 0.1 -> 0.5"
    back = run(runs)
    assert back.ran == []
    assert back["tuned"].name == "toy/tuned@1"


def test_an_equal_payload_upstream_ends_the_change_there(runs):
    """corpus@2 has another identity but the same bytes: what depends on it stays as it is."""
    run(
        runs,
        {
            "name": "toy",
            "stages": {"corpus": {"uses": "toy_corpus"}, "t": {"uses": "toy_tokenizer", "corpus": "corpus"}},
        },
    )
    again = run(runs, {"name": "toy", "stages": {"corpus": {"uses": "toy_corpus", "sources": [{"kind": "numbers"}]},
                                                 "t": {"uses": "toy_tokenizer", "corpus": "corpus"}}})
    assert again.ran == ["corpus"]
    assert again.reused == ["t"]


def test_run_time_choices_are_not_identity_but_are_recorded(runs):
    run(runs)
    assert run(runs, runtime=Runtime(threads=1, precision="fp32")).ran == []
    third = run(runs, runtime=Runtime(threads=1), set=["stages.tuned.rate=0.5"])
    assert third["tuned"].record["runtime"]["threads"] == 1


def test_the_record_is_complete(runs):
    record = run(runs)["base"].record
    assert set(record) >= {
        "kind",
        "name",
        "version",
        "digest",
        "identity",
        "config",
        "inputs",
        "metrics",
        "seed",
        "code",
        "libraries",
        "runtime",
        "started",
        "finished",
        "seconds",
    }
    assert record["kind"] == "model"
    assert record["name"] == "toy/base"
    assert record["config"]["budget"] == {"minutes": None, "steps": 3}
    artifact = runs / "toy/artifacts/base@1"
    entry = record["inputs"]["corpus"]
    assert entry["name"] == "toy/corpus"
    assert (artifact / entry["path"]).resolve() == runs / "toy/artifacts/corpus@1"
    assert record["digest"] == digest_folder(artifact)
    assert not (artifact / ".scratch").exists()


def test_runs_in_two_folders_are_bit_identical_but_for_times(tmp_path):
    one, two = run(tmp_path / "one"), run(tmp_path / "two")
    for stage, artifact in one.artifacts.items():
        assert artifact.digest == two[stage].digest
        assert artifact.record["identity"] == two[stage].record["identity"]


def test_until_runs_only_what_is_needed(runs):
    result = run(runs, until="tokenizer")
    assert result.ran == ["corpus", "tokenizer"]
    assert states(result) == {"scores": "missing", "corpus": "done", "tokenizer": "done", "base": "missing",
                              "tuned": "missing"}
    with pytest.raises(UserError, match=r"--until: there is no stage `tokenzier`; did you mean `tokenizer`"):
        run(runs, until="tokenzier")


def test_a_dry_run_plans_and_writes_nothing(runs, capsys):
    result = run(runs, dry_run=True, progress=Lines(stream=sys.stdout))
    assert not runs.exists()
    assert [s.action for s in result.plan.steps] == ["run", "decide", "decide", "decide", "decide"]
    run(runs)
    before = sorted(runs.rglob("*"))
    result = run(runs, dry_run=True, set=["stages.tuned.rate=0.5"], progress=Lines(stream=sys.stdout))
    assert [s.action for s in result.plan.steps] == ["reuse", "reuse", "reuse", "run", "decide"]
    assert sorted(runs.rglob("*")) == before
    assert "depends on tuned" in capsys.readouterr().out


def test_recipe_errors_come_before_anything_is_written(runs):
    with pytest.raises(RecipeError):
        run(runs, set=["stages.base.budget.steps=0"])
    with pytest.raises(
        RecipeError, match=r"stages.base.start: there is no version 9 of `corpus`|no artifact `other/base@9`"
    ):
        run(runs, set=["stages.base.start=other/base@9"])
    assert not runs.exists()


def test_the_recipe_as_run_is_kept_beside_the_run(runs, tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text("# a comment\n" + yaml.safe_dump(RECIPE))
    assert (run(runs, path).folder / "recipe.yaml").read_text() == path.read_text()
    folder = run(runs, path, set=["stages.tuned.rate=0.5"]).folder
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["stages"]["tuned"]["rate"] == 0.5


def test_other_runs_pinned_versions_and_folders_are_inputs(runs, tmp_path):
    first = run(runs)
    run(runs, set=["stages.base.rate=0.5"], until="base")
    outside = tmp_path / "public"
    outside.mkdir()
    (outside / "config.json").write_text('{"value": 1}')
    other = {
        "name": "other",
        "stages": {
            "a": {"uses": "toy_model", "start": "toy/base@1"},
            "b": {"uses": "toy_model", "start": "toy/base"},
            "c": {"uses": "toy_model", "start": str(outside)},
            "d": {"uses": "toy_model", "start": "./" + os.path.relpath(first["tuned"].path)},
        },
    }
    result = run(runs, other)
    assert [result[s].record["inputs"][t]["version"] for s, t in [("a", "toy/base@1"), ("b", "toy/base")]] == [1, 2]
    entry = result["c"].record["inputs"][str(outside)]
    assert (entry["kind"], entry["version"], entry["path"]) == ("model", 0, str(outside))
    assert run(runs, other).ran == []
    (outside / "config.json").write_text('{"value": 2}')
    assert run(runs, other).ran == ["c"]


def test_all_references_that_lead_nowhere_are_told_at_once(runs):
    with pytest.raises(RecipeError) as error:
        run(runs, {"name": "x", "stages": {"a": {"uses": "toy_model", "start": "no/where@1"},
                                           "b": {"uses": "toy_model", "start": "no/what@2"}}})
    assert len(error.value.problems) == 2


@pytest.mark.parametrize(("mode", "kind", "words"), [
    ("fail", InternalError, "stage base: ZeroDivisionError: a fault"),
    ("write_hole", UserError, "stage base: the corpus is empty\n  to mend it: add text"),
    ("disk_full", MachineError, "the disk is full"),
    ("memory", MachineError, "stage base: not enough memory"),
    ("nan", UserError, "cannot be stored deterministically"),
])
def test_a_failing_stage_is_logged_and_keeps_what_was_done(runs, mode, kind, words):
    with pytest.raises(kind) as error:
        run(runs, set=[f"stages.base.mode={mode}"])
    assert words in str(error.value)
    folder = runs / "toy"
    event = [e for e in read_jsonl(folder / "log.jsonl") if e["event"] == "stage_failed"][-1]
    assert event["stage"] == "base"
    assert "Traceback" in event["traceback"]
    status = {s["name"]: s["state"] for s in run_status(folder)["stages"]}
    assert status == {"scores": "missing", "corpus": "done", "tokenizer": "done", "base": "failed", "tuned": "missing"}
    assert read_json(folder / "run.json")["state"] == "failed"
    mended = run(runs)
    assert mended.reused == ["corpus", "tokenizer"]
    assert states(mended)["base"] == "done"


def test_a_disk_that_fills_up_while_finishing_is_said_and_survived(runs, monkeypatch):
    def full(path, value):
        if path.name == "artifact.json":
            raise OSError(28, "No space left on device", str(path))
        return real(path, value)

    real = work.write_json
    monkeypatch.setattr(work, "write_json", full)
    with pytest.raises(MachineError, match=r"the disk is full\n  to mend it: free some space"):
        run(runs)
    monkeypatch.undo()
    assert run(runs)["corpus"].name == "toy/corpus@1"


def test_a_kill_while_a_finished_stage_is_sealed_loses_no_checkpoint(runs, monkeypatch):
    """Of a large model it takes minutes to digest and flush the payload."""
    def killed(folder):
        if folder.name == "base":
            raise KeyboardInterrupt
        flush_tree(folder)

    flush_tree = work.flush_tree
    monkeypatch.setattr(work, "flush_tree", killed)
    with pytest.raises(KeyboardInterrupt):
        run(runs)
    monkeypatch.undo()
    assert read_json(runs / "toy/work/base/.scratch/checkpoint.json")["step"] == 3
    again = run(runs)
    assert again.plan.step("base").why == "unfinished work is there"
    assert not (again["base"].path / ".scratch").exists()


def test_status_tells_stale_from_done(runs):
    first = run(runs)
    with pytest.raises(InternalError):
        run(runs, set=["stages.tuned.mode=fail"])
    assert states(first) == {
        "scores": "stale",
        "corpus": "done",
        "tokenizer": "done",
        "base": "done",
        "tuned": "failed",
    }
    stage = run_status(first.folder)["stages"][0]
    assert set(stage) == {"name", "kind", "version", "state", "path", "metrics", "seconds"}
    assert stage["version"] == 1
    assert Path(stage["path"]).is_dir()


def test_a_torn_last_line_of_the_log_is_removed(runs):
    folder = run(runs).folder
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"time": "2026-01-01", "eve')
    run(runs)
    events = read_jsonl(folder / "log.jsonl")
    assert [e["event"] for e in events].count("run_finished") == 2


def test_a_report_that_fails_does_not_fail_the_run(runs, monkeypatch, capsys):
    import types

    broken = types.ModuleType("gristmill.pipeline.report")
    broken.write_report = lambda folder: 1 / 0
    monkeypatch.setitem(sys.modules, "gristmill.pipeline.report", broken)
    monkeypatch.setattr("gristmill.pipeline.report", broken, raising=False)
    result = run_recipe(RECIPE, runs_dir=runs, progress=Lines(stream=sys.stdout))
    assert result.report is None
    assert "the report could not be written: division by zero" in capsys.readouterr().out


def test_the_end_says_what_to_type_next(runs, capsys):
    run(runs, progress=Lines(stream=sys.stdout))
    out = capsys.readouterr().out
    assert "the loss fell" in out
    assert f"gristmill serve toy/tuned@1 --runs-dir {runs}" in out


def test_a_stage_may_tell_what_it_reads_besides_its_references(runs, monkeypatch):
    state = {"files": "one"}
    monkeypatch.setattr(toy_stages.ToyCorpus, "fingerprint", lambda self: state["files"], raising=False)
    run(runs, until="corpus")
    assert run(runs, until="corpus").ran == []
    state["files"] = "two"
    again = run(runs, until="corpus")
    assert again["corpus"].name == "toy/corpus@2"
    assert again.plan.step("corpus").why == "inputs from outside changed"


def run_slowly(runs: Path) -> None:
    """In a process of its own: a stage that does not end."""

    def slow(self, context):
        (context.scratch / "before").write_text("x")
        time.sleep(HANG)

    toy_stages.ToyModel.run = slow
    try:
        run_recipe(toy_stages.RECIPE, runs_dir=runs, report=False)
    except (GristmillError, Interrupted) as error:
        print(error, flush=True)
        sys.exit(error.exit_code)


@pytest.fixture
def slow_run(runs):
    process = start(run_slowly, runs)
    wait_for((runs / "toy/work/base/.scratch/before").exists, process.alive, lambda: process.err)
    yield process
    process.kill()


def test_only_one_process_runs_a_recipe(runs, slow_run):
    with pytest.raises(MachineError) as error:
        run(runs)
    assert f"another process is running this recipe (process {slow_run.pid}, since 2" in str(error.value)
    assert states(type("R", (), {"folder": runs / "toy"}))["base"] == "running"
    slow_run.kill()
    assert states(type("R", (), {"folder": runs / "toy"}))["base"] == "partial"
    assert "base" in run(runs).ran


@pytest.mark.parametrize("mark", [None, b"", "of another recipe"])
def test_unfinished_work_that_cannot_go_on_is_set_aside_and_said(runs, capsys, mark):
    def tries(rate):
        with pytest.raises(InternalError):
            run(runs, progress=Lines(stream=sys.stdout), set=["stages.base.mode=fail", f"stages.base.rate={rate}"])
        return " ".join(capsys.readouterr().out.split())

    tries(0.5)
    path, aside = runs / "toy/work/.marks/base.json", runs / "toy/work/.aside/base"
    (runs / "toy/work/base/before").touch()
    if mark is None:
        path.unlink()
    elif mark == b"":
        path.write_bytes(mark)
    said = tries(0.1 if mark == "of another recipe" else 0.5)
    place = next(aside.iterdir())
    assert (place / "before").exists()
    assert (place.name == "unknown") == (mark != "of another recipe")
    whose = "is of other settings or inputs" if place.name != "unknown" else (
        f"cannot go on: {path}, which says of what it is, is lost or damaged")
    assert f"base: unfinished work {whose}; it is set aside in {place}, until other work is" in said
    event = next(e for e in read_jsonl(runs / "toy/log.jsonl") if e["event"] == "work_set_aside")
    assert (event["stage"], event["aside"]) == ("base", str(place))
    if mark == "of another recipe":
        assert "base: continuing" in tries(0.5)
        assert (runs / "toy/work/base/before").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_a_run_politely(runs, slow_run, number, code):
    slow_run.tell(number)
    assert slow_run.ended() == code
    assert f"stopped by {number.name}" in slow_run.out
    assert "it continues" in slow_run.out
    assert read_json(runs / "toy/run.json")["state"] == "interrupted"
    assert [e["event"] for e in read_jsonl(runs / "toy/log.jsonl")][-1] == "stage_interrupted"
    mark = json.loads((runs / "toy/work/.marks/base.json").read_text())
    assert mark["seconds"] > 0
    assert (runs / "toy/work/base/.scratch/before").exists()
    assert run(runs).plan.step("base").why == "unfinished work is there"


def test_ctrl_c_inside_python_is_an_interruption_too(runs, monkeypatch):
    def stop(self, context):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(HANG)

    monkeypatch.setattr(toy_stages.ToyModel, "run", stop)
    with pytest.raises(Interrupted):
        run(runs)
    monkeypatch.undo()
    assert run(runs).reused == ["corpus", "tokenizer"]


def test_the_public_names_are_there():
    assert gristmill.run is run_recipe
    assert gristmill.__version__
    assert "load" in dir(gristmill)
    with pytest.raises(AttributeError):
        gristmill.nothing  # noqa: B018


def test_checkpoints_in_storage_belong_to_the_work_of_one_run(runs, tmp_path, monkeypatch):
    """The same place after a failure, another one for another run, another stage and work that is begun anew."""
    seen = []
    monkeypatch.setattr(toy_stages.ToyModel, "run", lambda self, context: seen.append(context.checkpoints) or 1 / 0)
    stored = Runtime(checkpoints="memory://bucket/x/")
    for place, options in ((runs, {}), (runs, {}), (tmp_path / "others", {}), (runs, {"resume": False})):
        with pytest.raises(InternalError):
            run(place, runtime=stored, **options)
    assert all(re.fullmatch(r"memory://bucket/x/toy/base@1/\w{12}/checkpoints", url) for url in seen)
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3
    with pytest.raises(InternalError):
        run(runs)
    assert seen[-1] == runs / "toy" / "work" / "base" / ".scratch" / "checkpoints"


@pytest.mark.parametrize(("first", "then", "fix"), [
    ("memory://bucket/x", None, "--checkpoints memory://bucket/x to go on"),
    (None, "memory://bucket/x", "leave --checkpoints out")])
def test_a_training_is_not_begun_again_if_checkpoints_are_looked_for_elsewhere(runs, monkeypatch, first, then, fix):
    def begins(self, context):
        (context.work / "trace.jsonl").touch()
        raise ValueError("lost")

    monkeypatch.setattr(toy_stages.ToyModel, "run", begins)
    with pytest.raises(InternalError, match="lost"):
        run(runs, runtime=Runtime(checkpoints=first))
    with pytest.raises(UserError, match="this training keeps its checkpoints") as error:
        run(runs, runtime=Runtime(checkpoints=then))
    assert fix in str(error.value)
    assert (runs / "toy/work/base/trace.jsonl").exists()
    for again, options in ((first, {}), (then, {"resume": False})):
        with pytest.raises(InternalError, match="lost"):
            run(runs, runtime=Runtime(checkpoints=again), **options)
