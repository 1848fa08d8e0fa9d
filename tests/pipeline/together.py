"""A run on several processes for tests: `python together.py RUNS RECIPE_JSON [OPTIONS_JSON]`, RANK and so on set.

The stage `toy_together` adds up over all processes, and does in one of them what it is told to.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import toy_stages  # noqa: F401  (importing it registers its stages)

from gristmill.core import interrupt
from gristmill.core.config import CorpusRef
from gristmill.core.errors import GristmillError, Interrupted, UserError
from gristmill.core.files import read_json, write_json
from gristmill.core.progress import Lines
from gristmill.core.stage import Runtime, StageContext, stage
from gristmill.pipeline import provenance
from gristmill.pipeline.ranks import place
from gristmill.pipeline.runner import run
from gristmill.recipe.registry import register


@register
@stage(kind="toy_together", produces="model", many_processes=True)
class ToyTogether:
    """Adds up ranks, step by step; each process keeps a file of its own until the end."""

    corpus: CorpusRef | None = None
    """Text."""
    steps: int = 3
    """How many times."""
    pause: float = 0.0
    """Seconds a step takes."""
    at: int = 2
    """At which step something happens."""
    who: int = 1
    """To which process."""
    what: Literal["nothing", "fail", "bug", "die once", "wrong"] = "nothing"
    """What."""

    def run(self, context: StageContext) -> dict[str, Any]:
        here = place()
        world = dist.get_world_size() if dist.is_initialized() else 1
        if self.what == "wrong":
            raise UserError("wrong on every process", fix="set it right")
        assert context.inputs[self.corpus].path.is_dir()
        own = context.scratch / f"rank-{here.rank}.json"
        # As with a checkpoint, all go on from the same place, however many they were before.
        last = context.scratch / "rank-0.json"
        state = read_json(last) if last.exists() else {"step": 0, "sum": 0}
        if world > 1:
            dist.barrier()
        with interrupt.deferred():
            while state["step"] < self.steps:
                if state["step"] == self.at and here.rank == self.who:
                    self._happen(context)
                value = torch.tensor([here.rank + 1 + context.seed % 7, int(interrupt.requested())])
                if world > 1:
                    dist.all_reduce(value)
                time.sleep(self.pause)
                state = {"step": state["step"] + 1, "sum": state["sum"] + int(value[0])}
                write_json(own, state)
                if value[1]:
                    interrupt.stop()
        if here.rank == 0:
            write_json(context.work / "config.json", {"sum": state["sum"], "world": world})
        return {"sum": state["sum"], "seed": context.seed}

    def _happen(self, context: StageContext) -> None:
        if self.what == "fail":
            raise UserError("no more of this", where="row 7", fix="give more")
        if self.what == "bug":
            raise ZeroDivisionError("a fault")
        flag = context.scratch / "died"
        if self.what == "die once" and not flag.exists():
            flag.write_text("")
            os.kill(os.getpid(), 9)


@register
@stage(kind="toy_together_slow", produces="corpus")
class ToySlow:
    """A long stage of one process."""

    seconds: float = 1.0
    """How long."""

    def run(self, context: StageContext) -> dict[str, Any]:
        time.sleep(self.seconds)
        return {}


def main() -> None:
    runs, recipe, options = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads((sys.argv[3:] or ["{}"])[0])
    mine = options.pop("only", {}).get(str(place().rank), {})
    if "code" in mine:
        provenance.code = lambda: mine["code"]  # type: ignore[assignment]
    recipe = {**recipe, **mine.get("recipe", {})}
    runtime = Runtime(**options.pop("runtime", {}))
    try:
        done = run(recipe, runs_dir=runs, report=False, progress=Lines(), runtime=runtime, **options)
    except (GristmillError, Interrupted) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from error
    print(json.dumps({"rank": place().rank, "artifacts": {n: a.digest for n, a in done.artifacts.items()},
                      "ran": done.ran}), flush=True)


if __name__ == "__main__":
    main()
