"""What every process but the first does in a run of several: wait, take part in the stages of all, and leave.

It writes nothing of the run itself: no lock, no log, no record, no progress. Inside a stage the stage's own code says
who writes what (shards of checkpoints, telemetry of its own).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gristmill.core.artifact import Artifact
from gristmill.core.errors import InternalError, Interrupted, MachineError, Told
from gristmill.core.progress import Silent
from gristmill.core.stage import Runtime, StageContext
from gristmill.pipeline.guard import guarded
from gristmill.pipeline.ranks import Follower, Place, exit_code
from gristmill.pipeline.writers import writer_opener
from gristmill.recipe.schema import Recipe

VISIBLE = 120.0
"""Seconds for a folder that the first process has made to show here: network file systems remember what was not."""


def message(stage: str, context: StageContext) -> dict[str, Any]:
    """A stage of all as the others get it: the config they have, as their recipe is the same."""
    return {
        "stage": stage, "name": context.name, "seed": context.seed, "work": str(context.work.absolute()),
        "cache": str(context.cache.absolute()), "checkpoints": str(context.checkpoints),
        "runtime": asdict(context.runtime),
        "inputs": {text: {"path": str(artifact.path.absolute()), "record": dict(artifact.record)}
                   for text, artifact in context.inputs.items()}}


def follow(here: Place, load: Callable[[], Recipe], card: Callable[[Recipe], Mapping[str, Any]]
           ) -> tuple[Recipe, dict[str, str]]:
    """Follow the first process to the end of its run; returns the recipe, and stage -> path of its artifact.

    Raises SystemExit with the first process's exit code where it has told already what went wrong, and this process's
    own error, which the first process hears of, otherwise.
    """
    follower = Follower(here)
    try:
        try:
            recipe = load()
        except Told as error:
            follower.meet({"error": str(error)})
            raise
        follower.meet(card(recipe))
        while "stage" in (said := follower.wait()):
            _take_part(follower, recipe, said)
    except Interrupted as error:
        follower.fail(error)
        follower.leave()
        raise SystemExit(error.exit_code) from error
    except Exception as error:
        follower.fail(error)
        # The same mistake hits every process; it is enough if the first one tells it.
        end = follower.leave(patience=1.5)
        if end is not None and end["code"] == exit_code(error) and str(error) == end["error"]:
            raise SystemExit(exit_code(error)) from error
        if isinstance(error, Told):
            raise type(error)(f"process {here.rank}: {error.what}", where=error.where, fix=error.fix) from error
        raise InternalError(f"process {here.rank}: {type(error).__name__}: {error}",
                            fix="this is a fault of ours; please report it") from error
    if said["code"]:
        raise SystemExit(said["code"])
    return recipe, said["artifacts"]


def _take_part(follower: Follower, recipe: Recipe, said: Mapping[str, Any]) -> None:
    for path in (said["work"], said["cache"], *(given["path"] for given in said["inputs"].values())):
        _await(Path(path), follower.here.rank)
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in said["runtime"].items()}
    runtime = Runtime(**given)
    context = StageContext(
        name=said["name"], seed=said["seed"], work=Path(said["work"]), cache=Path(said["cache"]), runtime=runtime,
        inputs={text: Artifact(Path(given["path"]), given["record"]) for text, given in said["inputs"].items()},
        progress=Silent(), open_writer=writer_opener(runtime),
        checkpoints=said["checkpoints"] if runtime.checkpoints else "")
    with follower.together(said):
        guarded(said["stage"], recipe.stages[said["stage"]], context.work, context)


def _await(path: Path, rank: int) -> None:
    deadline = time.monotonic() + VISIBLE
    while not path.exists():
        if time.monotonic() > deadline:
            raise MachineError("this folder of the first process is not here", where=str(path),
                               fix="several nodes need a folder that all of them share for --runs-dir and for what the "
                                   "recipe names")
        time.sleep(0.5)
