"""Jobs in worker processes: pure functions from files to files, so the number of workers cannot change the result.

The workers are fresh interpreters fed with JSON lines, not forks (threads and forks do not mix) and not
`multiprocessing` (which would run the user's own script again in every worker). A worker ends when its input closes,
so none outlives a killed parent.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gristmill.core.errors import MachineError
from gristmill.data.executors.job import Task, described, raised, resolve


def available_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(job: str, tasks: Sequence[Task], workers: int, on_done: Callable[[Task, Any], None]) -> None:
    """Run `job` ("module:function") on every task; `on_done(task, result)` is called here as each one ends.

    workers: processes; 0 means as many as cores. The error of a task ends the run and is raised here.
    """
    workers = min(workers or available_cores(), len(tasks))
    if workers <= 1:
        function = resolve(job)
        for task in tasks:
            on_done(task, function(**task))
        return
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    results: queue.SimpleQueue[tuple[Task, dict[str, Any]]] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    processes = [_start(job) for _ in range(workers)]
    try:
        for process in processes:
            threading.Thread(target=_feed, args=(process, waiting, results), daemon=True).start()
        for _ in tasks:
            task, answer = results.get()
            if "error" in answer:
                raise raised(answer["error"])
            on_done(task, answer["result"])
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()


def _start(job: str) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[3])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        # -P: a file of the user's called json.py must not take the place of Python's
        [sys.executable, "-P", "-m", "gristmill.data.executors.worker", job],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        # One thread each: more would fight over the cores that the other workers have.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}, start_new_session=True,
    )


def _feed(process: subprocess.Popen[bytes], waiting: queue.SimpleQueue[Task],
          results: queue.SimpleQueue[tuple[Task, dict[str, Any]]]) -> None:
    """Give one worker tasks until there are no more."""
    assert process.stdin
    assert process.stdout
    while True:
        try:
            task = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = b""
        if not line:
            died = MachineError(f"a worker process died (exit code {process.wait()})",
                                where=str(task.get("target", "")), fix="most often memory ran out: use fewer workers")
            results.put((task, {"error": described(died)}))
            return
        results.put((task, json.loads(line)))
