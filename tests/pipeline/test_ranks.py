"""Runs on several processes: who does what, what everybody hears, and how all of them leave."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import together

from gristmill.core.errors import UserError
from gristmill.core.files import read_json, read_jsonl
from gristmill.pipeline.ranks import check_layout, place
from gristmill.pipeline.runner import run as run_recipe
from tests.processes import forkserver
from tests.shared import HANG, wait_for

CORPUS = {"uses": "toy_corpus", "parts": 2}


def recipe(**stage: Any) -> dict[str, Any]:
    return {"name": "toy", "seed": 7, "stages": {
        "corpus": CORPUS, "base": {"uses": "toy_together", "corpus": "corpus", **stage},
        "tuned": {"uses": "toy_model", "start": "base", "budget": {"steps": 2}}}}


@dataclass
class Left:
    """What a process left: exit code, standard output and error."""

    code: int
    out: str
    err: str


def serve(rank: int, size: int, port: int, folder: str, words: list[str], environment: dict[str, str]) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                   "GLOO_SOCKET_IFNAME": "lo", **environment}
    sys.argv = ["together.py", *words]
    together.main()


class Processes:
    """The processes of one run, started as torchrun would; the first one serves the store."""

    def __init__(self, folder: Path, runs: Path, recipe: dict[str, Any], size: int = 2, **options: Any) -> None:
        environment = options.pop("environment", {})  # of all, or of each
        each = environment if isinstance(environment, list) else [environment] * size
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = forkserver()
        words = [str(runs), json.dumps(recipe), json.dumps(options)]
        self.processes = [context.Process(target=serve, args=(rank, size, port, str(folder), words, each[rank]))
                          for rank in range(size)]
        for process in self.processes:
            process.start()

    def ended(self) -> list[Left]:
        deadline = time.monotonic() + HANG
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        read = {name: [(self.folder / f"{rank}.{name}").read_text() for rank in range(len(self.processes))]
                for name in ("out", "err")}
        return [Left(p.exitcode or 0, o, e) for p, o, e in zip(self.processes, read["out"], read["err"], strict=True)]


@pytest.fixture
def start(tmp_path, runs):
    def begin(recipe: dict[str, Any], size: int = 2, **options: Any) -> Processes:
        return Processes(tmp_path, runs, recipe, size, **options)

    return begin


def test_all_take_part_where_they_can_and_only_the_first_writes_and_speaks(start, runs):
    left = start(recipe(), size=3).ended()
    assert [each.code for each in left] == [0, 0, 0], left
    assert "running toy_together" in left[0].err
    assert [each.err for each in left[1:]] == ["", ""]
    said = [json.loads(each.out) for each in left]
    assert said[0]["ran"] == ["corpus", "base", "tuned"]
    assert said[0]["artifacts"] == said[1]["artifacts"] == said[2]["artifacts"]
    assert read_json(runs / "toy/artifacts/base@1/config.json")["world"] == 3
    events = [line["event"] for line in read_jsonl(runs / "toy/log.jsonl")]
    assert events.count("run_started") == 1
    assert events.count("stage_started") == 3
    again = start(recipe(), size=2).ended()
    assert [each.code for each in again] == [0, 0]
    assert json.loads(again[0].out)["ran"] == []


def test_nodes_of_which_one_has_joined_later_find_each_other(start):
    """Each torchrun counts its own restarts: the first one has lost a node before this one came."""
    left = start(recipe(), environment=[{"TORCHELASTIC_RESTART_COUNT": count} for count in ("1", "0")]).ended()
    assert [each.code for each in left] == [0, 0], left


def test_a_recipe_without_such_stages_runs_unchanged(start, runs, tmp_path):
    plain = recipe()
    plain["stages"]["base"] = {"uses": "toy_model", "corpus": "corpus"}
    left = start(plain).ended()
    assert [each.code for each in left] == [0, 0], left
    alone = run_recipe(plain, runs_dir=tmp_path / "alone", report=False)
    assert json.loads(left[1].out)["artifacts"] == {name: a.digest for name, a in alone.artifacts.items()}


@pytest.mark.parametrize(("who", "what", "code", "said"), [
    (1, "fail", 2, "process 1: no more of this"), (0, "fail", 2, "no more of this"),
    (1, "bug", 70, "process 1: ZeroDivisionError: a fault"),
])
def test_a_failure_anywhere_is_told_with_its_cause_and_ends_all(start, runs, who, what, code, said):
    left = start(recipe(who=who, what=what)).ended()
    assert left[0].code == code, left
    assert all(each.code for each in left)
    assert said in left[0].err
    assert read_json(runs / "toy/run.json")["state"] == "failed"
    assert said in next(s for s in read_json(runs / "toy/run.json")["stages"] if s["name"] == "base")["error"]
    # What is durable stays, and the same recipe without the fault goes on from there.
    assert (runs / "toy/work/base/.scratch/rank-0.json").exists()


def test_the_same_mistake_everywhere_is_told_once(start):
    left = start(recipe(what="wrong"), size=3).ended()
    assert [each.code for each in left] == [2, 2, 2], left
    assert sum("wrong on every process" in each.err for each in left) == 1


def test_a_wrong_recipe_is_told_once(start, runs):
    left = start(recipe(stepz=3)).ended()
    assert [each.code for each in left] == [2, 2], left
    assert "stepz" in left[0].err
    assert left[1].err == ""
    assert not runs.exists()


@pytest.mark.parametrize(("mine", "said"), [
    ({"code": {"version": "0.0.1", "commit": None, "dirty": None}}, "process 1 has another code"),
    ({"recipe": {"seed": 8}}, "process 1 has another recipe"),
])
def test_processes_that_differ_are_refused_before_anything_runs(start, runs, mine, said):
    left = start(recipe(), only={"1": mine}).ended()
    assert [each.code for each in left] == [2, 2], left
    assert said in left[0].err
    assert "all nodes must run the same code with the same recipe" in left[0].err
    assert not runs.exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_told_to_all_twice_ends_all_at_the_same_step_and_continues(start, runs, number, code):
    slow = start(recipe(steps=400, pause=0.02))
    own = [runs / f"toy/work/base/.scratch/rank-{rank}.json" for rank in range(2)]
    wait_for(lambda: all(p.exists() for p in own) and read_json(own[0])["step"] > 3, slow.processes[0].is_alive)
    for _ in range(2):
        for process in slow.processes:
            os.kill(process.pid, number)
        time.sleep(0.005)
    left = slow.ended()
    assert [each.code for each in left] == [code, code], left
    assert left[1].err == ""
    steps = [read_json(path)["step"] for path in own]
    assert steps[0] == steps[1] < 400
    assert read_json(runs / "toy/run.json")["state"] == "interrupted"


def test_one_that_waits_for_a_long_stage_leaves_at_a_signal_and_burns_nothing(start, runs):
    """What it spends is its own processor time; where it asked again and again, it would be all of the two seconds."""
    waiting = start({"name": "toy", "stages": {"slow": {"uses": "toy_together_slow", "seconds": HANG}}})
    wait_for((runs / "toy/work/slow").exists, waiting.processes[0].is_alive)

    def spent() -> float:
        fields = Path(f"/proc/{waiting.processes[1].pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def calm() -> bool:
        before = spent()
        time.sleep(1)
        return spent() == before

    wait_for(calm)  # it has come to where it waits, and does nothing there
    for process in waiting.processes:
        os.kill(process.pid, signal.SIGTERM)
    left = waiting.ended()
    assert [each.code for each in left] == [143, 143], left


def test_one_that_is_killed_ends_the_other_with_a_sentence(start, runs):
    left = start(recipe(what="die once")).ended()
    assert left[1].code == -signal.SIGKILL
    assert left[0].code == 3, left
    assert "another process of this training is gone" in left[0].err
    again = start(recipe(what="die once")).ended()
    assert [each.code for each in again] == [0, 0], again


def test_where_this_process_stands(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (place().rank, place().size, place().main) == (0, 1, True)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (place().rank, place().size, place().main) == (3, 8, False)


def test_a_layout_that_does_not_fit_is_refused_at_once():
    check_layout("auto", 7)
    check_layout("none", 1)
    check_layout("shard=2,tensor=4", 8)
    with pytest.raises(UserError, match="shard=4 is for 4 processes, and this run has 1"):
        check_layout("shard=4", 1)
    with pytest.raises(UserError, match="none is for 1 processes, and this run has 2"):
        check_layout("none", 2)
    with pytest.raises(UserError, match="is no axis"):
        check_layout("shards=4", 4)
