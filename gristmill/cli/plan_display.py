"""Plans as tables for a person."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer
from rich.table import Table

from gristmill.pipeline.display import as_text
from gristmill.planning.inputs import Used
from gristmill.planning.interval import Interval
from gristmill.planning.model import ModelPlan
from gristmill.planning.serve import ServicePlan
from gristmill.planning.train import TrainingPlan

_UNITS = ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def short(value: float, unit: str = "") -> str:
    """`12.9 GB`, `3.14e+26` beyond the prefixes."""
    for size, prefix in _UNITS:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}" if value < 1000 * size else f"{value:.3g} {unit}"
    return f"{value:.3g} {unit}".rstrip()


def number(value: float) -> str:
    """`135 M`, `20 B`, `15 T`: a count as the field writes it."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {suffix}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """In the unit that fits: seconds to years."""
    for size, unit in ((365 * 86_400, "years"), (86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def money(usd: float) -> str:
    return f"${usd:,.0f}" if usd >= 100 else f"${usd:,.2f}" if usd >= 0.01 else f"${usd:.2g}"


def mass(kg: float) -> str:
    return f"{kg / 1000:,.4g} t" if kg >= 1000 else f"{kg:,.3g} kg" if kg >= 1 else f"{kg * 1000:.3g} g"


def energy(kwh: float) -> str:
    return f"{kwh / 1000:,.4g} MWh" if kwh >= 1000 else f"{kwh:,.3g} kWh" if kwh >= 1 else f"{kwh * 1000:.3g} Wh"


class Titled(Table):
    """A table whose title may be wider than it is."""

    heading: str = ""


def print_tables(tables: list[Titled]) -> None:
    """Each below its title, on stdout."""
    for number, made in enumerate(tables):
        typer.echo(("\n" if number else "") + made.heading)
        typer.echo(as_text(made))


def table(title: str, *columns: str) -> Titled:
    """A plain table: the first column to the left, the others to the right."""
    made = Titled(box=None, pad_edge=False, show_edge=False)
    made.heading = title
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return made


def model_tables(plan: ModelPlan) -> list[Titled]:
    """Parameters; FLOPs; bytes."""
    value = plan.as_json()
    parts = table(f"{plan.name}: parameters", "part", "parameters", "share")
    total = value["parameters"]["total"]
    for part, count in plan.anatomy.parameters.items():
        if count:
            parts.add_row(part, f"{count:,}", f"{count / total:.1%}")
    parts.add_row("total", f"{total:,}", "")
    if plan.anatomy.active != total:
        parts.add_row("active for one token", f"{plan.anatomy.active:,}", f"{plan.anatomy.active / total:.1%}")
    one, counted = plan.flops, value["flops_per_token"]
    rows = f"rows of {one.context:,} tokens" + (f", {one.targets:,} written by the decoder" if one.targets else "")
    flops = table(f"FLOPs of a token ({rows})", "", "products", "attention", "all pairs", "sum")
    flops.add_row("training", short(counted["matmul"]["train"]), short(counted["attention"]["train"]),
                  short(counted["attention"]["train_full"]), short(one.train))
    flops.add_row("reading a prompt", "", "", "",
                  short(one.read))
    if plan.anatomy.causal:
        flops.add_row(f"writing token {one.context + 1:,}", "", "", "", short(one.decode))
    sizes = table("bytes", "", *value["weights_bytes"])
    sizes.add_row("weights", *(short(size, "B") for size in value["weights_bytes"].values()))
    if plan.anatomy.causal:
        for name, label in (("kv_cache_bytes_per_token", "cache of a token"),
                            ("kv_cache_bytes_at_context", f"cache of {one.context:,} tokens")):
            known = value[name]
            sizes.add_row(label, *(short(known[p], "B") if p in known else "" for p in value["weights_bytes"]))
    return [parts, flops, sizes]


def training_tables(plan: TrainingPlan) -> list[Titled]:
    """What it costs; memory; assumptions; alternatives; published runs."""
    shown = [_cost(plan)]
    if plan.memory is not None:
        shown.append(_memory(plan))
    if plan.storage is not None:
        shown.append(_storage(plan))
    shown.append(_assumptions(plan))
    if plan.alternatives:
        shown.append(_alternatives(plan))
    shown.append(_similar(plan))
    return shown


def _row(made: Titled, label: str, value: Interval | None, show: Any) -> None:
    if value is None:
        made.add_row(label, "", "unknown", "")
    else:
        made.add_row(label, *(show(v) for v in (value.low, value.expected, value.high)))


def _cost(plan: TrainingPlan) -> Titled:
    request, layout = plan.request, "" if plan.option is None else f" ({plan.option.layout.text()})"
    made = table(f"{request.name}: {number(request.size)} parameters, {number(request.tokens)} tokens on "
                 f"{plan.devices} x {plan.device.title}{layout}", "", "low", "expected", "high")
    _row(made, "time", plan.time_s, duration)
    _row(made, "device hours", plan.run.device_hours, lambda v: f"{v:,.4g}" if v < 1e4 else f"{v:,.0f}")
    _row(made, "money", plan.run.cost_usd, money)
    _row(made, "electricity", plan.run.energy_kwh, energy)
    _row(made, "CO2e of electricity", plan.run.co2e_kg, mass)
    if plan.run.embodied_kg is not None:
        _row(made, "CO2e of making devices", plan.run.embodied_kg, mass)
    _row(made, "money with development", plan.development.cost_usd, money)
    _row(made, "CO2e with development", plan.development.co2e_kg, mass)
    return made


def _memory(plan: TrainingPlan) -> Titled:
    memory = plan.memory
    assert memory is not None
    assert plan.batch is not None
    made = table(f"memory of the fullest device (checkpointing {memory.checkpointing}, {plan.batch.micro_batch} x "
                 f"{plan.batch.context:,} tokens at once, {plan.batch.tokens:,} an update)", "", "bytes")
    for name in ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "total"):
        made.add_row(name, short(getattr(memory, name), "B"))
    if memory.available is not None:
        made.add_row("the device has", short(memory.available, "B"))
        made.add_row("it fits" if memory.fits else "IT DOES NOT FIT", f"{memory.total / memory.available:.0%}")
    return made


def _storage(plan: TrainingPlan) -> Titled:
    stored = plan.storage
    assert stored is not None
    made = table("disk", "", "bytes")
    made.add_row("text", f"{short(stored.text.low, 'B')} to {short(stored.text.high, 'B')}")
    made.add_row("tokens", short(stored.tokens, "B"))
    made.add_row("checkpoints", f"{short(stored.checkpoints, 'B')} ({short(stored.checkpoint, 'B')} each)")
    return made


def service_tables(plan: ServicePlan) -> list[Titled]:
    """Speed and money; memory of a replica; assumptions."""
    value, request = plan.as_json(), plan.request
    made = table(f"{request.name}: {request.rps:g} requests a second of {request.context:,} tokens "
                 f"({request.written:,} written) on {plan.device.title}", "", "low", "expected", "high")

    def row(label: str, found: dict[str, float] | None, show: Any) -> None:
        made.add_row(label, *([show(found[k]) for k in ("low", "expected", "high")] if found else ["", "unknown", ""]))

    throughput, cost = value["throughput_tokens_per_s"], value["cost_usd_per_million_tokens"]
    row("devices", value["devices"], lambda v: f"{v:,.0f}")
    row("requests a second of a replica", value["requests_per_second_per_replica"], lambda v: f"{v:,.3g}")
    row("tokens a second, bound by products", throughput["compute_bound"], number)
    row("tokens a second, bound by memory", throughput["bandwidth_bound"], number)
    row("time to the first token", value["time_to_first_token_s"], duration)
    row("time for a token", value["time_s_per_token"], duration)
    row("money an hour", value["cost_usd_per_hour"], money)
    row("money for a million tokens", cost and cost["all"], money)
    row("money for a million written", cost and cost["written"], money)
    row("power", value["power_kw"], lambda v: f"{v:,.3g} kW")
    row("CO2e of a million tokens", value["co2e_kg_per_million_tokens"], mass)
    sizes = table(f"memory of a replica ({plan.per_replica} x {plan.device.name}, {plan.answers} answers at once)", "",
                  "bytes")
    for name in ("weights", "cache_per_request", "cache", "buffers", "total", "available"):
        sizes.add_row(name.replace("_", " "), short(value["memory_bytes"][name], "B"))
    return [made, sizes, _numbers(plan.assumptions)]


def _assumptions(plan: TrainingPlan) -> Titled:
    made = _numbers(plan.assumptions)
    made.add_row("peak", short(plan.device.peak(plan.request.precision), "FLOP/s"), "", f"{plan.device.source}, "
                 f"{plan.device.date}")
    return made


def _numbers(assumptions: Iterable[Used]) -> Titled:
    made = table("what this assumes", "number", "low, expected, high", "unit", "source")
    made.columns[2].justify = made.columns[3].justify = "left"
    for used in assumptions:
        value = used.value
        shown = [value.expected] if value.certain else [value.low, value.expected, value.high]
        numbers = ", ".join(f"{v:,.4g}" for v in shown)
        made.add_row(used.name, numbers, used.unit, used.source)
    return made


def _alternatives(plan: TrainingPlan) -> Titled:
    made = table("this plan, then other layouts and hardware, cheapest first (expected)", "hardware", "layout",
                 "checkpointing", "memory", "time", "money", "electricity", "CO2e")
    made.columns[1].justify = made.columns[2].justify = "left"
    for row in plan.alternatives:
        cost = row["cost_usd"]
        made.add_row(row["hardware"], row["layout"], row["checkpointing"],
                     short(row["memory_bytes"], "B") + ("" if row["fits"] else " no fit"),
                     duration(row["time_s"]["expected"]), "" if cost is None else money(cost["expected"]),
                     energy(row["energy_kwh"]["expected"]), mass(row["co2e_kg"]["expected"]))
    return made


def _similar(plan: TrainingPlan) -> Titled:
    made = table("published runs nearest in compute", "run", "compute", "hardware", "device hours", "electricity",
                 "CO2e", "MFU")
    for row in plan.similar:
        made.add_row(row["name"], f"{row['compute']:.3g} x", row["hardware"],
                     f"{row['device_hours']:,.0f}" if row["device_hours"] else "",
                     energy(row["energy_kwh"]) if row["energy_kwh"] else "",
                     mass(row["co2e_kg"]) if row["co2e_kg"] else "",
                     f"{row['mfu']:.1%}" if row["mfu"] else "")
    return made


def published_table(rows: list[dict[str, Any]], source: str) -> Titled:
    """Ours beside what was published."""
    made = table(f"beside what was published ({source})", "", "ours", "published", "ratio", "")
    for row in rows:
        made.add_row(row["name"], f"{row['ours']:,.4g}", f"{row['published']:,.4g}", f"{row['ratio']:.4f}",
                     f"within {row['tolerance']:.0%}" if row["agrees"] else f"NOT within {row['tolerance']:.0%}")
    return made
