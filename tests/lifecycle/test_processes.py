"""One recipe on two processes, as `gristmill launch` starts it: the same result as on one, and through a kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gristmill.core.files import read_json, read_jsonl
from tests.lifecycle.conftest import MODULES, write_recipe
from tests.processes import run_command
from tests.shared import HANG, wait_for

OPTIONS = ("--precision", "fp32", "--compile", "never", "--no-report")
LAUNCH = ("--on", "torchrun", "--processes", "2", "--restarts", "1", "--submit")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    return write_recipe(
        tmp_path_factory.mktemp("processes"), MODULES[:24], ("corpus", "tokenizer", "base", "scores"),
        base={"budget": {"steps": 30}, "training": {"evaluations": 2, "checkpoint_seconds": 0.1, "optimizer": {
            "kind": "adamw", "learning_rate": 1e-3}}},
        scores={"models": ["base"], "tasks": ["perplexity"]})


@pytest.fixture(scope="module")
def alone(recipe) -> Path:
    run_command("run", recipe, "--runs-dir", recipe.parent / "alone", *OPTIONS)
    return recipe.parent / "alone" / "tiny"


@pytest.fixture(autouse=True)
def path(monkeypatch) -> None:
    """torchrun stands beside this Python."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def same(run: Path, reference: Path) -> None:
    """The data bit for bit, every loss to 1e-6, every step once, and nothing of the processes in the artifact."""
    def digest(folder: Path, stage: str) -> str:
        return read_json(folder / f"artifacts/{stage}@1/artifact.json")["digest"]

    for stage in ("corpus", "tokenizer"):
        assert digest(run, stage) == digest(reference, stage)
    base, whole = run / "artifacts/base@1", reference / "artifacts/base@1"
    ours, theirs = read_jsonl(base / "trace.jsonl"), read_jsonl(whole / "trace.jsonl")
    assert [line["step"] for line in ours] == list(range(1, len(theirs) + 1))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["tokens"] == other["tokens"]
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-6)
    listed = [sorted(str(p.relative_to(folder)) for p in folder.rglob("*")
                     if p.is_file() and "telemetry" not in p.parts) for folder in (base, whole)]
    assert listed[0] == listed[1]
    scores = [read_json(folder / "artifacts/scores@1/artifact.json")["metrics"] for folder in (run, reference)]
    assert scores[0].keys() == scores[1].keys()


def test_two_processes_of_which_one_is_killed_make_what_one_makes(recipe, alone):
    """All of it on two: each stage, a kill -9 in the middle of the training, and what torchrun starts again."""
    runs = recipe.parent / "two"
    with (recipe.parent / "said").open("wb") as said:
        process = subprocess.Popen([sys.executable, "-m", "gristmill", "launch", str(recipe), *LAUNCH, "--runs-dir",
                                    str(runs), "--", *OPTIONS], env={**os.environ, "OMP_NUM_THREADS": "1"},
                                   stdout=subprocess.DEVNULL, stderr=said)
    trace = runs / "tiny/work/base/trace.jsonl"
    wait_for(lambda: trace.exists() and len(read_jsonl(trace)) >= 8, lambda: process.poll() is None,
             (recipe.parent / "said").read_text)
    os.kill(with_rank(process.pid, 1), signal.SIGKILL)
    code, told = process.wait(HANG), (recipe.parent / "said").read_text()
    assert code == 0, told
    assert told.count("tiny: the plan") == 2, "one process speaks, in each try"
    assert "another process of this training is gone" in told or "Interrupted" in told or "SIGTERM" in told
    same(runs / "tiny", alone)
    assert read_json(runs / "tiny/artifacts/base@1/artifact.json")["runtime"]["parallel"] == "auto"
    assert "stage_continued" in [line["event"] for line in read_jsonl(runs / "tiny/log.jsonl")]
    again = run_command("run", recipe, "--runs-dir", runs, *OPTIONS)
    assert "base: reused" in again.stderr


def with_rank(parent: int, rank: int) -> int:
    """The process below `parent` that torchrun started as `rank`."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in map(int, children):
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return child
        try:
            return with_rank(child, rank)
        except LookupError:
            continue
    raise LookupError(rank)
