"""`gristmill status RUN`: what a run has and what it lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[str, typer.Argument(help="A run: its name, its folder or its recipe file.")],
    runs_dir: Annotated[Path, typer.Option(help="Where runs lie.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the stages of a run: missing, running, partial, failed, done or stale.

    Example:  gristmill status quickstart --json
    """
    from gristmill.pipeline.status import find_run, run_status

    value = run_status(find_run(run, runs_dir))
    if as_json:
        typer.echo(json.dumps(value, ensure_ascii=False))
        return
    from gristmill.pipeline.display import as_text, status_table

    typer.echo(as_text(status_table(value)))
