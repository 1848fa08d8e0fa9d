"""Sections of the plan page for models, training runs and serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gristmill.pipeline.report.charts import LineChart, Series, line_chart
from gristmill.pipeline.report.charts import whiskers as place_whiskers
from gristmill.pipeline.report.formatting import count, number, short_count, size, words
from gristmill.pipeline.report.plan_page import (
    PlanSection,
    bars,
    charts,
    facts,
    fine,
    heading,
    notice,
    power,
    said,
    stack,
    table,
    trim,
    whiskers,
)
from gristmill.planning.inputs import Used
from gristmill.planning.interval import Interval
from gristmill.planning.model import ModelPlan
from gristmill.planning.scaling_laws import BESIROGLU
from gristmill.planning.serve import ServicePlan
from gristmill.planning.tables import Tables
from gristmill.planning.train import TrainingPlan

MEMORY = ("weights", "gradients", "optimizer", "activations", "logits", "buffers")
STEPS = 24


def training_sections(plan: TrainingPlan, tables: Tables) -> list[PlanSection]:
    """A training run: what it costs, its memory, cost over tokens, carbon by region, alternatives, assumptions."""
    value = plan.as_json()
    run = plan.run
    top = [("time", duration(plan.time_s.expected), spread(plan.time_s, duration)),
           ("money", "–" if run.cost_usd is None else money(run.cost_usd.expected),
            "no price is known" if run.cost_usd is None else spread(run.cost_usd, money)),
           ("energy", energy(run.energy_kwh.expected), spread(run.energy_kwh, energy)),
           ("CO₂e", mass(run.co2e_kg.expected), spread(run.co2e_kg, mass))]
    fits = plan.memory.fits if plan.memory is not None else None
    sections = [PlanSection("headline", "Overview", [
        facts(top),
        notice(f"This does not fit: {size(plan.memory.total if plan.memory else 0)} are needed on a device of "
               f"{size(plan.device.memory_bytes)}.", bad=True) if fits is False else None])]
    if plan.memory is not None:
        memory = value["memory_bytes"]
        sections.append(PlanSection("memory", "Memory of a device", [
            stack("Memory at the peak of an update", [(name, memory[name]) for name in MEMORY],
                  available=memory["available"], note=f"{size(memory['total'])} in all, activation checkpointing: "
                  f"{memory['checkpointing']}", limit_name=f"{plan.device.title}: {size(memory['available'])}"),
            fine(f"Layout: {value['layout']['text']}.")]))
    sections += [
        PlanSection("cost", "Time and money", [
            charts([cost_curve(plan), loss_curve(plan)]),
            heading("How sure this is: low and high in multiples of what is expected"),
            whiskers(place_whiskers("What it takes", _multiples(plan), show=lambda times: f"{times:.2g} ×",
                                    show_tick=short_count)),
            fine(f"With everything that is trained before the final run: {said(plan.development.device_hours)} device "
                 "hours" + ("" if plan.development.cost_usd is None else f", {said(plan.development.cost_usd, money)}")
                 + f", {said(plan.development.co2e_kg, mass)} CO₂e.")]),
        PlanSection("carbon", "Carbon by region", [_carbon(plan, tables), fine(
            "Electricity alone, at the average intensity of each grid and the expected energy of the run.")]),
        PlanSection("alternatives", "Other layouts and hardware", [_alternatives(value)]),
        PlanSection("similar", "Published runs of this size", [_similar(value)]),
        PlanSection("assumptions", "Assumptions", [assumed(plan.assumptions)]),
    ]
    return sections


def model_sections(plan: ModelPlan) -> list[PlanSection]:
    """A model: parameters by part, FLOPs of a token, cache and weights by precision."""
    value, found, one = plan.as_json(), plan.anatomy, plan.flops
    counted = value["flops_per_token"]
    top = [("parameters", count(found.total), f"{found.total:,}")]
    if found.active != found.total:
        top.append(("active for one token", count(found.active), f"{found.active:,}"))
    top.append(("training FLOPs a token", power(one.train), f"rows of {one.context:,} tokens"))
    parts = sorted(((words(part), float(n), f"{part}: {n:,}, {n / found.total:.1%}")
                    for part, n in found.parameters.items() if n), key=lambda r: -r[1])
    rows = [[name, *(power(counted[kind][which]) for which in ("train", "inference"))]
            for name, kind in (("products with weights", "matmul"), ("attention, pairs that are seen", "attention"))]
    rows.append(["attention, all pairs", power(counted["attention"]["train_full"]),
                 power(counted["attention"]["inference_full"])])
    sizes = [["weights", *(size(n) for n in value["weights_bytes"].values())]]
    if found.causal:
        for name, label in (("kv_cache_bytes_per_token", "cache of a token"),
                            ("kv_cache_bytes_at_context", f"cache of {one.context:,} tokens")):
            sizes.append([label, *(size(value[name][p]) if p in value[name] else "" for p in value["weights_bytes"])])
    return [
        PlanSection("headline", "Overview", [facts(top)]),
        PlanSection("parameters", "Parameters by part", [bars("Parameters", parts, unit="", show=short_count)]),
        PlanSection("flops", "FLOPs of a token", [
            table(["", "training", "forward pass"], rows, [1, 2]),
            fine(f"Reading a token of a prompt takes {power(one.read)} FLOPs"
                 + (f", writing one after {one.context:,} others {power(one.decode)}." if found.causal else "."))]),
        PlanSection("bytes", "Bytes by precision", [table(["", *value["weights_bytes"]], sizes, range(1, 7))]),
    ]


def service_sections(plan: ServicePlan) -> list[PlanSection]:
    """A service: devices, speed and money; memory of a replica; money over the load; assumptions."""
    value = plan.as_json()
    throughput, cost = value["throughput_tokens_per_s"], value["cost_usd_per_million_tokens"]
    devices = f"{plan.per_replica} × {plan.device.title}"

    def row(name: str, found: Mapping[str, float] | None, show: Any) -> list[str]:
        return [name, *((show(found[k]) for k in ("low", "expected", "high")) if found else ("", "unknown", ""))]

    rows = [row("devices", value["devices"], count),
            row("requests a second of a replica", value["requests_per_second_per_replica"], trim),
            row("tokens a second, bound by products", throughput["compute_bound"], trim),
            row("tokens a second, bound by memory", throughput["bandwidth_bound"], trim),
            row("time to the first token", value["time_to_first_token_s"], duration),
            row("time for a token", value["time_s_per_token"], duration),
            row("money an hour", value["cost_usd_per_hour"], money),
            row("money for a million tokens", cost and cost["all"], money),
            row("money for a million written", cost and cost["written"], money),
            row("power", value["power_kw"], lambda v: f"{trim(v)} kW"),
            row("CO₂e of a million tokens", value["co2e_kg_per_million_tokens"], mass)]
    memory = value["memory_bytes"]
    return [
        PlanSection("headline", "Overview", [
            facts([("devices", count(plan.replicas.expected * plan.per_replica),
                    spread(plan.replicas * plan.per_replica, count)),
                   ("money an hour", "–" if plan.usd_per_hour is None else money(plan.usd_per_hour.expected),
                    "no price is known" if plan.usd_per_hour is None else spread(plan.usd_per_hour, money)),
                   ("a million tokens", "–" if not cost else money(cost["all"]["expected"]), "prompts and answers"),
                   ("time for a token", duration(plan.step.seconds.expected), spread(plan.step.seconds, duration))])]),
        PlanSection("memory", "Memory of a replica", [
            stack("Memory at the largest batch", [(n, memory[n]) for n in ("weights", "cache", "buffers")],
                  available=memory["available"], note=f"{plan.answers:,} answers at once",
                  limit_name=f"{devices}: {size(memory['available'])}")]),
        PlanSection("speed", "Speed and money", [table(["", "low", "expected", "high"], rows, [1, 2, 3])]),
        PlanSection("assumptions", "Assumptions", [assumed(plan.assumptions)]),
    ]


def assumed(numbers: Sequence[Used]) -> Any:
    """The numbers behind a plan, each with its source."""
    return table(["number", "value", "unit", "source"],
                 [[words(u.name), said(u.value, trim), u.unit, u.source] for u in numbers], [1])


def cost_curve(plan: TrainingPlan) -> LineChart | None:
    """Money over tokens, low, expected and high, with this plan as a dot; device hours where there is no price."""
    spent = plan.run.cost_usd or plan.run.device_hours
    name = "US dollars" if plan.run.cost_usd is not None else "device hours"
    across = [plan.request.tokens * 10 ** (i / STEPS * 2 - 1) for i in range(STEPS + 1)]

    def line(amount: float) -> list[float]:
        return [amount * t / plan.request.tokens for t in across]

    series = [Series("expected", across, line(spent.expected), 1),
              Series("this plan", [plan.request.tokens], [spent.expected], 1, "marks")]
    if not spent.certain:
        series[1:1] = [Series("low", across, line(spent.low), 2), Series("high", across, line(spent.high), 4)]
    return line_chart("Cost over tokens", series, note=name, x_name="tokens", log_x=True, log_y=True)


def loss_curve(plan: TrainingPlan) -> LineChart | None:
    """Loss that Besiroglu's law expects over the same tokens: what more money buys."""
    across = [plan.request.tokens * 10 ** (i / STEPS * 2 - 1) for i in range(STEPS + 1)]
    losses = [BESIROGLU.loss(plan.request.size, t) for t in across]
    here = BESIROGLU.loss(plan.request.size, plan.request.tokens)
    return line_chart("What more tokens buy", [Series("loss", across, losses, 1),
                                               Series("this plan", [plan.request.tokens], [here], 1, "marks")],
                      note="nats a token on the texts of Hoffmann et al., by the law of Besiroglu et al.",
                      x_name="tokens", log_x=True)


def training_summary(plan: TrainingPlan) -> str:
    """The run in a sentence."""
    return (f"Training {count(plan.request.size)} parameters on {count(plan.request.tokens)} tokens, "
            f"{plan.devices} × {plan.device.title}.")


def service_summary(plan: ServicePlan) -> str:
    """The service in a sentence."""
    request = plan.request
    return (f"Serving {request.rps:g} requests a second of {request.context:,} tokens, {request.written:,} of them "
            f"written, on {plan.device.title}.")


def spread(value: Interval, show: Any) -> str:
    """3.97 days to 10.8 days; nothing where it is certain."""
    return "" if value.certain else f"{show(value.low)} to {show(value.high)}"


def _multiples(plan: TrainingPlan) -> list[dict[str, Any]]:
    """Everything in multiples of its expected value: how sure we are."""
    amounts: list[tuple[str, Interval | None]] = [
        ("time", plan.time_s), ("money", plan.run.cost_usd), ("energy", plan.run.energy_kwh),
        ("CO₂e", plan.run.co2e_kg)]
    return [{"name": name, "value": 1.0, "low": v.low / v.expected, "high": v.high / v.expected, "tone": tone,
             "note": "low and high over expected"}
            for tone, (name, v) in enumerate(amounts, 1) if v is not None and v.expected > 0]


def _carbon(plan: TrainingPlan, tables: Tables) -> Any:
    kwh = plan.run.energy_kwh.expected
    chosen = tables.grid(plan.request.region).name if plan.request.region else ""
    tonnes = kwh * max(g.kg_per_kwh for g in tables.grids.values()) >= 2000
    rows = [(grid.name, kwh * grid.kg_per_kwh / (1000 if tonnes else 1),
             f"{grid.name}: {number(grid.kg_per_kwh * 1000, 3)} g a kWh; {grid.source}, {grid.date}")
            for grid in sorted(tables.grids.values(), key=lambda g: g.kg_per_kwh)]
    return bars("CO₂e", rows, unit="t" if tonnes else "kg", chosen=chosen,
                note=f"{energy(kwh)} in each" + (f"; chosen: {chosen}" if chosen else ""))


def _alternatives(value: Mapping[str, Any]) -> Any:
    rows = [[a["hardware"] + ("" if i else ", this plan"), a["layout"], a["checkpointing"], size(a["memory_bytes"]),
             duration(a["time_s"]["expected"]),
             "–" if not a["cost_usd"] else money(a["cost_usd"]["expected"]), mass(a["co2e_kg"]["expected"])]
            for i, a in enumerate(value["alternatives"])]
    return table(["hardware", "layout", "checkpointing", "memory", "time", "money", "CO₂e"], rows, range(3, 7))


def _similar(value: Mapping[str, Any]) -> Any:
    rows = [[r["name"], count(r["parameters"]), count(r["tokens"]), r["hardware"],
             count(r["device_hours"]), "–" if r["energy_kwh"] is None else energy(r["energy_kwh"]),
             "–" if r["co2e_kg"] is None else mass(r["co2e_kg"])] for r in value["similar_runs"]]
    return table(["run", "parameters", "tokens", "hardware", "device hours", "energy", "CO₂e"], rows, (1, 2, 4, 5, 6))


def duration(seconds: float) -> str:
    """In the unit that fits, seconds to years."""
    for limit, unit in ((365.25 * 86_400, "years"), (86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * limit:
            return f"{seconds / limit:,.3g} {unit}"
    return f"{seconds:.3g} s"


def money(usd: float) -> str:
    return f"${usd:,.0f}" if usd >= 100 else f"${usd:.3g}"


def energy(kwh: float) -> str:
    return f"{kwh / 1e6:,.3g} GWh" if kwh >= 1e6 else f"{kwh / 1e3:,.3g} MWh" if kwh >= 1e3 else (
        f"{kwh:.3g} kWh" if kwh >= 1 else f"{kwh * 1000:.3g} Wh")


def mass(kg: float) -> str:
    return f"{kg / 1000:,.3g} t" if kg >= 1000 else f"{kg:.3g} kg" if kg >= 1 else f"{kg * 1000:.3g} g"
