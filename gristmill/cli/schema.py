"""`gristmill schema`: the JSON Schema of recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path | None, typer.Argument(help="A file to write; stdout if left out.")] = None,
) -> None:
    """Print the JSON Schema of recipes, for editors that complete and check YAML.

    Example:  gristmill schema recipe.schema.json, then put this line on top of a recipe:
    # yaml-language-server: $schema=recipe.schema.json
    """
    from gristmill.core.files import write_atomic
    from gristmill.recipe.json_schema import recipe_schema

    skipped: dict[str, str] = {}
    text = json.dumps(recipe_schema(skipped), indent=2, ensure_ascii=False) + "\n"
    for kind, why in skipped.items():
        typer.echo(f"left out: {kind} ({why})", err=True)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(out.absolute(), text)
        typer.echo(f"wrote {out}", err=True)
