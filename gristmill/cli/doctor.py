"""`gristmill doctor`: what this machine can do, and how to mend what it cannot."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def command(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port that serving would use.")] = 8000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check cores, memory, disk, bf16, GPU, compiler and extras; exits with 1 if something needed is missing.

    Example:  gristmill doctor
    """
    from gristmill.pipeline.machine import examine

    checks = examine(port)
    if as_json:
        typer.echo(json.dumps({"ok": all(c.state != "missing" for c in checks), "checks": [vars(c) for c in checks]}))
    else:
        marks = {"ok": "ok  ", "warn": "warn", "missing": "FAIL"}
        for check in checks:
            typer.echo(f"{marks[check.state]}  {check.name:<18} {check.found}")
            if check.fix:
                typer.echo(f"      {'':<18} to mend it: {check.fix}")
    if any(check.state == "missing" for check in checks):
        raise typer.Exit(1)
