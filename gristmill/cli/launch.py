"""`gristmill launch RECIPE --on SCHEDULER`: write a job for a scheduler, and submit it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class On(StrEnum):
    torchrun = "torchrun"
    slurm = "slurm"
    kubernetes = "kubernetes"
    skypilot = "skypilot"
    ray = "ray"


def command(
    recipe: Annotated[Path, typer.Argument(help="The recipe's YAML file.")],
    on: Annotated[On, typer.Option("--on", help="Who starts the job.")],
    run_options: Annotated[list[str] | None, typer.Argument(
        metavar="-- [RUN OPTIONS]", help="After `--`: options for `gristmill run`, e.g. -- --until base.")] = None,
    nodes: Annotated[int, typer.Option(help="Machines; several need a shared folder for --runs-dir.")] = 1,
    min_nodes: Annotated[int | None, typer.Option(
        metavar="N", help="Begin with as few nodes, and go on with as few when nodes are lost; others, up to --nodes, "
        "join when they come, and training goes on from its last checkpoint. For torchrun, with --parallel auto."
    )] = None,
    gpus: Annotated[int, typer.Option(help="GPUs of a node.")] = 0,
    processes: Annotated[int | None, typer.Option(
        help="Processes of a node; default one a GPU, at least one.")] = None,
    cpus: Annotated[int | None, typer.Option(help="CPU cores of a node; also sets OMP_NUM_THREADS.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory of a node, e.g. 64G (powers of 1024).")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit, e.g. 90m, 1d12h, 4:00:00.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="Kind of GPU as the scheduler spells it, e.g. H100.")] = None,
    image: Annotated[str | None, typer.Option(help="Container image that has gristmill.")] = None,
    queue: Annotated[str | None, typer.Option(
        "--queue", "--partition", help="Slurm partition, or Kueue queue in Kubernetes.")] = None,
    account: Annotated[str | None, typer.Option(help="Slurm account.")] = None,
    runs_dir: Annotated[str, typer.Option(help="Where runs lie, as the job sees it.")] = "runs",
    runs_volume: Annotated[str | None, typer.Option(
        help="What is mounted at --runs-dir: a PersistentVolumeClaim, or a bucket's URL with SkyPilot.")] = None,
    env: Annotated[list[str] | None, typer.Option(
        "--env", metavar="NAME=VALUE", help="Environment variable; may be repeated.")] = None,
    secret: Annotated[list[str] | None, typer.Option(
        "--secret", metavar="NAME", help="Variable whose value is never written into a file; may be repeated.")] = None,
    setup: Annotated[list[str] | None, typer.Option(
        "--setup", metavar="LINE", help="Shell line to run first, e.g. `source .venv/bin/activate`; may be repeated."
    )] = None,
    restarts: Annotated[int, typer.Option(help="How often the job is begun again; it continues where it was.")] = 3,
    name: Annotated[str | None, typer.Option(help="The job's name; default the recipe's.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Kubernetes namespace.")] = None,
    node_selector: Annotated[list[str] | None, typer.Option(
        "--node-selector", metavar="KEY=VALUE", help="Label that Kubernetes nodes must have; may be repeated.")] = None,
    toleration: Annotated[list[str] | None, typer.Option(
        "--toleration", metavar="KEY[=VALUE][:EFFECT]", help="Taint that is tolerated; may be repeated.")] = None,
    write: Annotated[Path | None, typer.Option(help="Write the text here instead of printing it.")] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Hand it to the scheduler's client now.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a recipe's job for torchrun, Slurm, Kubernetes, SkyPilot or Ray; print it, --write it or --submit it.

    Example:  gristmill launch recipes/quickstart.yaml --on slurm --cpus 16 --memory 64G --time 4h --partition long
    """
    from gristmill.core.files import write_atomic
    from gristmill.pipeline.launch.amounts import mib_of, seconds_of
    from gristmill.pipeline.launch.job import Job
    from gristmill.pipeline.launch.schedulers import SCHEDULERS, check_options, notes
    from gristmill.pipeline.launch.secret import check_secrets
    from gristmill.pipeline.ranks import check_layout

    given = {"memory": memory, "time": time, "accelerator": accelerator, "image": image, "queue": queue,
             "account": account, "runs_volume": runs_volume, "namespace": namespace, "node_selector": node_selector,
             "toleration": toleration, "min_nodes": min_nodes}
    check_options(on.value, {option for option, value in given.items() if value})
    typed, text, parallel = _checked(recipe, run_options or [])
    job = Job(
        name=_label(typed.name) if name is None else name, recipe=str(recipe), recipe_text=text,
        workdir=str(Path.cwd()), runs_dir=runs_dir, arguments=tuple(run_options or ()), nodes=nodes,
        min_nodes=min_nodes, gpus=gpus, processes=max(1, gpus) if processes is None else processes, cpus=cpus,
        restarts=restarts, memory=None if memory is None else mib_of(memory),
        seconds=None if time is None else seconds_of(time),
        accelerator=accelerator, image=image, queue=queue, account=account, volume=runs_volume, namespace=namespace,
        environment=_pairs(env, "--env"), secrets=tuple(dict.fromkeys(secret or ())), setup=tuple(setup or ()),
        node_selector=_pairs(node_selector, "--node-selector"),
        tolerations=tuple(_toleration(each) for each in toleration or ()))
    check_secrets(job)
    _check_range(job, parallel)
    check_layout(parallel, job.world)
    row = SCHEDULERS[on.value]
    written = row.text(job)
    if write is not None:
        write_atomic(write, written)
    told = notes(on.value, job)
    if job.world > 1 and not any(type(stage).many_processes for stage in typed.stages.values()):
        told.append(f"no stage of this recipe can use {job.world} processes: all but one will wait")
    said: dict[str, Any] = {
        "scheduler": on.value, "name": job.name, "nodes": job.nodes, "processes": job.world, "text": written,
        "file": None if write is None else str(write), "command": row.client(job, str(write or "FILE")),
        "notes": told, "submitted": False, "id": None, "answer": None, "exit_code": None}
    if not as_json:
        _tell(said, row.by_stdin, submit)
    if submit:
        from gristmill.pipeline.launch.submit import submit as hand_over

        answer = hand_over(on.value, job, written, write)
        said |= {"submitted": True, "id": answer.identity, "answer": answer.output, "exit_code": answer.exit_code}
        if not as_json:
            typer.echo(answer.output or f"ended with exit code {answer.exit_code}")
    if as_json:
        typer.echo(json.dumps(said, ensure_ascii=False))
    if said["exit_code"]:
        raise typer.Exit(said["exit_code"])


def _tell(said: dict[str, Any], by_stdin: bool, submit: bool) -> None:
    """Text to stdout, so that it can be piped; everything about it to stderr."""
    if said["file"] is None and not submit:
        typer.echo(said["text"], nl=False)
    elif said["file"] is not None:
        typer.echo(f"written: {said['file']}", err=True)
    for note in said["notes"]:
        typer.echo(f"note: {note}", err=True)
    line = shlex.join(said["command"]) + (
        f" < {shlex.quote(said['file'] or 'FILE')}" if by_stdin and not submit else "")
    typer.echo(f"{'submitting' if submit else 'to submit it'}: {line}", err=True)


def _checked(recipe: Path, options: Sequence[str]) -> tuple[Any, str, str]:
    """The recipe as `gristmill run` would read it, its text, and the layout that was asked for.

    An error now is better than one after the queue."""
    from gristmill.cli import run
    from gristmill.core.errors import UserError
    from gristmill.recipe import load_recipe

    usage_error: Any = typer.BadParameter.__base__  # click's class, which some releases of typer carry themselves
    single = typer.Typer(add_completion=False)
    single.command()(run.command)
    try:
        context = typer.main.get_command(single).make_context("gristmill run", [str(recipe), *options])
    except typer.Exit as error:
        raise UserError("--help is for you, not for a job", where="run options") from error
    except usage_error as error:
        raise UserError(error.format_message(), where="run options", fix="gristmill run --help") from error
    source: Any = context.get_parameter_source("runs_dir")
    if source.name == "COMMANDLINE":
        raise UserError("--runs-dir is an option of launch", where="run options", fix="put it before the --")
    typed = load_recipe(recipe, context.params.get("set_") or ())
    until = context.params.get("until")
    if until is not None and until not in typed.stages:
        raise UserError(f"the recipe has no stage {until!r}", where="run options",
                        fix=f"one of {', '.join(typed.stages)}")
    return typed, recipe.read_text(encoding="utf-8"), context.params["parallel"]


def _check_range(job: Any, parallel: str) -> None:
    """Raise UserError where nodes may come and go, and the layout is for one number of processes."""
    from gristmill.core.errors import UserError

    if job.elastic and parallel.strip() != "auto":
        raise UserError(f"{parallel} is for one number of processes, and with --min-nodes {job.min_nodes} it changes",
                        where="--parallel", fix="leave it at auto, or give --nodes only")


def _label(name: str) -> str:
    """A recipe's name as a DNS label that leaves room for what schedulers append."""
    import re

    return re.sub(r"[^a-z0-9]+", "-", f"gristmill-{name}".lower())[:48].strip("-")


def _pairs(given: Sequence[str] | None, option: str) -> tuple[tuple[str, str], ...]:
    from gristmill.core.errors import UserError

    for pair in given or ():
        if "=" not in pair:
            raise UserError(f"{pair!r} has no '='", where=option, fix=f"{option} NAME=VALUE")
    return tuple((pair.partition("=")[0], pair.partition("=")[2]) for pair in given or ())


def _toleration(text: str) -> tuple[str, str, str]:
    rest, _, effect = text.partition(":")
    key, _, value = rest.partition("=")
    return key, value, effect
