"""`gristmill version`: what is installed."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with the libraries.")] = False,
) -> None:
    """Print the version of gristmill.

    Example:  gristmill version --json
    """
    import gristmill

    if not as_json:
        typer.echo(f"gristmill {gristmill.__version__}")
        return
    from gristmill.pipeline import provenance

    typer.echo(json.dumps({**provenance.code(), "libraries": provenance.libraries()}))
