"""A run that loses processes ends as one that nobody disturbed: the same rows in the same order, the same losses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.shared import HANG, wait_for
from tests.training.parallel import kill_trials
from tests.training.parallel.kill_trials import STEPS, lines, read_rows

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks" / "results" / "kill_trials.json"
MOST = 1e-6
"""Largest difference of a loss from the undisturbed run's."""


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}


FRESH_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""For launchers on several machines: a new store after every loss (docs/checkpoints.md)."""


def run_trials(folder: Path, kills: int, seed: int, timeout: float) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "tests.training.parallel.kill_trials", str(folder), str(kills),
                           str(seed)], capture_output=True, text=True, timeout=timeout, env=environment(), cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def assert_undisturbed(found: dict[str, Any], kills: int) -> None:
    assert found["kills"] >= kills
    for run in found["runs"]:
        assert run["same_steps"], run
        assert run["same_rows"], run
        assert run["same_tokens"], run
        assert run["loss_difference"] < MOST, run


@pytest.mark.slow
def test_three_kills_change_nothing(tmp_path):
    """Thirty more in `make verify`."""
    found = run_trials(tmp_path, 3, 1, timeout=HANG)
    assert_undisturbed(found, 3)
    assert found["loss_at_end"] < 0.9 * found["loss_at_start"]  # there was something to disturb


@pytest.mark.verify
def test_many_kills_change_nothing(tmp_path):
    found = run_trials(tmp_path, 32, 7, timeout=3500)
    assert_undisturbed(found, 30)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


def test_the_stored_trials_show_it():
    assert RESULTS.is_file(), "there is no stored result; `pytest -m verify` on this file makes one"
    stored = json.loads(RESULTS.read_text())
    assert_undisturbed(stored, 30)
    assert stored["kills_by_processes"]["2"] >= 10
    assert {size for run in stored["runs"] for size in run["started_on"][1:]} == {1, 2, 4}
    assert stored["steps"] == STEPS, "run the trials again"


# -- torchrun restarts by itself ---------------------------------------------------------------------------------------


def torchrun(folder: Path, *options: str, said: Path, steps: int = STEPS, **variables: str) -> subprocess.Popen:
    """What it says goes to a file: its processes would hold a pipe open beyond its end."""
    with said.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--monitor-interval", "0.1", *options, "-m",
             "tests.training.parallel.killed", str(folder), str(steps)],
            env=environment() | variables, cwd=ROOT, start_new_session=True, stdout=out, stderr=subprocess.STDOUT)


def wait_for_step(folder: Path, step: int, processes: list[subprocess.Popen]) -> None:
    wait_for(lambda: any(record["step"] >= step for record in lines(folder / "trace.jsonl")),
             lambda: all(process.poll() is None for process in processes), lambda: said_by(folder))


def said_by(folder: Path) -> str:
    return "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("*.log")))


def started(folder: Path) -> list[tuple[int, dict[str, int]]]:
    """Process number, rank and size of every process so far, in the order of their start."""
    found = sorted((folder / "processes").glob("*.json"), key=lambda path: path.stat().st_mtime)
    return [(int(path.stem), json.loads(path.read_text())) for path in found]


def assert_whole(folder: Path, steps: int = STEPS) -> None:
    assert [record["step"] for record in lines(folder / "trace.jsonl")] == list(range(1, steps + 1))
    order, fine = read_rows(folder)
    assert fine
    assert [row for update in order for row in update] == list(range(steps * kill_trials.killed.BATCH))


def end(folder: Path, processes: list[subprocess.Popen]) -> None:
    """torchrun's processes are in sessions of their own."""
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for number, _ in started(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


@pytest.mark.verify
def test_torchrun_starts_lost_processes_again_from_the_last_checkpoint(tmp_path):
    """In the suite tests/lifecycle/test_processes.py has torchrun start a killed training again."""
    process = torchrun(tmp_path, "--standalone", "--nproc-per-node", "2", "--max-restarts", "2",
                       said=tmp_path / "torchrun.log")
    try:
        wait_for_step(tmp_path, 8, [process])
        os.kill(started(tmp_path)[-1][0], signal.SIGKILL)
        assert process.wait(HANG) == 0, said_by(tmp_path)
    finally:
        end(tmp_path, [process])
    assert [about["size"] for _, about in started(tmp_path)] == [2, 2, 2, 2]  # both are started again
    assert_whole(tmp_path)


@pytest.mark.verify
def test_a_lost_machine_leaves_a_smaller_world_that_goes_on(tmp_path):
    """Two launchers stand for two machines, `--nnodes 1:2`; one is killed with all that it started."""
    port, options = meeting()
    first = torchrun(tmp_path, *options, said=tmp_path / "first.log", **FRESH_STORE)
    wait_for(lambda: listening(port), lambda: first.poll() is None)  # the first one holds the store where they meet
    second = torchrun(tmp_path, *options, said=tmp_path / "second.log", **FRESH_STORE)
    try:
        wait_for_step(tmp_path, 6, [first, second])
        both = started(tmp_path)
        assert [about["size"] for _, about in both] == [2, 2]
        os.killpg(second.pid, signal.SIGKILL)
        for number, _ in both:
            if child_of(number) != first.pid:
                os.kill(number, signal.SIGKILL)
        assert first.wait(HANG) == 0, said_by(tmp_path)
    finally:
        end(tmp_path, [first, second])
    assert [about["size"] for _, about in started(tmp_path)][-1] == 1, said_by(tmp_path)
    assert_whole(tmp_path)


@pytest.mark.verify
def test_machines_that_join_and_leave_change_nothing(tmp_path):
    """Two launchers stand for two machines, `--nnodes 1:2`: one begins alone, the other joins, is told to go (SIGTERM
    to its launcher), and comes back. Each torchrun has its own count of restarts by then."""
    steps, folder = 100, tmp_path / "disturbed"
    folder.mkdir()
    (folder / "slowly").touch()
    alone = subprocess.Popen([sys.executable, "-m", "tests.training.parallel.killed", str(tmp_path / "alone"),
                              str(steps)], env=environment(), cwd=ROOT)
    _, options = meeting("last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=3")
    first = torchrun(folder, *options, said=folder / "first.log", steps=steps, **FRESH_STORE)
    there, sizes, began = [first], [1, 2, 2, 1, 2, 2], []

    def joined() -> subprocess.Popen:
        there.append(torchrun(folder, *options, said=folder / f"{len(there)}.log", steps=steps, **FRESH_STORE))
        return there[-1]

    def trained(processes: int) -> None:
        """So many have been started by now, and the newest of them have done some steps."""
        wait_for(lambda: len(started(folder)) >= processes, lambda: first.poll() is None, lambda: said_by(folder))
        began.append(len(lines(folder / "trace.jsonl")))
        wait_for_step(folder, began[-1] + 3, [first])

    try:
        trained(1)
        second = joined()
        trained(3)
        second.terminate()
        trained(4)
        assert second.wait(HANG) != 0, "it must not seem that all is done"
        joined()
        trained(6)
        (folder / "slowly").unlink()
        assert [process.wait(HANG) for process in there] == [0, second.returncode, 0], said_by(folder)
        assert alone.wait(HANG) == 0
    finally:
        end(folder, there)
        alone.kill()
        alone.wait()
    assert [about["size"] for _, about in started(folder)] == sizes, said_by(folder)
    assert 0 == began[0] < began[1] < began[2] < began[3] < steps - 3
    assert_whole(folder, steps)
    for mine, other in zip(lines(folder / "trace.jsonl"), lines(tmp_path / "alone/trace.jsonl"), strict=True):
        assert mine["tokens"] == other["tokens"]
        assert mine["loss"] == pytest.approx(other["loss"], rel=MOST)


def meeting(settings: str = "last_call_timeout=15,keep_alive_interval=1,keep_alive_max_attempt=3"
            ) -> tuple[int, list[str]]:
    """A free port, and what launchers need to meet there, one or two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return port, ["--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "5", "--rdzv-backend", "c10d",
                  "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "kill", "--local-addr", "127.0.0.1",
                  "--rdzv-conf", settings]


def listening(port: int) -> bool:
    with socket.socket() as there:
        return there.connect_ex(("127.0.0.1", port)) == 0


def child_of(number: int) -> int:
    """The process that started another one; 0 where it is gone."""
    try:
        return int(Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0
