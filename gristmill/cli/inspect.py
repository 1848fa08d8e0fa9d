"""`gristmill inspect ARTIFACT`: where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    artifact: Annotated[str, typer.Argument(help="recipe/stage@N, recipe/stage (the newest), or a folder.")],
    runs_dir: Annotated[Path, typer.Option(help="Where runs lie.")] = Path("runs"),
    verify: Annotated[bool, typer.Option("--verify", help="Read the payload again and compare its digest.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show an artifact and its lineage, back to the sources of its text.

    Example:  gristmill inspect quickstart/base@1
    """
    from gristmill.pipeline import lineage
    from gristmill.pipeline.store import ArtifactStore

    found = ArtifactStore(runs_dir).resolve(artifact)
    if verify:
        lineage.verify(found)
    value = lineage.lineage(found)
    if as_json:
        typer.echo(json.dumps(value, ensure_ascii=False))
        return
    from gristmill.pipeline.display import as_text, record_table

    typer.echo(as_text(record_table(found)))
    typer.echo("")
    typer.echo("\n".join(lineage.tree_lines(value)))
    if verify:
        typer.echo("payload verified: it is what the record says")
