"""Pipeline: runs recipes and keeps what they leave.

In: a checked `Recipe` and a folder of runs. Out: finished artifacts (`runs/<recipe>/artifacts/<stage>@<N>`) with
their records, an event log, `run.json` and the HTML report. Identity decides what is reused, work folders make every
crash survivable, lineage leads from an artifact back to its sources. An entry room: it may import every room but cli,
which builds on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gristmill.pipeline.runner import Run, run
    from gristmill.pipeline.status import find_run, run_status
    from gristmill.pipeline.store import ArtifactStore

_HOMES = {"ArtifactStore": "store", "Run": "runner", "find_run": "status", "run": "runner",
          "run_status": "status"}

__all__ = ["ArtifactStore", "Run", "find_run", "run", "run_status"]


def __getattr__(name: str) -> Any:
    """Public names on first use; `gristmill --help` must not pay for pydantic."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"gristmill.pipeline.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
