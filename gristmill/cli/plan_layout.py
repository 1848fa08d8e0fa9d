"""`gristmill plan layout MODEL`: how many processes would share a training, and what each would hold."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def command(
    model: Annotated[str, typer.Argument(
        help="FAMILY, FAMILY:PRESET, a recipe (.yaml), or a folder with config.json.")],
    processes: Annotated[int, typer.Option(min=1, help="How many, as torchrun would start them.")] = 8,
    per_host: Annotated[int, typer.Option(min=1, help="Processes of one computer.")] = 8,
    memory: Annotated[float, typer.Option(min=0.001, help="Of each process, in GB.")] = 80.0,
    parallel: Annotated[str, typer.Option(
        help="auto, or axes as in shard=64,tensor=8 (pipeline, replicate, shard, context, tensor, expert).")] = "auto",
    rows: Annotated[int | None, typer.Option(min=1, help="Rows in an update; default one for each process.")] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Tokens a row; default the model's.")] = None,
    micro_batch: Annotated[int | None, typer.Option(
        min=1, help="Rows that go through a process at once; default the recipe's, else 1.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw, muon, lion, ...; default the recipe's.")] = None,
    checkpointing: Annotated[str | None, typer.Option(
        help="Activation checkpointing: none, selective or full; default the recipe's, else none.")] = None,
    precision: Annotated[str, typer.Option(help="bf16 (products in bf16 over fp32 weights) or fp32.")] = "bf16",
    build: Annotated[bool, typer.Option(
        "--build", help="Build the layout in this one process, without weights, as training would: it can be cut so, "
                        "and what each process holds is counted rather than predicted.")] = False,
    depth: Annotated[int | None, typer.Option(min=1, help="Blocks of a family without a preset.")] = None,
    vocab_size: Annotated[int | None, typer.Option(min=1, help="Tokens of the vocabulary.")] = None,
    stage: Annotated[str | None, typer.Option(help="Which stage of the recipe, where several pretrain.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Which layout would `--parallel auto` take, why, and what would the fullest process hold?

    Example:  gristmill plan layout llama:llama-3-70b --processes 512 --checkpointing full --build
    """
    from gristmill.cli.plan_source import read_source, workload
    from gristmill.core.errors import UserError
    from gristmill.planning.activations import CHECKPOINTING
    from gristmill.training.parallel import Layout
    from gristmill.training.parallel.auto import Proposal, predicted, propose
    from gristmill.training.parallel.dry_run import dry_run

    if checkpointing not in (None, *CHECKPOINTING):
        raise UserError(f"{checkpointing!r} is not known", where="--checkpointing",
                        fix=f"choose one of {', '.join(CHECKPOINTING)}")
    found = read_source(model, stage=stage, depth=depth, vocab_size=vocab_size)
    work = workload(found, processes, precision=precision, rows=rows, context=context, micro_batch=micro_batch,
                    optimizer=optimizer, checkpointing=checkpointing)
    available = memory * 1e9
    if parallel == "auto":
        chosen = propose(work, processes, per_host=per_host, available=available)
    else:
        layout = Layout.parse(parallel)
        if layout.processes != processes:
            raise UserError(f"{layout.describe()} is a layout of {layout.processes} processes", where="--parallel",
                            fix=f"say --processes {layout.processes}")
        chosen = Proposal(layout, predicted(work, layout, available=available), "as you said")
    built = dry_run(work, chosen.layout, available=available) if build else []
    if as_json:
        typer.echo(json.dumps({
            "model": found.name, "processes": processes, "layout": chosen.layout.describe(), "why": chosen.why,
            "predicted": chosen.memory.as_json(),
            "built": [{"rank": one.rank, "parameters": one.parameters, "seconds": round(one.seconds, 2),
                       **one.memory.as_json()} for one in built]}))
        return
    typer.echo(f"{found.name}, {processes} processes: {chosen.line()}")
    _table("predicted", chosen.memory)
    for one in built:
        _table(f"built, process {one.rank} ({one.seconds:.1f} s)", one.memory)


def _table(title: str, memory: Any) -> None:
    parts = memory.as_json()
    typer.echo(f"  {title}: " + ", ".join(
        f"{name} {parts[name] / 1e9:.2f}" for name in
        ("weights", "gradients", "optimizer", "activations", "logits", "buffers")) + f"; {parts['total'] / 1e9:.2f} GB"
        + ("" if parts["fits"] else ", which does not fit"))
