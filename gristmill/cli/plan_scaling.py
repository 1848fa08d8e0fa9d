"""`gristmill plan scaling`: the best size and tokens for a budget, under the published laws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    flops: Annotated[str | None, typer.Option(help="Training FLOPs, e.g. 5.76e23.")] = None,
    device_hours: Annotated[str | None, typer.Option(help="Hours of one device of --hardware.")] = None,
    budget_usd: Annotated[str | None, typer.Option(help="US dollars to spend on --hardware.")] = None,
    parameters: Annotated[str | None, typer.Option(help="Instead of a budget: a size, e.g. 7B.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Instead of a budget: a number of tokens, e.g. 300B.")] = None,
    law: Annotated[list[str] | None, typer.Option(
        help="Only this law, or the file of one of your own (plan fit --out); may be repeated. Default: all.")] = None,
    unique_tokens: Annotated[str | None, typer.Option(help="How much text there is, in tokens.")] = None,
    served_tokens: Annotated[str | None, typer.Option(
        help="Tokens that the model will serve in its life: makes it smaller, and its training longer.")] = None,
    hardware: Annotated[str, typer.Option(help="Device behind hours and dollars.")] = "h100-sxm",
    mfu: Annotated[str | None, typer.Option(help="Share of the peak that you reach, e.g. 0.4.")] = None,
    price: Annotated[str | None, typer.Option(help="US dollars for a device for an hour.")] = None,
    precision: Annotated[str, typer.Option(help="Precision of the peak: bf16, fp16, fp8, fp32.")] = "bf16",
    hardware_file: Annotated[Path | None, typer.Option(help="More devices and prices.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with a plot here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Split a budget between size and tokens, under several published scaling laws.

    Example:  gristmill plan scaling --flops 1e21 --served-tokens 1T
    """
    from gristmill.core.errors import UserError
    from gristmill.planning.inputs import Used, number
    from gristmill.planning.interval import Interval
    from gristmill.planning.law_file import read_laws
    from gristmill.planning.scaling_plan import Budget, hours_as_flops, money_as_hours, scaling_plan
    from gristmill.planning.tables import from_files

    said = {"--flops": flops, "--device-hours": device_hours, "--budget-usd": budget_usd, "--parameters": parameters,
            "--tokens": tokens}
    given = [name for name, value in said.items() if value is not None]
    if len(given) != 1:
        raise UserError(f"{', '.join(given) or 'nothing'} was given" if len(given) != 1 else "", where="plan scaling",
                        fix=f"give exactly one of {', '.join(said)}")
    amount = number(said[given[0]], given[0])
    budget = None
    if given[0] == "--flops":
        budget = Budget(f"{amount:.3g} FLOPs", Interval.of(amount))
    elif given[0] in ("--device-hours", "--budget-usd"):
        tables = from_files(*([hardware_file] if hardware_file else []))
        device = tables.device(hardware.partition(":")[0].strip().lower())
        share = None if mfu is None else number(mfu, "--mfu")
        hours, bought = Interval.of(amount), tuple[Used, ...]()
        if given[0] == "--budget-usd":
            hours, bought = money_as_hours(amount, device, tables,
                                           None if price is None else Interval.of(number(price, "--price")))
        found, used = hours_as_flops(hours, device, tables, precision=precision,
                                     mfu=None if share is None else Interval.of(share))
        text = f"{amount:,.0f} US dollars" if bought else f"{amount:,.0f} device hours"
        budget = Budget(f"{text} of {device.title}", found, (*bought, *used))
    made = scaling_plan(
        budget, laws=read_laws(law or []),
        parameters=amount if given[0] == "--parameters" else None, tokens=amount if given[0] == "--tokens" else None,
        unique_tokens=None if unique_tokens is None else number(unique_tokens, "--unique-tokens"),
        served_tokens=None if served_tokens is None else number(served_tokens, "--served-tokens"))
    if html is not None:
        from gristmill.pipeline.report.plan_page import write_plan_page
        from gristmill.pipeline.report.scaling_sections import scaling_sections

        write_plan_page(html, "Scaling", made.budget.said, scaling_sections(made))
    if as_json:
        typer.echo(json.dumps(made.as_json(), ensure_ascii=False, allow_nan=False))
        return
    from gristmill.cli.scaling_text import scaling_text

    typer.echo(scaling_text(made))
    if html is not None:
        typer.echo(f"page: {html}")
