"""`gristmill run RECIPE`: run a recipe, or what is left of it."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Compile(StrEnum):
    auto = "auto"
    always = "always"
    never = "never"


class Precision(StrEnum):
    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


def command(
    recipe: Annotated[Path, typer.Argument(help="The recipe's YAML file.")],
    runs_dir: Annotated[Path, typer.Option(help="Where runs lie.")] = Path("runs"),
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Run only this stage and what it needs.")] = None,
    set_: Annotated[list[str] | None, typer.Option(
        "--set", metavar="PATH=VALUE", help="Replace one value of the recipe; may be repeated.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run and why; write nothing.")] = False,
    resume: Annotated[bool, typer.Option(help="Take up unfinished work, or begin it anew.")] = True,
    report: Annotated[bool, typer.Option(help="Write report.html at the end.")] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 means all cores.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes for data work; 0 means as many as cores.")] = 0,
    executor: Annotated[str, typer.Option(
        metavar="local|ray|ray://HOST:PORT", help="Who does data work: processes of this machine, or Ray.")] = "local",
    compile_: Annotated[Compile, typer.Option("--compile", help="Whether models are compiled.")] = Compile.auto,
    precision: Annotated[Precision, typer.Option(help="auto takes bf16 where the device has it.")] = Precision.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print the status as one JSON object at the end.")] = False,
) -> None:
    """Run a recipe. Unchanged stages are reused, unfinished ones continue, changed ones become a new version.

    Example:  gristmill run recipes/quickstart.yaml --until base --set stages.base.budget.steps=50
    """
    from gristmill.core.progress import for_stream
    from gristmill.core.stage import Runtime
    from gristmill.pipeline.runner import run
    from gristmill.pipeline.status import run_status

    runtime = Runtime(
        device=device, threads=threads, workers=workers, executor=executor, compile=compile_.value,
        precision=precision.value
    )
    done = run(recipe, runs_dir=runs_dir, until=until, set=set_ or (), resume=resume, dry_run=dry_run, report=report,
               runtime=runtime, progress=for_stream())
    if as_json and dry_run:
        steps = [{"name": s.name, "kind": s.kind, "action": s.action, "why": s.why, "version": s.version or None}
                 for s in done.plan.wanted]
        typer.echo(json.dumps({"run": done.name, "plan": steps}, ensure_ascii=False))
    elif as_json:
        typer.echo(json.dumps(run_status(done.folder), ensure_ascii=False))
