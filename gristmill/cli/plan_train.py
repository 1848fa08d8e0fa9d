"""`gristmill plan train MODEL`: memory, time, money, energy and carbon of a training run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gristmill.planning.tables import Tables
    from gristmill.planning.train import TrainingPlan


def command(
    model: Annotated[str, typer.Argument(
        help="A recipe (.yaml), FAMILY:PRESET, a folder with config.json, or a plan file (.yaml with `plan: train`).")],
    tokens: Annotated[str | None, typer.Option(
        help="Tokens to train on, e.g. 20B; default what the recipe says.")] = None,
    hardware: Annotated[str | None, typer.Option(
        help="Devices, e.g. h100-sxm:64; without a number as few as fit and end in time; default whatever is cheapest. "
             "cpu is this machine and needs --calibrate or --mfu.")] = None,
    region: Annotated[str | None, typer.Option(
        help="Where the electricity comes from, e.g. FR; default the world.")] = None,
    parallel: Annotated[str | None, typer.Option(
        help="Layout, e.g. shard=8,tensor=2 (replicate, shard, tensor, pipeline, context, expert, zero); default the "
             "fastest that fits.")] = None,
    checkpointing: Annotated[str | None, typer.Option(
        help="none, selective or full; default the lightest that fits.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens a row.")] = None,
    batch_tokens: Annotated[str | None, typer.Option(help="Tokens an update, e.g. 4M.")] = None,
    micro_batch: Annotated[int | None, typer.Option(help="Rows that go through a replica at once.")] = None,
    optimizer: Annotated[str | None, typer.Option(
        help="muon, adamw, adamw8bit, adam, lion, adafactor, momentum (sgd with it) or sgd; default the recipe's, else "
             "adamw.")] = None,
    precision: Annotated[str | None, typer.Option(
        help="bf16 (products in bf16 over fp32 weights) or fp32; default bf16, on this machine what training chooses."
    )] = None,
    epochs: Annotated[float, typer.Option(help="How often each token is read.")] = 1.0,
    within_days: Annotated[float | None, typer.Option(help="Add devices until the run ends in time.")] = None,
    mfu: Annotated[float | None, typer.Option(
        help="Share of the peak, in place of the spread of published runs.")] = None,
    price: Annotated[float | None, typer.Option(help="US dollars for a device for an hour.")] = None,
    device_watts: Annotated[float | None, typer.Option(help="Average power of a device.")] = None,
    pue: Annotated[float | None, typer.Option(help="Energy of the building over energy of its computers.")] = None,
    grid_g_per_kwh: Annotated[float | None, typer.Option(help="Grams CO2e a kWh, in place of a region.")] = None,
    development: Annotated[float | None, typer.Option(help="All runs over the final one, e.g. 1.5.")] = None,
    embodied: Annotated[bool, typer.Option("--embodied", help="Count the making of the devices too.")] = False,
    hardware_file: Annotated[Path | None, typer.Option(
        help="Your own rows of hardware, prices, grids and assumptions; they win.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Blocks of a family without a preset.")] = None,
    vocab_size: Annotated[int | None, typer.Option(min=1, help="Tokens of the vocabulary.")] = None,
    stage: Annotated[str | None, typer.Option(help="Which stage of the recipe, where several pretrain.")] = None,
    calibrate: Annotated[bool, typer.Option(
        "--calibrate", help="Train the model's shape for about 20 steps here; the measured speed replaces the assumed "
                            "one. Plans for this machine.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with charts here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Plan a training run: does it fit, how long, how much money, electricity and CO2e, and what would be cheaper?

    Example:  gristmill plan train llama:smollm2-135m --tokens 20B --hardware h100-sxm:8 --region FR
    """
    from gristmill.planning.inputs import number
    from gristmill.planning.plan_file import is_plan_file
    from gristmill.planning.tables import from_files

    tables = from_files(*([hardware_file] if hardware_file else []))
    if model.endswith((".yaml", ".yml")) and is_plan_file(Path(model)):
        _filed(Path(model), tables, as_json, html)
        return
    from gristmill.cli.plan_source import read_source
    from gristmill.planning.train import plan_training

    source = read_source(model, stage=stage, depth=depth, vocab_size=vocab_size)
    given = {"mfu": mfu, "usd_per_hour": price, "device_watts": device_watts, "pue": pue,
             "grid_g_per_kwh": grid_g_per_kwh, "development": development, "embodied": embodied}
    wanted: dict[str, Any] = {
        "region": region, "checkpointing": checkpointing, "precision": precision, "epochs": epochs, "days": within_days,
        "context": context, "micro_batch": micro_batch, "optimizer": optimizer,
        "batch_tokens": None if batch_tokens is None else number(batch_tokens, "--batch-tokens")}
    told = None if tokens is None else number(tokens, "--tokens")
    if calibrate or hardware == "cpu":
        from gristmill.cli.plan_calibrate import plan_here

        plan = plan_here(source, wanted, given, told, tables, calibrate=calibrate, hardware=hardware)
    else:
        from gristmill.cli.plan_source import request_for

        plan = plan_training(request_for(source, wanted, given, told, tables, hardware, parallel), tables)
    if html is not None:
        _page(html, plan, tables)
    if as_json:
        typer.echo(json.dumps(plan.as_json(), ensure_ascii=False))
        return
    from gristmill.cli.plan_display import print_tables, training_tables

    print_tables(training_tables(plan))


def _resolve(model: str | Mapping[str, Any]) -> Any:
    """`model:` of a plan file as a config."""
    from gristmill.cli.plan_source import config_of, read_source

    return read_source(model).config if isinstance(model, str) else config_of(model)


def _page(path: Path, plan: TrainingPlan, tables: Tables) -> None:
    from gristmill.pipeline.report.plan_page import write_plan_page
    from gristmill.pipeline.report.plan_sections import training_sections, training_summary

    write_plan_page(path, plan.request.name, training_summary(plan), training_sections(plan, tables))


def _filed(path: Path, tables: Tables, as_json: bool, html: Path | None) -> None:
    from gristmill.planning.plan_file import compare, read_plan_file
    from gristmill.planning.train import plan_training

    filed = read_plan_file(path, tables, _resolve)
    plans = [(run, plan_training(run.request, tables, alternatives=False)) for run in filed.runs]
    for number, (_, plan) in enumerate(plans, 1):
        if html is not None:
            _page(html if len(plans) == 1 else html.with_stem(f"{html.stem}-{number}"), plan, tables)
    if as_json:
        typer.echo(json.dumps({
            "name": filed.name, "source": filed.source,
            "runs": [{**plan.as_json(), "published": compare(run, plan)} for run, plan in plans]}, ensure_ascii=False))
        return
    from gristmill.cli.plan_display import print_tables, published_table, training_tables

    for run, plan in plans:
        print_tables([*training_tables(plan), published_table(compare(run, plan), filed.source)])
        typer.echo("")

