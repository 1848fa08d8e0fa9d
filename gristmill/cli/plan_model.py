"""`gristmill plan model MODEL`: parameters, FLOPs, cache and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[str, typer.Argument(
        help="FAMILY, FAMILY:PRESET, a recipe (.yaml), or a folder with config.json.")],
    context: Annotated[int | None, typer.Option(help="Tokens a row; default the model's.")] = None,
    targets: Annotated[int | None, typer.Option(
        help="Tokens that the decoder of an encoder-decoder writes for a row.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Blocks of a family without a preset; default 6.")] = None,
    vocab_size: Annotated[int | None, typer.Option(min=1, help="Tokens of the vocabulary.")] = None,
    stage: Annotated[str | None, typer.Option(help="Which stage of the recipe, where several pretrain.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with charts here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Count a model's parameters by part, the FLOPs of a token, its cache and its weights. Exact; nothing is allocated.

    Example:  gristmill plan model llama:smollm2-135m
    """
    from gristmill.cli.plan_source import read_source
    from gristmill.planning.model import plan_model

    found = read_source(model, stage=stage, depth=depth, vocab_size=vocab_size)
    plan = plan_model(found.name, found.config, found.context if context is None else context, targets)
    if html is not None:
        from gristmill.pipeline.report.plan_page import write_plan_page
        from gristmill.pipeline.report.plan_sections import model_sections

        write_plan_page(html, plan.name, "What the model is made of", model_sections(plan))
    if as_json:
        typer.echo(json.dumps(plan.as_json(), ensure_ascii=False))
        return
    from gristmill.cli.plan_display import model_tables, print_tables

    print_tables(model_tables(plan))
