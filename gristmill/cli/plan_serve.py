"""`gristmill plan serve MODEL`: memory, speed and money of a service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[str, typer.Argument(help="FAMILY:PRESET, a recipe (.yaml), or a folder with config.json.")],
    rps: Annotated[float, typer.Option(help="Requests a second.")],
    hardware: Annotated[str, typer.Option(
        help="Devices of one copy, e.g. h100-sxm:2; without a number as few as fit.")],
    context: Annotated[int, typer.Option(help="Tokens of a request, prompt and answer.")] = 2048,
    answer: Annotated[int | None, typer.Option(help="Tokens of its answer; default a quarter of the context.")] = None,
    weights: Annotated[str, typer.Option(help="Precision of the weights: fp32, bf16, fp8, int8, int4.")] = "bf16",
    cache: Annotated[str, typer.Option(help="Precision of the cache: fp32, bf16, fp8.")] = "bf16",
    region: Annotated[str | None, typer.Option(help="Where the electricity comes from, e.g. FR.")] = None,
    price: Annotated[float | None, typer.Option(help="US dollars for a device for an hour.")] = None,
    hardware_file: Annotated[Path | None, typer.Option(help="Your own rows of the tables; they win.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Blocks of a family without a preset.")] = None,
    vocab_size: Annotated[int | None, typer.Option(min=1, help="Tokens of the vocabulary.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with charts here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Plan a service: how many devices, how fast, and what a million tokens cost.

    Example:  gristmill plan serve llama:smollm2-135m --rps 20 --context 2048 --hardware l4
    """
    from gristmill.cli.plan_source import read_source
    from gristmill.planning.inputs import Cluster, Given
    from gristmill.planning.interval import Interval
    from gristmill.planning.serve import ServiceRequest, plan_service
    from gristmill.planning.tables import from_files

    tables = from_files(*([hardware_file] if hardware_file else []))
    found = read_source(model, depth=depth, vocab_size=vocab_size)
    plan = plan_service(ServiceRequest(
        name=found.name, config=found.config, rps=rps, context=context, answer=answer, weights=weights, cache=cache,
        cluster=Cluster.parse(hardware, tables), region=region,
        given=Given(usd_per_hour=None if price is None else Interval.of(price))), tables)
    if html is not None:
        from gristmill.pipeline.report.plan_page import write_plan_page
        from gristmill.pipeline.report.plan_sections import service_sections, service_summary

        write_plan_page(html, plan.request.name, service_summary(plan), service_sections(plan))
    if as_json:
        typer.echo(json.dumps(plan.as_json(), ensure_ascii=False))
        return
    from gristmill.cli.plan_display import print_tables, service_tables

    print_tables(service_tables(plan))
