"""One recipe on two processes, as `gristmill launch` starts it: the same result as on one, and through a kill -9."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gristmill.core.files import read_json, read_jsonl
from tests.lifecycle.conftest import MODULES, environment
from tests.lifecycle.conftest import gristmill as command

RECIPE = """
name: tiny
seed: 7
stages:
  corpus:
    uses: data
    sources: [{{kind: files, path: "{texts}", language: python}}]
    filter: {{preset: none}}
    split: {{valid: 0.15, test: 0.15}}
  tokenizer: {{uses: tokenizer, corpus: corpus, vocab_size: 512}}
  base:
    uses: pretrain
    corpus: corpus
    tokenizer: tokenizer
    model: {{depth: 1, dim: 64, heads: 2, context: 160}}
    budget: {{steps: 60}}
    batch: 8
    validation_tokens: 500
    training: {{evaluations: 2, checkpoint_seconds: 0.2, optimizer: {{kind: adamw, learning_rate: 1.0e-3}}}}
  scores: {{uses: evaluate, models: [base], corpus: corpus, max_bytes: 20000, tasks: [perplexity]}}
"""
OPTIONS = ("--precision", "fp32", "--compile", "never", "--no-report")
LAUNCH = ("--on", "torchrun", "--processes", "2", "--restarts", "1", "--submit")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    import importlib

    folder = tmp_path_factory.mktemp("processes")
    rows = [{"text": inspect.getsource(importlib.import_module(name)), "id": name} for name in MODULES[:24]]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "tiny.yaml").write_text(RECIPE.format(texts=folder / "texts.jsonl"))
    return folder / "tiny.yaml"


@pytest.fixture(scope="module")
def alone(recipe) -> Path:
    command("run", recipe, "--runs-dir", recipe.parent / "alone", *OPTIONS)
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


def test_two_processes_make_what_one_makes(recipe, alone):
    runs = recipe.parent / "two"
    done = command("launch", recipe, *LAUNCH, "--runs-dir", runs, "--", *OPTIONS)
    assert done.stderr.count("tiny: the plan") == 1
    same(runs / "tiny", alone)
    assert read_json(runs / "tiny/artifacts/base@1/artifact.json")["runtime"]["parallel"] == "auto"
    again = command("run", recipe, "--runs-dir", runs, *OPTIONS)
    assert "base: reused" in again.stderr


def test_kill_minus_nine_of_one_process_changes_nothing(recipe, alone):
    runs = recipe.parent / "killed"
    shutil.copytree(alone, runs / "tiny", ignore=shutil.ignore_patterns("base@1", "scores@1"))
    before = read_jsonl(runs / "tiny/log.jsonl")
    process = subprocess.Popen([sys.executable, "-m", "gristmill", "launch", str(recipe), *LAUNCH, "--runs-dir",
                                str(runs), "--", *OPTIONS], env=environment(), text=True, stderr=subprocess.PIPE,
                               stdout=subprocess.DEVNULL)
    trace = runs / "tiny/work/base/trace.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None and not (
            trace.exists() and len(read_jsonl(trace)) >= 12):
        time.sleep(0.02)
    assert process.poll() is None
    os.kill(with_rank(process.pid, 1), signal.SIGKILL)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert "another process of this training is gone" in said or "Interrupted" in said or "SIGTERM" in said
    same(runs / "tiny", alone)
    events = [line["event"] for line in read_jsonl(runs / "tiny/log.jsonl")[len(before):]]
    assert "stage_continued" in events


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
