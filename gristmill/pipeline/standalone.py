"""One stage by itself, outside any recipe: its inputs are given, its payload goes to a folder of the user's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gristmill.core import interrupt
from gristmill.core.artifact import Artifact
from gristmill.core.errors import UserError
from gristmill.core.files import disk_errors
from gristmill.core.progress import Progress, Silent
from gristmill.core.seeds import derive_seed
from gristmill.core.stage import Runtime, StageContext
from gristmill.pipeline.guard import guarded
from gristmill.pipeline.work import flush_tree
from gristmill.pipeline.writers import writer_opener


def run_alone(config: Any, inputs: Mapping[str, Artifact], out: Path | str, *, seed: int = 0,
              runtime: Runtime | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Run the stage `config` and put what it makes at `out`, which must not exist or be empty; returns its metrics.

    inputs: reference text in the config -> artifact. The folder appears when it is complete, or not at all.
    """
    out = Path(out).expanduser().absolute()
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError("this already exists and would be overwritten", where=str(out), fix="name a new folder")
    kind = type(config).kind
    work = out.parent / f".{out.name}.{os.getpid()}.tmp"
    with interrupt.handlers():
        try:
            with disk_errors(out):
                work.mkdir(parents=True)
                context = StageContext(name=out.name, seed=derive_seed(seed, kind), work=work,
                                       cache=work / ".scratch" / "cache", inputs=inputs, runtime=runtime or Runtime(),
                                       progress=progress or Silent(), open_writer=writer_opener(runtime or Runtime()))
                metrics = dict(guarded(kind, config, work, context) or {})
                for scraps in (".scratch", "telemetry"):
                    shutil.rmtree(work / scraps, ignore_errors=True)
                flush_tree(work)
                if out.is_dir():
                    out.rmdir()
                work.rename(out)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return metrics
