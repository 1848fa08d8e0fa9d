"""`gristmill export MODEL OUT`: a model as a public folder, proven to compute the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[str, typer.Argument(help="A model: recipe/stage@N, a path to an artifact, or a public folder.")],
    out: Annotated[Path, typer.Argument(help="The folder to make; it must not exist or be empty.")],
    evaluation: Annotated[str | None, typer.Option(help="An evaluation whose results go into the model card.")] = None,
    runs_dir: Annotated[Path, typer.Option(help="Where runs lie.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Export a model: safetensors, tokenizer and model card, in a folder that the public libraries open.

    The export is refused if the folder, read back, does not give the same logits.

    Example:  gristmill export quickstart/aligned my-model --evaluation quickstart/scores
    """
    from gristmill.core.progress import for_stream
    from gristmill.pipeline.standalone import run_alone
    from gristmill.pipeline.store import ArtifactStore
    from gristmill.recipe.registry import stage_class

    store = ArtifactStore(runs_dir)
    inputs = {model: store.resolve(model, ("model", "release"))}
    options = {}
    if evaluation is not None:
        inputs[evaluation] = store.resolve(evaluation, ("evaluation",))
        options["evaluation"] = evaluation
    metrics = run_alone(stage_class("export")(model=model, **options), inputs, out, progress=for_stream())
    if as_json:
        typer.echo(json.dumps({"model": model, "path": str(out), "metrics": metrics}, ensure_ascii=False))
    else:
        typer.echo(f"exported {inputs[model].name} to {out}")
