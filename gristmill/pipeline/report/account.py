"""Sections `costs` and `reproduce`."""

from __future__ import annotations

from typing import Any

from gristmill.pipeline.report.formatting import count, number
from gristmill.pipeline.report.run import Missing, Run, Stage
from gristmill.pipeline.report.speed_panels import measured_watts
from gristmill.pipeline.report.training import compute

WATTS_PER_CORE = 10.0
"""A busy server core with its share of memory, power supply and losses: an assumption, not a measurement."""


def costs(run: Run) -> dict[str, Any]:
    """Seconds, core-hours, energy (an estimate), tokens and FLOPs of every stage."""
    stages = [s for s in run.stages if s.path is not None]
    if not stages:
        raise Missing("No stage has finished yet, so nothing was spent that could be told.")
    rows = [_cost(stage) for stage in stages]
    total = {key: sum(r[key] or 0 for r in rows) for key in ("seconds", "core_hours", "watt_hours", "tokens", "flops")}
    return {"rows": rows, "total": total, "watts": WATTS_PER_CORE}


def _cost(stage: Stage) -> dict[str, Any]:
    record = stage.record
    wanted = (record.get("runtime") or {}).get("threads") or compute(stage).get("threads")
    cores = wanted or (record.get("machine") or {}).get("cores") or 1
    core_hours = stage.seconds * cores / 3600
    plan = stage.json("plan.json") or {}
    tokens = stage.metrics.get("tokens")
    speed = stage.lines("telemetry/speed.jsonl")
    memory = [line["memory_mb"] for line in speed if line.get("memory_mb")]
    watts = measured_watts(speed)
    flops = plan.get("flops_per_token")
    return {
        "stage": stage,
        "seconds": stage.seconds,
        "cores": cores,
        "core_hours": core_hours,
        "watt_hours": core_hours * WATTS_PER_CORE if watts is None else watts * stage.seconds / 3600,
        "measured": watts is not None,
        "tokens": tokens,
        "memory": max(memory) * 1e6 if memory else None,
        "flops": flops * tokens if flops and tokens else None,
    }


def reproduce(run: Run) -> dict[str, Any]:
    """Commands, recipe, code, libraries, machine."""
    records = [r for r in run.records() if r]
    models = run.of_kind("release", "model")
    commands = [
        ("run it again: what is unchanged is reused", f"gristmill run runs/{run.name}/recipe.yaml"),
        ("how it stands", f"gristmill status {run.name}"),
    ]
    if models:
        name = f"{run.name}/{models[-1].name}@{models[-1].version}"
        commands += [
            ("where this model comes from", f"gristmill inspect {name}"),
            ("talk to it", f"gristmill chat {name}"),
            ("chat page and API", f"gristmill serve {name}"),
        ]
    codes = _distinct([r.get("code") or {} for r in records])
    libraries: dict[str, list[str]] = {}
    for record in records:
        for library, version in (record.get("libraries") or {}).items():
            if version not in libraries.setdefault(library, []):
                libraries[library].append(version)
    return {
        "commands": commands,
        "recipe": run.recipe,
        "seed": run.seed,
        "codes": [_code(c) for c in codes],
        "libraries": sorted(libraries.items()),
        "machines": [_machine(m) for m in _distinct([r.get("machine") or {} for r in records])],
        "digests": [
            (s.name, f"{s.record.get('name')}@{s.version}", s.digest) for s in run.stages if s.path is not None
        ],
    }


def _distinct(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for value in values:
        if value and value not in found:
            found.append(value)
    return found


def _code(code: dict[str, Any]) -> str:
    commit = str(code["commit"])[:12] if code.get("commit") else "no commit known"
    changed = " with changes that are not committed" if code.get("dirty") else ""
    return f"gristmill {code.get('version')}, {commit}{changed}"


def _machine(machine: dict[str, Any]) -> str:
    cores = machine.get("cores")
    said = [str(machine[k]) for k in ("cpu", "system", "machine") if machine.get(k)]
    return ", ".join([*said[:1], *([f"{count(cores)} cores"] if cores else []), *said[1:]])


def flops(value: Any) -> str:
    """1.2 × 10¹⁵."""
    if not value:
        return "–"
    power = len(str(int(value))) - 1
    return f"{number(value / 10**power, 2)} × 10{str(power).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
