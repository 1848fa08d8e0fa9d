"""`run.json`: what a run is doing, for `status`, for the report and for whoever looks from outside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gristmill.core.files import write_json
from gristmill.pipeline.log import now
from gristmill.pipeline.plan import Plan, Step


class RunState:
    """The current state of a run, written whole at every change.

    {run, seed, state: running|done|failed|interrupted, stage (the one at work, or null), pid, started, finished,
    stages: [{name, kind, produces, identity, version, state, error}]} in the order of the recipe. A stage's identity
    is null while its inputs are still to come; its state is waiting, running, done, failed or interrupted.
    """

    def __init__(self, folder: Path, value: dict[str, Any]) -> None:
        self.path, self.value = folder / "run.json", value

    @classmethod
    def begin(cls, folder: Path, plan: Plan) -> RunState:
        entries = {}
        for step in plan.steps:
            entries[step.name] = {
                "name": step.name, "kind": step.kind, "produces": step.produces, "identity": step.identity,
                "version": step.version if step.artifact else None, "state": "done" if step.artifact else "waiting",
                "needs": step.needs, "error": None,
            }
        state = cls(folder, {
            "run": plan.recipe.name, "seed": plan.recipe.seed, "state": "running", "stage": None, "pid": os.getpid(),
            "started": now(), "finished": None, "stages": [entries[name] for name in plan.recipe.stages],
        })
        state._write()
        return state

    def start(self, step: Step) -> None:
        """A stage begins."""
        self.value["stage"] = step.name
        self._entry(step).update(identity=step.identity, version=None, state="running", error=None)
        self._write()

    def settle(self, step: Step) -> None:
        """A stage has its artifact."""
        self.value["stage"] = None
        self._entry(step).update(identity=step.identity, version=step.version, state="done", error=None)
        self._write()

    def fail(self, step: Step, state: str, error: str) -> None:
        """A stage ended without an artifact."""
        self._entry(step).update(state=state, error=error)
        self._write()

    def end(self, state: str) -> None:
        """The run ends; on a full disk the old file stands, and the error that ended the run goes on."""
        self.value.update(state=state, stage=None, finished=now())
        try:
            self._write()
        except Exception:
            if state == "done":
                raise

    def _entry(self, step: Step) -> dict[str, Any]:
        return next(e for e in self.value["stages"] if e["name"] == step.name)

    def _write(self) -> None:
        write_json(self.path, self.value)
