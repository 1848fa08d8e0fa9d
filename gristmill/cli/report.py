"""`gristmill report RUN`: write the HTML report of a run."""

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
    """Write a run's report: one HTML file with everything that happened.

    Example:  gristmill report quickstart
    """
    from gristmill.pipeline.report import write_report
    from gristmill.pipeline.status import find_run

    path = write_report(find_run(run, runs_dir))
    typer.echo(json.dumps({"report": str(path)}) if as_json else str(path))
