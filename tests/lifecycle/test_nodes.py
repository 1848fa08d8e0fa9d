"""Nodes that come and go during one recipe, as `gristmill launch --nodes 2 --min-nodes 1` has them started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gristmill.core.files import read_json, read_jsonl
from tests.lifecycle.conftest import MODULES, write_recipe
from tests.lifecycle.test_processes import OPTIONS, same
from tests.processes import run_command
from tests.shared import HANG, wait_for

STEPS = 150
QUICKLY = "--rdzv-conf=last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=3"
"""Else torchrun waits half a minute for nodes that may still come, and a quarter for those that are gone."""


class Nodes:
    """Two scripts that stand for two nodes."""

    def __init__(self, recipe: Path) -> None:
        self.folder, self.runs, self.started = recipe.parent, recipe.parent / "runs", []
        script = recipe.parent / "job.sh"
        run_command("launch", recipe, "--on", "torchrun", "--nodes", 2, "--min-nodes", 1, "--restarts", 3, "--runs-dir",
                    self.runs, "--write", script, "--", *OPTIONS)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.script = script.read_text().replace(":29500", f":{port}").replace("--rdzv-id", f"{QUICKLY} --rdzv-id")
        assert QUICKLY in self.script

    def begin(self) -> subprocess.Popen:
        with (self.folder / f"{len(self.started)}.log").open("wb") as said:
            node = subprocess.Popen(["bash", "-c", self.script], stdout=said, stderr=subprocess.STDOUT,
                                    env={**os.environ, "HEAD": "127.0.0.1"})
        self.started.append(node)
        return node

    def said(self) -> str:
        return "\n".join(log.read_text()[-3000:] for log in sorted(self.folder.glob("*.log")))

    def step(self) -> int:
        trace = self.runs / "tiny/work/base/trace.jsonl"
        return read_jsonl(trace)[-1]["step"] if trace.exists() and read_jsonl(trace) else 0

    def trained(self, size: int) -> None:
        """Wait until the first node's process is one of `size`, and has trained a little."""
        def going() -> bool:
            return self.started[0].poll() is None

        wait_for(lambda: self.size() == size, going, self.said)
        began = self.step()
        wait_for(lambda: self.step() > began + 3, going, self.said)

    def processes(self, node: subprocess.Popen) -> list[int]:
        try:
            return list(map(int, Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()))
        except OSError:
            return []

    def size(self) -> int:
        """Of what the first node's process is one."""
        with contextlib.suppress(OSError):  # it may be gone meanwhile
            for child in self.processes(self.started[0]):
                for variable in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                    if variable.startswith(b"WORLD_SIZE="):
                        return int(variable.partition(b"=")[2])
        return 0

    def end(self) -> None:
        for node in self.started:
            for number in [*self.processes(node), node.pid] if node.poll() is None else []:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            node.wait()


@pytest.mark.verify
def test_a_node_joins_leaves_and_comes_back_and_nothing_is_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    recipe = write_recipe(tmp_path, MODULES[:24], ("corpus", "tokenizer", "base", "scores"),
                          base={"budget": {"steps": STEPS}, "batch": 64, "training": {
                              "evaluations": 2, "checkpoint_seconds": 0.5,
                              "optimizer": {"kind": "adamw", "learning_rate": 1e-3}}},
                          scores={"models": ["base"], "tasks": ["perplexity"]})
    run_command("run", recipe, "--runs-dir", tmp_path / "alone", *OPTIONS)
    nodes = Nodes(recipe)
    try:
        first = nodes.begin()
        nodes.trained(1)
        second = nodes.begin()
        nodes.trained(2)
        second.terminate()
        nodes.trained(1)
        assert second.wait(HANG) != 0, "it must not seem that all is done"
        third = nodes.begin()
        nodes.trained(2)
        assert [first.wait(HANG), third.wait(HANG)] == [0, 0], nodes.said()
    finally:
        nodes.end()
    same(nodes.runs / "tiny", tmp_path / "alone" / "tiny")
    assert read_json(nodes.runs / "tiny/run.json")["state"] == "done"
    events = [line["event"] for line in read_jsonl(nodes.runs / "tiny/log.jsonl")]
    assert events.count("stage_interrupted") == 3, events
    assert events.count("run_finished") == 1
