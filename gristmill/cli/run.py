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


class CudaGraphs(StrEnum):
    never = "never"
    auto = "auto"
    always = "always"


class Precision(StrEnum):
    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"
    fp16 = "fp16"
    float8 = "float8"


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
    cuda_graphs: Annotated[CudaGraphs, typer.Option(
        "--cuda-graphs", help="Forward and backward of a micro-batch as one launch, for small decoders on one GPU; "
        "auto does so where it can be (docs/training-speed.md).")] = CudaGraphs.never,
    precision: Annotated[Precision, typer.Option(help="auto takes bf16 where the device has it, else fp16 on a "
                                                     "GPU; float8 is for large models on Hopper and newer "
                                                     "(docs/training-memory.md).")] = Precision.auto,
    parallel: Annotated[str, typer.Option(
        metavar="auto|none|AXES", help="How the processes that torchrun started share a training: auto chooses; "
        "shard=4,tensor=2 says how many stand along each axis (pipeline, replicate, shard, context, tensor, expert), "
        "and their product is the number of processes. The result is the same; docs/layouts.md tells how to choose."
    )] = "auto",
    hang_after: Annotated[int, typer.Option(
        min=0, metavar="SECONDS", help="Processes that train together and make no progress for so long end with a "
        "report of which one the others waited for; 0 means never.")] = 900,
    check_ranks: Annotated[int, typer.Option(
        min=0, metavar="UPDATES", help="So often processes that train together compare the weights that they share, "
        "and those that differ are named; 0 means at the start only.")] = 0,
    track: Annotated[list[str] | None, typer.Option(
        metavar="wandb:PROJECT|mlflow:URI|trackio:PROJECT", help="Send the metrics of trainings there too; a folder "
        "will do as MLflow's URI. Needs that library; may be repeated.")] = None,
    checkpoints: Annotated[str | None, typer.Option(
        metavar="URL", help="Keep the checkpoints of trainings below it, as in s3://bucket/runs (what fsspec reads), "
        "rather than with the run (docs/checkpoints.md).")] = None,
    profile: Annotated[bool, typer.Option(
        "--profile", help="Record a few steps of each training: a chrome trace, and where the time went.")] = False,
    memory_snapshot: Annotated[bool, typer.Option(
        "--memory-snapshot", help="Record what holds memory during those steps.")] = False,
    deterministic: Annotated[bool, typer.Option(
        "--deterministic", help="Use only operations that give the same bits every time; slower on a GPU.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the status as one JSON object at the end.")] = False,
) -> None:
    """Run a recipe. Unchanged stages are reused, unfinished ones continue, changed ones become a new version.

    Example:  gristmill run recipes/quickstart.yaml --until base --set stages.base.budget.steps=50
    """
    from gristmill.core.progress import for_stream
    from gristmill.core.stage import Runtime
    from gristmill.pipeline.ranks import place
    from gristmill.pipeline.runner import run
    from gristmill.pipeline.status import run_status

    runtime = Runtime(
        device=device, threads=threads, workers=workers, executor=executor, compile=compile_.value,
        cuda_graphs=cuda_graphs.value,
        precision=precision.value, parallel=parallel, hang_after=hang_after,
        check_ranks=check_ranks, track=tuple(track or ()), checkpoints=checkpoints, profile=profile,
        memory_snapshot=memory_snapshot, deterministic=deterministic,
    )
    if checkpoints:
        from gristmill.training.checkpoints.store import open_store

        open_store(checkpoints)
    if track:
        from gristmill.training.trackers import check

        check(track)
    done = run(recipe, runs_dir=runs_dir, until=until, set=set_ or (), resume=resume, dry_run=dry_run, report=report,
               runtime=runtime, progress=for_stream())
    if not place().main:
        return
    if as_json and dry_run:
        steps = [{"name": s.name, "kind": s.kind, "action": s.action, "why": s.why, "version": s.version or None}
                 for s in done.plan.wanted]
        typer.echo(json.dumps({"run": done.name, "plan": steps}, ensure_ascii=False))
    elif as_json:
        typer.echo(json.dumps(run_status(done.folder), ensure_ascii=False))
