"""A process that dies at any change of the file system loses nothing and changes nothing.

A forked child runs the toy recipe and exits without any cleaning up just before its n-th change below the run's
folder (an audit hook counts them), for every n. A second run then finishes, and all must be as if nothing had happened.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import toy_stages  # noqa: F401  (importing it registers its stages, also in the processes below)

from gristmill.core.files import read_json
from gristmill.core.hashing import digest_folder
from gristmill.pipeline import provenance
from gristmill.pipeline.runner import run
from gristmill.pipeline.status import run_status
from tests.processes import start
from tests.shared import wait_for

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

RECIPE = {"name": "toy", "seed": 7, "stages": {
    "corpus": {"uses": "toy_corpus", "parts": 2},
    "base": {"uses": "toy_model", "corpus": "corpus", "budget": {"steps": 2}},
}}
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"}
DIED = 99


def is_change(event: str, arguments: tuple, below: str) -> bool:
    if event == "open":
        path, _, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        return bool(writes) and isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(below)
    return event in CHANGES and any(
        isinstance(a, (str, os.PathLike)) and os.fspath(a).startswith(below) for a in arguments)


def in_child(work) -> int:
    """Run `work` in a forked child that never returns here; its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            gc.disable()
            os.fsync = lambda descriptor: None  # waiting for the disk is not what is tested here
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_and_die(runs: Path, at: int, recipe=RECIPE) -> bool:
    """Run in a child that dies before its `at`-th change; True if it lived to the end."""
    def work() -> None:
        count = 0

        def hook(event: str, arguments: tuple) -> None:
            nonlocal count
            if (event == "open" or event in CHANGES) and is_change(event, arguments, str(runs)):
                count += 1
                if count == at:
                    os._exit(DIED)

        sys.addaudithook(hook)
        run(recipe, runs_dir=runs, report=False)

    code = in_child(work)
    assert code in (0, DIED)
    return code == 0


def payload(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*"))
            if p.is_file() and p.name != "artifact.json" and "telemetry" not in p.parts}


def stable(record: dict) -> dict:
    return {k: v for k, v in record.items() if k not in ("started", "finished", "seconds")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    runs = tmp_path_factory.mktemp("undisturbed")
    for look in (provenance.code, provenance.libraries, provenance.machine):
        look()  # cached here, inherited by every child
    assert in_child(lambda: run(RECIPE, runs_dir=runs, report=False)) == 0
    return runs / "toy"


def assert_as_undisturbed(folder: Path, undisturbed: Path) -> None:
    assert sorted(p.name for p in (folder / "artifacts").iterdir()) == ["base@1", "corpus@1"]
    assert payload(folder / "artifacts") == payload(undisturbed / "artifacts")
    for name in ("base@1", "corpus@1"):
        record = read_json(folder / "artifacts" / name / "artifact.json")
        assert record["digest"] == digest_folder(folder / "artifacts" / name)
        assert stable(record) == stable(read_json(undisturbed / "artifacts" / name / "artifact.json"))
    assert [s["state"] for s in run_status(folder)["stages"]] == ["done", "done"]
    assert not list((folder / "work").glob("[!.]*"))
    assert not list((folder / "work/.marks").iterdir())
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.slow
def test_death_before_every_single_change(tmp_path, undisturbed):
    at, lived = 0, False
    while not lived:
        at += 1
        runs = tmp_path / str(at)
        lived = run_and_die(runs, at)
        if (runs / "toy/run.json").exists():
            run_status(runs / "toy")
        assert run_and_die(runs, 10**9)
        assert_as_undisturbed(runs / "toy", undisturbed)
    assert at > 60


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_death_after_death(tmp_path, undisturbed, seed):
    """Many deaths in a row at random points, each run a little further than the one before."""
    chance = random.Random(seed)
    runs = tmp_path / "runs"
    deaths = 0
    while not run_and_die(runs, chance.randint(5, 60)):
        deaths += 1
        assert deaths < 200
    run_and_die(runs, 10**9)
    assert_as_undisturbed(runs / "toy", undisturbed)


@pytest.mark.slow
def test_death_between_two_recipes(tmp_path, undisturbed):
    """Unfinished work of another identity is never continued, and is taken up when its identity comes back."""
    other = {**RECIPE, "stages": {**RECIPE["stages"], "base": {**RECIPE["stages"]["base"], "rate": 0.5}}}
    for at in range(60, 110, 5):
        runs = tmp_path / str(at)
        run_and_die(runs, at)
        run_and_die(runs, 30 + at % 7, other)
        assert run_and_die(runs, 10**9)
        folder = runs / "toy/artifacts"
        mine = [p for p in folder.glob("base@*") if read_json(p / "artifact.json")["config"]["rate"] == 0.1]
        assert len(mine) == 1
        assert payload(mine[0]) == payload(undisturbed / "artifacts/base@1")


def run_toys(recipe: dict, runs: Path) -> None:
    run(recipe, runs_dir=runs, report=False)


@pytest.mark.slow
def test_sigkill_from_outside_at_random_moments(tmp_path):
    recipe = {**RECIPE, "stages": {**RECIPE["stages"], "base": {**RECIPE["stages"]["base"], "budget": {"steps": 40}}}}
    reference = tmp_path / "reference"
    in_child(lambda: run(recipe, runs_dir=reference, report=False))
    runs = tmp_path / "runs"
    chance, killed = random.Random(1), 0
    for _ in range(8):
        process = start(run_toys, recipe, runs)
        wait_for(lambda process=process: (runs / "toy/run.json").exists() or not process.alive())
        time.sleep(chance.random() * 0.25)
        killed += process.kill() == -signal.SIGKILL
    assert killed
    in_child(lambda: run(recipe, runs_dir=runs, report=False))
    assert payload(runs / "toy/artifacts") == payload(reference / "toy/artifacts")
