"""Trackers: one line turns one on, a resumed run is the same run, and one that fails never stops training.

Against faithful stand-ins always, and against the real library where it is installed.
"""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from gristmill.core.errors import UserError
from gristmill.training import trackers
from gristmill.training.trackers import Tracker, check, flat
from tests.shared import HANG, wait_for


class Recorder:
    """A service that writes down what it gets; `broken` makes it fail."""

    made: list[Recorder] = []
    package = "recorder"

    def __init__(self, target):
        self.target, self.records, self.runs, self.ends, self.broken, self.tries = target, [], [], [], 0, 0
        Recorder.made.append(self)

    def open(self, run, name, config, folder):
        self.tries += 1
        if self.broken:
            self.broken -= 1
            raise ConnectionError("nobody answers\nand more")
        self.runs.append((run, name, dict(config)))
        return run or "id-1"

    def log(self, records):
        self.tries += 1
        if self.broken:
            self.broken -= 1
            raise ConnectionError("nobody answers")
        self.records += records

    def close(self, finished):
        self.ends.append(finished)


@pytest.fixture
def recorder(monkeypatch):
    Recorder.made = []
    monkeypatch.setattr(trackers, "INTERRUPTED", HANG)
    monkeypatch.setitem(trackers.SERVICES, "json", Recorder)  # a module that is always installed
    return Recorder


def tracker(folder, said=None, **options):
    return Tracker("json:here", "recipe/base@1", folder, {"model": {"dim": 32}, "steps": 9},
                   (said if said is not None else []).append, **{"pause": 0.001, "patience": HANG, **options})


def test_everything_arrives_in_order_and_only_numbers(recorder, tmp_path):
    one = tracker(tmp_path)
    for step in range(500):
        one.write(step, {"train/loss": 1.0 / (step + 1), "prompts": ["text"], "flag": True, "steps": step})
    one.write(500, {"prompts": []})
    one.close()
    service = recorder.made[0]
    assert [step for step, _ in service.records] == list(range(500))
    assert service.records[2][1] == {"train/loss": 1 / 3, "steps": 2.0}
    assert (service.runs, service.ends) == ([(None, "recipe/base@1", {"model": {"dim": 32}, "steps": 9})], [True])
    assert (one.count.sent, one.count.failed, one.count.dropped) == (500, 0, 0)


def test_a_resumed_run_goes_on_with_the_same_id_and_sends_nothing_twice(recorder, tmp_path):
    first = tracker(tmp_path)
    for step in range(1, 8):
        first.write(step, {"loss": float(step)})
    first.close(finished=False)
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"json:here": {"run": "id-1", "step": 7}}
    again = tracker(tmp_path)
    for step in range(4, 12):  # from the last checkpoint on
        again.write(step, {"loss": float(step)})
    again.close()
    assert recorder.made[0].ends == [False]
    assert recorder.made[1].runs[0][0] == "id-1"
    assert [step for step, _ in recorder.made[1].records] == [8, 9, 10, 11]


def test_a_service_that_is_away_for_a_while_misses_nothing(recorder, tmp_path):
    said: list[str] = []
    one = tracker(tmp_path, said)
    wait_for(lambda: recorder.made[0].runs)
    recorder.made[0].broken = 4
    for step in range(1, 30):
        one.write(step, {"loss": 1.0})
    wait_for(lambda: one.count.sent == 29)
    one.close()
    assert said == ["  tracker json:here: ConnectionError: nobody answers (training goes on)"]


def test_a_service_that_never_answers_holds_nobody_up_and_is_counted(recorder, tmp_path, monkeypatch):
    said: list[str] = []
    written = threading.Event()
    monkeypatch.setattr(Recorder, "open", lambda *_: written.wait(HANG) and "id-1")
    one = tracker(tmp_path, said)
    recorder.made[0].broken = 10**6
    for step in range(1, 300):
        one.write(step, {"loss": 1.0})
    written.set()  # only now does the service do anything: who writes does not wait for it
    one.close()
    assert (one.count.failed, one.count.sent) == (299, 0)
    assert "did not end" not in said[-1]
    assert said[0].endswith("(training goes on)")
    assert "failed, 0 dropped; last error: ConnectionError: nobody answers" in said[-1]


def test_one_that_never_opens_is_left_alone_after_some_tries(recorder, tmp_path, monkeypatch):
    monkeypatch.setattr(Recorder, "open", lambda *_: (_ for _ in ()).throw(PermissionError("401")))
    said: list[str] = []
    one = tracker(tmp_path, said)
    one.write(1, {"loss": 1.0})
    one.close()
    assert said[-1] == "  tracker json:here: 0 steps sent, 1 failed, 0 dropped; last error: PermissionError: 401"
    assert not (tmp_path / "trackers.json").exists()


def test_one_that_hangs_is_left_behind(recorder, tmp_path, monkeypatch):
    sending, hung = threading.Event(), threading.Event()
    monkeypatch.setattr(Recorder, "log", lambda *_: (sending.set(), hung.wait(HANG)))
    monkeypatch.setattr(trackers, "WAITING", 3)
    said: list[str] = []
    one = tracker(tmp_path, said, patience=0.2)
    one.write(1, {"loss": 1.0})
    assert sending.wait(HANG)
    for step in range(2, 20):
        one.write(step, {"loss": 1.0})
    one.close()
    assert "did not end within 0 s" in said[-1]
    assert one.count.dropped == 18  # three of them had waited in the queue
    hung.set()


@pytest.mark.parametrize("spec", ["", "wandb", "wandb:", "comet:x", ":x"])
def test_what_names_no_tracker_is_refused_with_examples(spec):
    with pytest.raises(UserError, match=r"names no tracker(?s:.*)wandb:PROJECT, mlflow:http"):
        check([spec])


@pytest.mark.parametrize(("kind", "package"), [("wandb", "wandb"), ("mlflow", "mlflow-skinny"), ("trackio", "trackio")])
def test_a_library_that_is_missing_names_the_command(kind, package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"{kind} is not installed(?s:.*)pip install {package}"):
        check([f"{kind}:x"])


def test_a_password_in_an_address_is_refused():
    with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD"):
        check(["mlflow:https://me:secret@host/path"])


def test_nested_configs_become_flat():
    assert flat({"a": {"b": {"c": 1}, "d": [1, 2]}, "e": None}) == {"a.b.c": 1, "a.d": "[1, 2]", "e": None}


# -- the calls that are made -----------------------------------------------------------------------------------------


def train(spec, folder, steps, finished=True):
    """As a training does: some steps, an evaluation, the end."""
    said: list[str] = []
    one = Tracker(spec, "recipe/base@1", folder, {"model": {"dim": 32}}, said.append, pause=0.001)
    for step in steps:
        one.write(step, {"train/loss": 10.0 - step, "speed/mfu": 0.5})
    one.write(steps[-1], {"valid/loss": 3.0})
    one.close(finished)
    return said


def test_wandb_is_asked_for_the_same_run_and_is_offline_without_a_login(tmp_path, monkeypatch):
    calls, logged = [], []
    module = ModuleType("wandb")
    module.__spec__ = importlib.util.spec_from_loader("wandb", loader=None)
    module.Settings = lambda **named: named
    module.login = lambda prompt: False

    def init(**named):
        calls.append(named)
        return SimpleNamespace(id=named["id"], log=lambda values, step: logged.append((step, values)),
                               finish=lambda exit_code: calls.append(exit_code))

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert train("wandb:team/project", tmp_path, range(1, 4), finished=False) == []
    module.login = lambda prompt: True
    assert train("wandb:team/project", tmp_path, range(3, 6)) == []
    first, ended, again, ended_well = calls
    assert (first["entity"], first["project"]) == ("team", "project")
    assert (first["mode"], first["resume"]) == ("offline", "allow")
    assert (again["id"], again["mode"]) == (first["id"], None)
    assert (ended, ended_well) == (1, 0)
    assert [step for step, values in logged if "train/loss" in values] == [1, 2, 3, 4, 5]


def needs(name):
    return pytest.mark.skipif(importlib.util.find_spec(name) is None,
                              reason=f"{name} is not installed: pip install "
                                     f"{trackers.SERVICES[name].package}")  # type: ignore[attr-defined]


@needs("mlflow")
@pytest.mark.slow
def test_mlflow_with_a_folder(tmp_path):
    store = tmp_path / "store"
    assert train(f"mlflow:{store}", tmp_path, range(1, 6), finished=False) == []
    assert train(f"mlflow:{store}", tmp_path, range(4, 9)) == []
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=store.as_uri())
    experiment = client.get_experiment_by_name("recipe")
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)] == [(s, 10.0 - s) for s in range(1, 9)]
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "recipe/base@1"
    assert run.data.params == {"model.dim": "32"}


@needs("mlflow")
def test_mlflow_with_a_server_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said = train("mlflow:http://127.0.0.1:9", tmp_path, range(1, 6))
    assert "training goes on" in said[0]
    assert "0 steps sent, 6 failed" in said[-1]


@needs("wandb")
@pytest.mark.slow
def test_wandb_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert train("wandb:project", tmp_path, range(1, 6), finished=False) == []
    assert train("wandb:project", tmp_path, range(4, 9)) == []
    run = json.loads((tmp_path / "trackers.json").read_text())["wandb:project"]["run"]
    files = list((tmp_path / "wandb").glob(f"offline-run-*/run-{run}.wandb"))
    assert 1 <= len(files) <= 2  # two parts of one run, which `wandb sync` joins; in one second they share a folder
    assert sum(path.read_bytes().count(b"train/loss") for path in files) >= 5


@needs("trackio")
@pytest.mark.slow
def test_trackio(tmp_path):
    """In a process of its own: where it keeps its runs is decided when it is imported."""
    import os
    import subprocess

    script = ("import sys; from pathlib import Path; sys.path[:0] = [sys.argv[3]]; from test_trackers import train\n"
              "first, last = map(int, sys.argv[2].split('-'))\n"
              "print(train('trackio:project', Path(sys.argv[1]), range(first, last), finished=last > 7))")
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "kept"), "HF_HUB_OFFLINE": "1"}
    for steps in ("1-6", "4-9"):
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path), steps, str(Path(__file__).parent)],
                              capture_output=True, text=True, env=environment, timeout=HANG)
        assert done.stdout == "[]\n", done
    (database,) = (tmp_path / "kept").glob("project*.db")
    with sqlite3.connect(database) as found:
        rows = found.execute("select run_name, step from metrics order by step").fetchall()
    assert len({name for name, _ in rows}) == 1
    assert [step for _, step in rows] == [1, 2, 3, 4, 5, 5, 6, 7, 8, 8]  # two evaluations among them
