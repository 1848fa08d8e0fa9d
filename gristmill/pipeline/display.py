"""What a person sees of a run: the plan before it, the summary after it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from gristmill.core.artifact import Artifact
from gristmill.core.progress import Progress
from gristmill.pipeline.plan import Plan

_ACTIONS = {"reuse": "reuse", "continue": "continue", "run": "run", "decide": "run?"}
_SHOWN_FIRST = ("valid_bits_per_byte", "bits_per_byte", "valid_loss", "loss", "documents", "kept", "vocab_size",
                "bytes_per_token", "parameters", "tokens", "steps")


def show(progress: Progress, renderable: RenderableType) -> None:
    """Print a table: in colour on a terminal, as plain text elsewhere."""
    console = getattr(progress, "console", None)
    if console is not None:
        console.print(renderable)
    else:
        progress.say(as_text(renderable))


def as_text(renderable: RenderableType, width: int = 118) -> str:
    """A table as plain text without trailing spaces."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None).print(renderable)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def duration(seconds: float | None) -> str:
    """`7.3 s`, `2:05 min`, `1:02:03 h`."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d} h"


def plan_table(plan: Plan) -> Table:
    """One row a stage: what happens to it and why."""
    table = _table(f"{plan.recipe.name}: the plan", "stage", "kind", "what", "artifact", "why")
    for step in plan.wanted:
        name = step.artifact.name if step.artifact else (
            f"{plan.recipe.name}/{step.name}@{step.version}" if step.version else "")
        table.add_row(step.name, step.kind, _ACTIONS[step.action], name, step.why)
    return table


def summary_table(name: str, rows: Iterable[tuple[str, str, str, float | None, Mapping[str, Any]]]) -> Table:
    """One row a stage: (stage, what happened, artifact, seconds, metrics)."""
    table = _table(f"{name}: done", "stage", "what", "artifact", "time", "result")
    for stage, what, artifact, seconds, metrics in rows:
        table.add_row(stage, what, artifact, duration(seconds), headline(metrics))
    return table


def status_table(status: Mapping[str, Any]) -> Table:
    """The value of `run_status` as a table."""
    table = _table(f"run {status['run']}", "stage", "kind", "state", "version", "time", "result")
    for stage in status["stages"]:
        table.add_row(stage["name"], stage["kind"], stage["state"], f"@{stage['version']}" if stage["version"] else "",
                      duration(stage["seconds"]), headline(stage["metrics"]))
    return table


def record_table(artifact: Artifact) -> Table:
    """What an artifact's record says, in a few lines."""
    record = artifact.record
    code = record.get("code") or {}
    commit = (
        f", commit {code['commit'][:12]}{' with changes' if code.get('dirty') else ''}" if code.get("commit") else ""
    )
    table = Table(box=None, show_header=False, pad_edge=False)
    rows = {
        "artifact": f"{artifact.name} ({artifact.kind})", "path": str(artifact.path), "digest": artifact.digest,
        "identity": record.get("identity", ""), "seed": str(record.get("seed", "")),
        "made": f"{record.get('finished', '')} in {duration(record.get('seconds'))}" if record.get("finished") else "",
        "by": f"gristmill {code['version']}{commit}" if code.get("version") else record.get("source", ""),
        "result": headline(artifact.metrics, 6),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table


def headline(metrics: Mapping[str, Any], most: int = 3) -> str:
    """The few metrics that say most, on a line; and whether a training ended before its last step."""
    plain = {k: v for k, v in metrics.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    chosen = [k for k in _SHOWN_FIRST if k in plain] + [k for k in plain if k not in _SHOWN_FIRST]
    said = [f"{k.replace('_', ' ')} {number(plain[k])}" for k in chosen[:most]]
    if metrics.get("stopped_early"):
        why = "target loss reached" if metrics.get("target_reached") else "stopped early"
        said.append(f"{why} after {number(metrics['steps'])} steps" if "steps" in plain else why)
    return ", ".join(said)


def number(value: float) -> str:
    """A number for people: thousands separated, four significant digits for fractions."""
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.4g}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("stage", "kind", "what", "time"))
    return table
