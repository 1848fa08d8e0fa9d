"""Who does the work: processes of this machine, or a Ray cluster. A job is a pure function from files to files, named
"module:function", so neither the executor nor the number of its workers can change the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gristmill.core.errors import UserError
from gristmill.core.stage import Runtime
from gristmill.data.executors.job import Task
from gristmill.data.executors.local import available_cores


def run_tasks(job: str, tasks: Sequence[Task], runtime: Runtime, on_done: Callable[[Task, Any], None]) -> None:
    """Run `job` on every task, where `runtime` says; `on_done(task, result)` is called here as each one ends. The error
    of a task ends the run and is raised here."""
    if runtime.executor == "local":
        from gristmill.data.executors import local

        local.run_tasks(job, tasks, runtime.workers, on_done)
    elif runtime.executor == "ray" or runtime.executor.startswith("ray://"):
        from gristmill.data.executors import on_ray

        on_ray.run_tasks(job, tasks, runtime.executor, runtime.workers, on_done)
    else:
        raise UserError(f"there is no executor {runtime.executor!r}", where="--executor",
                        fix="choose local, ray or ray://HOST:PORT")


__all__ = ["Task", "available_cores", "run_tasks"]
