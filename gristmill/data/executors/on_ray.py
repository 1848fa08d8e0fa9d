"""Jobs as Ray tasks: on this machine (`ray`) or on a cluster (`ray://host:10001`) whose nodes share the run's folder.

Ray is no dependency of the package: `pip install "gristmill[ray]"`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from gristmill.core.errors import MachineError
from gristmill.data.executors.job import Task, described, raised, resolve

AHEAD = 4
"""Tasks in flight for each worker: enough that none waits, few enough that an error ends the run soon."""


def run_tasks(job: str, tasks: Sequence[Task], address: str, workers: int,
              on_done: Callable[[Task, Any], None]) -> None:
    """Run `job` on every task; see `gristmill.data.executors.run_tasks`. workers: CPUs of a local Ray, 0 all."""
    if not tasks:
        return
    ray = _connected(address, workers)

    def attempt(task: Task) -> dict[str, Any]:
        try:
            return {"result": resolve(job)(**task)}
        except Exception as error:  # travels as data: an error class need not be known on the other side
            return {"error": described(error)}

    remote = ray.remote(attempt).options(num_cpus=1, max_retries=3)
    most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = list(reversed(tasks))
    flying: dict[Any, Task] = {}
    try:
        while waiting or flying:
            while waiting and len(flying) < most:
                task = waiting.pop()
                flying[remote.remote(task)] = task
            for reference in ray.wait(list(flying), num_returns=1)[0]:
                task = flying.pop(reference)
                try:
                    answer = ray.get(reference)
                except ray.exceptions.RayError as error:
                    raise MachineError(f"a Ray task died ({type(error).__name__})", where=str(task.get("target", "")),
                                       fix="look at the Ray dashboard; most often a node ran out of memory") from error
                if "error" in answer:
                    raise raised(answer["error"])
                on_done(task, answer["result"])
    finally:
        for reference in flying:
            ray.cancel(reference, force=True)


def _connected(address: str, workers: int) -> Any:
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise MachineError("Ray is not installed", where=f"executor {address}",
                           fix='pip install "gristmill[ray]", or leave out `--executor`') from error
    if not ray.is_initialized():
        here = {"num_cpus": workers or None, "include_dashboard": False}
        options = here if address == "ray" else {"address": address}
        try:
            ray.init(**options, log_to_driver=False, configure_logging=False)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise MachineError(f"no Ray can be reached ({error})", where=address,
                               fix="start it with `ray start --head`, and name it as ray://host:10001") from error
    return ray
