"""Plan files: the arguments of `plan train` in YAML, with published numbers to plan with and to compare with.

    plan: train
    name: llama-2
    source: where the numbers stand
    runs:
      - name: Llama 2 7B
        model: llama:llama-2-7b      # FAMILY[:PRESET], a folder, or the content of a public config.json
        parameters: 176.2e9          # in place of a model whose architecture we do not have
        tokens: 2T
        hardware: a100-80:2048
        parallel: shard=2048
        region: FR
        given: {device_hours: 184320, device_watts: 400, pue: 1, host_share: 0, grid_g_per_kwh: 423.5}
        expect: {energy_kwh: 73728, co2e_kg: 31220, mfu_6nd: 0.391, tolerance: 0.01}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gristmill.core.errors import UserError
from gristmill.planning.inputs import Cluster, Given, number
from gristmill.planning.layout import Layout
from gristmill.planning.tables import Tables
from gristmill.planning.train import Request, TrainingPlan

COMPARED: Mapping[str, Callable[[TrainingPlan], float | None]] = {
    "device_hours": lambda p: p.run.device_hours.expected,
    "days": lambda p: p.time_s.expected / 86_400,
    "energy_kwh": lambda p: p.run.energy_kwh.expected,
    "co2e_kg": lambda p: p.run.co2e_kg.expected,
    "embodied_kg": lambda p: None if p.run.embodied_kg is None else p.run.embodied_kg.expected,
    "cost_usd": lambda p: None if p.run.cost_usd is None else p.run.cost_usd.expected,
    "mfu": lambda p: p.mfu.expected,
    "mfu_6nd": lambda p: p.mfu_6nd.expected,
    "parameters": lambda p: p.request.size,
    "flops_total": lambda p: p.flops_total.expected,
}
"""What `expect` may name -> our figure."""
_RUN = {"name", "model", "parameters", "tokens", "context", "batch_tokens", "micro_batch", "epochs", "hardware",
        "parallel", "checkpointing", "optimizer", "precision", "region", "within_days", "given", "expect"}


@dataclass(frozen=True)
class FiledRun:
    """One run of a plan file."""

    request: Request
    expect: Mapping[str, float]
    tolerance: float


@dataclass(frozen=True)
class PlanFile:
    name: str
    source: str
    runs: tuple[FiledRun, ...] = field(default=())


def is_plan_file(path: Path) -> bool:
    """Whether this YAML is a plan rather than a recipe."""
    return isinstance(_read(path), dict) and "plan" in _read(path)


def read_plan_file(path: Path, tables: Tables, resolve: Callable[[str | Mapping[str, Any]], Any]) -> PlanFile:
    """Read a plan file. resolve: from what `model:` says to a config. UserError names what is wrong and where."""
    content = _read(path)
    if not isinstance(content, dict) or content.get("plan") != "train":
        raise UserError("a plan file begins with `plan: train`", where=str(path), fix="see docs/planning.md")
    unknown = set(content) - {"plan", "name", "source", "runs"}
    if unknown or not isinstance(content.get("runs"), list) or not content["runs"]:
        raise UserError(f"a plan file has plan, name, source and a list of runs; unknown: {', '.join(sorted(unknown))}"
                        if unknown else "a plan file has a list of runs", where=str(path))
    return PlanFile(str(content.get("name", path.stem)), str(content.get("source", "")),
                    tuple(_run(row, f"{path}: run {n + 1}", tables, resolve) for n, row in enumerate(content["runs"])))


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError("this file cannot be read", where=str(path), fix="check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"this is no YAML ({str(error).splitlines()[0]})", where=str(path)) from error


def _run(row: Any, where: str, tables: Tables, resolve: Callable[[str | Mapping[str, Any]], Any]) -> FiledRun:
    if not isinstance(row, dict):
        raise UserError("a run is a mapping", where=where)
    if extra := set(row) - _RUN:
        raise UserError(f"unknown: {', '.join(sorted(extra))}", where=where, fix=f"a run has {', '.join(sorted(_RUN))}")
    if "tokens" not in row:
        raise UserError("tokens are missing", where=where, fix="tokens: 2T")
    expect = dict(row.get("expect") or {})
    tolerance = float(expect.pop("tolerance", 0.01))
    if extra := set(expect) - set(COMPARED):
        raise UserError(f"{', '.join(sorted(extra))} cannot be compared", where=f"{where}: expect",
                        fix=f"choose from {', '.join(COMPARED)}")
    optional: dict[str, Any] = {name: row[name] for name in ("checkpointing", "optimizer", "precision", "region")
                                if name in row}
    for name, kind in (("context", int), ("batch_tokens", float), ("micro_batch", int), ("epochs", float)):
        if name in row:
            optional[name] = kind(number(row[name], f"{where}: {name}"))
    request = Request(
        name=str(row.get("name", row.get("model", "run"))), config=resolve(row["model"]) if "model" in row else None,
        parameters=number(row["parameters"], f"{where}: parameters") if "parameters" in row else None,
        tokens=number(row["tokens"], f"{where}: tokens"),
        cluster=Cluster.parse(str(row["hardware"]), tables) if "hardware" in row else None,
        layout=Layout.parse(str(row["parallel"])) if "parallel" in row else None,
        days=number(row["within_days"], f"{where}: within_days") if "within_days" in row else None,
        given=Given.from_plain(row.get("given") or {}, f"{where}: given"), **optional)
    return FiledRun(request, {name: number(v, f"{where}: expect") for name, v in expect.items()}, tolerance)


def compare(run: FiledRun, plan: TrainingPlan) -> list[dict[str, Any]]:
    """Ours beside what was published, and whether they agree within the tolerance."""
    rows = []
    for name, published in run.expect.items():
        ours = COMPARED[name](plan)
        rows.append({"name": name, "ours": ours, "published": published,
                     "ratio": None if ours is None else ours / published, "tolerance": run.tolerance,
                     "agrees": ours is not None and abs(ours / published - 1) <= run.tolerance})
    return rows
