"""Jobs in worker processes: pure functions from files to files, so the number of workers cannot change the result.

The workers are fresh interpreters fed with JSON lines, not forks (threads and forks do not mix) and not
`multiprocessing` (which would run the user's own script again in every worker). A worker ends when its input closes,
so none outlives a killed parent.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gristmill.core import errors
from gristmill.core.errors import GristmillError, InternalError, MachineError

Task = dict[str, Any]
"""JSON-ready keyword arguments of a job."""


def available_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(job: str, tasks: Sequence[Task], workers: int, on_done: Callable[[Task, Any], None]) -> None:
    """Run `job` ("module:function") on every task; `on_done(task, result)` is called here as each one ends.

    workers: processes; 0 means as many as cores. The error of a task ends the run and is raised here.
    """
    workers = min(workers or available_cores(), len(tasks))
    if workers <= 1:
        function = _resolve(job)
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
                raise _error(answer["error"])
            on_done(task, answer["result"])
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()


def _resolve(job: str) -> Callable[..., Any]:
    module, _, function = job.partition(":")
    return getattr(importlib.import_module(module), function)


def _start(job: str) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        # -P: a file of the user's called json.py must not take the place of Python's
        [sys.executable, "-P", "-m", "gristmill.data.workers", job], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, start_new_session=True,
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
            died = MachineError(f"a worker process died (exit code {process.wait()})", where=str(task.get("source")),
                                fix="most often memory ran out: use fewer workers")
            results.put((task, {"error": _describe(died)}))
            return
        results.put((task, json.loads(line)))


def _error(described: dict[str, Any]) -> GristmillError:
    kind = getattr(errors, described["type"], InternalError)
    return kind(described["what"], where=described["where"], fix=described["fix"])


def _describe(error: BaseException) -> dict[str, Any]:
    if isinstance(error, GristmillError):
        return {"type": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
    if isinstance(error, MemoryError):
        return _describe(MachineError("memory ran out in a worker", fix="use fewer workers"))
    return _describe(InternalError("".join(traceback.format_exception(error))))


def main(job: str) -> None:
    """A worker's life: read a task, do it, answer, until the input ends."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    function = _resolve(job)
    for line in sys.stdin.buffer:
        try:
            answer = {"result": function(**json.loads(line))}
        except Exception as error:  # every failure travels to the parent, which raises it
            answer = {"error": _describe(error)}
        try:
            answers.write(json.dumps(answer).encode() + b"\n")
        except BrokenPipeError:  # the parent was killed
            return


if __name__ == "__main__":
    main(sys.argv[1])
