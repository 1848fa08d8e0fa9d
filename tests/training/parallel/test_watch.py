"""Hangs: who is behind, what the report says, and that nothing is said where all is well."""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from gristmill.core.errors import MachineError
from gristmill.training.device import Compute
from gristmill.training.parallel import Layout
from gristmill.training.parallel import watch as watch_module
from gristmill.training.parallel.watch import EXIT, Sign, Watch, behind, describe, mark_lost
from gristmill.training.watching import Watching
from tests.shared import HANG, wait_for
from tests.training.parallel.parity import tiny
from tests.training.parallel.ranks import run_ranks, world_of


def held_up_in_the_data(rank: int, folder: str, stuck: bool) -> tuple[list[int], bool]:
    """Two processes, the second of which stays in the data of a step until both have given up."""
    place, left = Path(folder), []

    def leave(code: int) -> None:
        left.append(code)
        (place / f"left-{rank}").touch()

    with Watch(place, rank, 2, limit=HANG, every=0.1, leave=leave) as watch:
        for step in range(6):
            watch("data", step)
            if stuck and step == 3:
                watch.limit = 2.0  # only now: how long the steps before take says nothing
                if rank == 1:
                    wait_for(lambda: (place / "left-0").exists() and (place / "left-1").exists())
            watch("collective")
            dist.all_reduce(torch.ones(1))
            watch("forward")
            watch("backward")
    return left, (place / "hang.txt").exists()


def test_the_report_names_the_process_that_the_others_wait_for(tmp_path):
    left = run_ranks(held_up_in_the_data, 2, str(tmp_path), True)
    assert [each for each, _ in left] == [[EXIT], [EXIT]]
    text = (tmp_path / "hang.txt").read_text()
    assert "the others wait for process 1: at step 3, in data" in text
    assert "wait_for(lambda" in text.partition("process 1, main thread:")[2].partition("process 0, main")[0]
    assert "all_reduce" in text.partition("process 0, main thread:")[2]
    found = json.loads((tmp_path / "hang.json").read_text())
    assert found["behind"] == [1]
    assert [(sign["step"], sign["phase"]) for sign in found["signs"]] == [(3, "collective"), (3, "data")]
    # A later start in the same folder does not take the old signs for its own, and has nothing to tell.
    assert run_ranks(held_up_in_the_data, 2, str(tmp_path / "fine"), False) == [([], False), ([], False)]


def watched(rank: int, folder: str) -> list[int]:
    """The steps at which each process is seen by this one."""
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(rank)  # torchrun's of each node counts for itself
    world = world_of(Layout(replicate=2))
    compute = Compute(torch.device("cpu"), torch.float32, 1)
    watching = Watching.begin(compute, world, Path(folder), tiny(), name="test", left=1, settings={}, say=print,
                              holding=dict)
    with watching.signs as watch:
        watch("data", 7)
        watch._write(0.0)
        world.barrier()
        signs = [sign.step for sign in watch._signs()]
        world.barrier()
    watching.close(finished=True)
    return signs


def test_processes_know_each_other_s_signs_and_not_those_of_an_earlier_start(tmp_path):
    for place, start in enumerate(("", "earlier")):
        (tmp_path / "telemetry/ranks").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"telemetry/ranks/rank-{place}.json").write_text(json.dumps({"rank": place, "start": start}))
    assert run_ranks(watched, 2, str(tmp_path)) == [[7, 7], [7, 7]]
    stale = Watch(tmp_path / "telemetry/ranks", 0, 2, start="another")
    assert [sign.phase for sign in stale._signs()] == ["not started", "not started"]


def test_one_process_alone_has_no_thread_and_no_files(tmp_path, monkeypatch):
    now = itertools.count(5)
    monkeypatch.setattr(watch_module, "time", SimpleNamespace(monotonic=lambda: float(next(now))))
    with Watch(tmp_path / "ranks") as watch:
        watch("data", 0)
        watch("forward")
        assert watch._thread is None
    assert watch.take() == {"start": 1.0, "data": 1.0, "forward": 1.0}
    assert set(watch.take()) == {"forward"}
    assert not (tmp_path / "ranks").exists()


def sign(rank: int, step: int = 5, phase: str = "forward", **more: object) -> Sign:
    return Sign(rank, step, phase, start="x", looks=3, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("signs", "stacks", "expected"), [
    ([sign(0), sign(1, 4, "report")], {}, [1]),
    ([sign(0, phase="collective"), sign(1, phase="data"), sign(2, phase="data")], {}, [1, 2]),
    ([sign(0, phase="backward"), sign(1, phase="optimizer")], {}, [0]),
    ([sign(0, 9), sign(1, 9, lost=True), sign(2, 2)], {}, [1]),
    ([sign(0), Sign(1)], {}, [1]),
    ([sign(0), sign(1)], {0: "torch/distributed/x.py", 1: "reading.py"}, [1]),
    ([sign(0), sign(1)], {0: "torch/distributed/x.py", 1: "torch/distributed/x.py"}, []),
    ([sign(0), sign(1)], {}, []),
])
def test_who_is_behind(signs, stacks, expected):
    assert [each.rank for each in behind(signs, stacks)] == expected
    text = describe(signs, stacks, 900)
    for rank in expected:
        assert f"wait for process {rank}:" in text
    assert ("a collective itself does not come back" in text) == (not expected)


def test_lost_are_those_that_do_not_look_any_more():
    assert mark_lost(sign(1), sign(1), own=0).lost
    assert not mark_lost(sign(0), sign(0), own=0).lost
    assert not mark_lost(sign(1), Sign(1, 5, "forward", start="x", looks=4), own=0).lost
    assert "no sign of life; it was at step 5 in forward" in describe(
        [sign(0), mark_lost(sign(1), sign(1), own=0)], {}, 900)


def test_a_slow_evaluation_of_the_first_process_is_no_hang(tmp_path, monkeypatch):
    watch = Watch(tmp_path, 1, 2, limit=10)
    for phase, step, idle, expected in (("evaluation", 3, 20.0, False), ("evaluation", 3, 45.0, True),
                                        ("data", 3, 11.0, True), ("data", 3, 5.0, False)):
        signs = [sign(0, step, phase, idle=idle, first=False), sign(1, 7, "collective", idle=11.0, first=False)]
        monkeypatch.setattr(watch, "_signs", lambda signs=signs: signs)
        assert watch._is_hanging(11.0) == expected
        assert watch._is_hanging(41.0)


def test_a_sign_that_cannot_be_written_ends_neither_the_watch_nor_the_training(tmp_path, monkeypatch, capfd):
    """The timer that ends a process without signs must be put off all the same."""
    timers, writes = [], itertools.count()

    def full(*_):
        next(writes)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(watch_module.faulthandler, "dump_traceback_later", lambda *a, **b: timers.append(a))
    monkeypatch.setattr(watch_module.os, "pwrite", full)
    with Watch(tmp_path, 0, 2, limit=HANG, every=0.01, leave=pytest.fail) as watch:
        wait_for(lambda: len(timers) > 3, watch._thread.is_alive)
    assert next(writes) > 3
    assert capfd.readouterr().err.count("the watch cannot write") == 1


def test_a_hang_on_a_full_disk_ends_without_a_report(tmp_path, monkeypatch, capfd):
    def full(*_):
        raise MachineError("the disk is full")

    left: list[int] = []
    monkeypatch.setattr(watch_module, "write_atomic", full)
    monkeypatch.setattr(Watch, "_is_hanging", lambda self, idle: True)
    with Watch(tmp_path, 0, 2, limit=0.1, leave=left.append) as watch:
        wait_for(lambda: left, watch._thread.is_alive)
    assert left == [EXIT]
    assert "makes no progress, and ends; there is no report: the disk is full" in capfd.readouterr().err


def test_a_step_costs_a_few_calls_and_writes_nothing(tmp_path):
    """Figures in docs/decisions.md; here only that nobody puts a write into the loop's side."""
    called: list[str] = []

    def note(frame, event, argument):
        if event in ("call", "c_call"):
            called.append(frame.f_code.co_name if event == "call" else argument.__name__)

    with Watch(tmp_path, 0, 2, limit=HANG) as watch:
        watch("data", 0)
        sys.setprofile(note)
        try:
            watch("data", 1)
        finally:
            sys.setprofile(None)
    assert set(called) == {"__call__", "monotonic", "get", "setprofile"}, called
    assert len(called) < 6
