"""Sections of the plan page for scaling plans and fitted laws."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gristmill.pipeline.report.charts import LineChart, Series, line_chart
from gristmill.pipeline.report.formatting import count, number, percent
from gristmill.pipeline.report.plan_page import (
    Item,
    PlanSection,
    charts,
    facts,
    fine,
    lead,
    lines,
    notice,
    off_by,
    power,
    said,
    table,
)
from gristmill.planning.fit import CONSTANTS, Fit, Point
from gristmill.planning.interval import Interval
from gristmill.planning.scaling_laws import BESIROGLU, Law, Parametric, overtrained
from gristmill.planning.scaling_plan import ScalingPlan

STEPS = 48


def scaling_sections(plan: ScalingPlan) -> list[PlanSection]:
    """A budget under several laws: table, curves of equal compute, frontiers, and what serving changes."""
    first = plan.rows[0]
    flops = plan.budget.flops
    says = [("parameters", count(first.best.parameters), first.law.title), ("tokens", count(first.best.tokens), ""),
            ("training FLOPs", power(flops.expected),
             "" if flops.certain else f"{power(flops.low)} to {power(flops.high)}")]
    rows = [[row.law.title, count(row.best.parameters), count(row.best.tokens),
             number(row.best.tokens_per_parameter, 3), "–" if row.best.loss is None else number(row.best.loss),
             "–" if row.epochs is None else number(row.epochs, 2)] for row in plan.rows]
    law = next((row.law for row in plan.rows if isinstance(row.law, Parametric)), BESIROGLU)
    sections = [
        PlanSection("headline", "Overview", [
            facts(says), notice(plan.tires[0].upper() + plan.tires[1:] + ".") if plan.tires else None]),
        PlanSection("laws", "What each law says", [
            table(["law", "parameters", "tokens", "tokens a parameter", "loss", "passes over the text"], rows,
                  range(1, 6)),
            fine("Losses of different laws are of different texts and vocabularies: compare sizes between laws, never "
                 "losses."),
            lines([f"{row.law.title}: {row.law.equation}. {row.law.note}. {row.law.source}." for row in plan.rows]),
            lines([row.outside + "." for row in plan.rows if row.outside])]),
        PlanSection("curves", "Scaling-law plot", [
            lead("Left: for each budget one size is the best; smaller ones cannot hold more, larger ones see too "
                 "little text. Right: where these best sizes lie, by law."),
            charts([equal_compute(law, flops.expected), frontiers([row.law for row in plan.rows], flops.expected)])]),
    ]
    if plan.serving is not None:
        sections.append(PlanSection("serving", "Smaller, for cheaper serving", _serving(plan, law)))
    if plan.budget.used:
        sections.append(PlanSection("assumptions", "Assumptions", [table(
            ["number", "value", "unit", "source"],
            [[u.name.replace("_", " "), said(u.value), u.unit, u.source] for u in plan.budget.used], [1])]))
    return sections


def equal_compute(law: Law, flops: float) -> LineChart | None:
    """Loss over size for a tenth, once and ten times the budget."""
    series, bests = [], []
    for tone, (name, factor) in enumerate((("a tenth", 0.1), ("this budget", 1.0), ("ten times", 10.0)), 2):
        best = law.optimum(flops * factor)
        sizes = [best.parameters * 10 ** (i / STEPS * 2 - 1) for i in range(STEPS + 1)]
        losses = [law.loss(n, flops * factor / 6 / n) or math.nan for n in sizes]
        series.append(Series(name, sizes, losses, 1 if factor == 1 else tone))
        bests.append(best)
    series.append(Series("best", [b.parameters for b in bests], [b.loss or math.nan for b in bests], 3, "marks"))
    return line_chart("Loss at equal compute", series, note=f"nats a token; {law.title}", x_name="size", log_x=True)


def frontiers(laws: Sequence[Law], flops: float) -> LineChart | None:
    """Best size over budget, by law; five at most, which are as many as can be told apart."""
    budgets = [flops * 10 ** (i / STEPS * 6 - 3) for i in range(STEPS + 1)]
    series = [Series(law.title.replace("Hoffmann et al. 2022, ", "Hoffmann, "), budgets,
                     [law.optimum(b).parameters for b in budgets], tone)
              for tone, law in enumerate(_distinct(laws), 1)]
    return line_chart("Best size", series, note="parameters over training FLOPs", x_name="FLOPs", log_x=True,
                      log_y=True)


def _distinct(laws: Sequence[Law]) -> list[Law]:
    kept = [law for law in laws if law.name not in ("hoffmann-rounded", "hoffmann-2")]
    return kept[:5]


def _serving(plan: ScalingPlan, law: Parametric) -> list[Item | None]:
    s = plan.serving
    assert s is not None
    flops = plan.budget.flops.expected
    best = law.optimum(flops)
    sizes = [best.parameters * 10 ** (i / STEPS * 1.1 - 1) for i in range(STEPS + 1)]
    found = [(n, d) for n in sizes if math.isfinite(d := law.tokens_for(n, s.loss)) and 6 * n * d < 30 * flops]
    training = [6 * n * d for n, d in found]
    serving = [2 * n * s.served_tokens for n, _ in found]
    across = [n for n, _ in found]
    demands = [10 ** (i / 24 * 5) * 1e9 for i in range(25)]
    return [
        lead(f"Whoever serves {count(s.served_tokens)} tokens trains a smaller model for longer: the same loss "
             f"{number(s.loss)}, and {percent(s.saving)} fewer FLOPs in training and serving together "
             "(Sardana and Frankle 2023)."),
        facts([("parameters", count(s.parameters), f"compute-optimal: {count(best.parameters)}"),
               ("tokens", count(s.tokens), f"compute-optimal: {count(best.tokens)}"),
               ("saved", percent(s.saving), "of all FLOPs")]),
        charts([
            line_chart("FLOPs over the model's life", [
                Series("together", across, [a + b for a, b in zip(training, serving, strict=True)], 1),
                Series("training", across, training, 2), Series("serving", across, serving, 4)],
                note="at equal loss", x_name="size", log_x=True, log_y=True),
            line_chart("Best size by demand", [
                Series("parameters", demands, [overtrained(law, flops, d).parameters for d in demands], 1)],
                note="at equal loss", x_name="tokens served", log_x=True)])]


def fit_sections(made: Fit, left_out: Sequence[tuple[Point, Interval]],
                 predictions: Sequence[tuple[float, float, Interval]]) -> list[PlanSection]:
    """A fitted law: curves through the runs, constants with intervals, predictions."""
    sections = [
        PlanSection("headline", "Overview", [
            lead(made.law.equation),
            facts([("runs", str(len(made.points)), ""),
                   ("typical error", f"{number(made.error * 100, 2)} %", "on these runs"),
                   ("best size grows with", f"C^{number(made.law.beta / (made.law.alpha + made.law.beta), 2)}", "")]),
            *[notice(w) for w in made.warnings]]),
        PlanSection("curves", "Scaling-law plot", [
            lead("Dots are runs, lines the law at the same size."),
            charts([through_points(made, [p for p, _ in left_out]), equal_compute(made.law, made.law.fitted[1])])]),
        PlanSection("constants", "Constants", [table(
            ["", "value", "95 % interval"],
            [[name, number(v.expected), f"{number(v.low)} to {number(v.high)}"] for name, v in made.intervals.items()
             if name in CONSTANTS], [1, 2])]),
    ]
    rows = [[p.name or "a run", count(p.parameters), count(p.tokens), said(v), number(p.loss),
             off_by(v.expected, p.loss)] for p, v in left_out]
    rows += [["not made yet", count(n), count(d), said(v), "–", "–"] for n, d, v in predictions]
    if rows:
        sections.append(PlanSection("predictions", "Predictions", [table(
            ["run", "parameters", "tokens", "predicted loss", "measured", "off by"], rows, range(1, 6))]))
    points = [[p.name or str(i), count(p.parameters), count(p.tokens), number(p.loss),
               off_by(made.law.loss(p.parameters, p.tokens), p.loss)]
              for i, p in enumerate(made.points, 1)]
    sections.append(PlanSection("runs", "The runs", [table(
        ["run", "parameters", "tokens", "loss", "law is off by"], points, range(1, 5))]))
    return sections


def through_points(made: Fit, left_out: Sequence[Point]) -> LineChart | None:
    """Loss over tokens for up to five of the sizes, the smallest and the largest among them."""
    every = [*made.points, *left_out]
    sizes = sorted({p.parameters for p in every})
    chosen = sizes if len(sizes) <= 5 else [sizes[round(i * (len(sizes) - 1) / 4)] for i in range(5)]
    series = []
    for tone, parameters in enumerate(chosen, 1):
        mine = sorted((p for p in every if p.parameters == parameters), key=lambda p: p.tokens)
        low, high = min(p.tokens for p in every), max(p.tokens for p in every)
        across = [low * (high / low) ** (i / STEPS) for i in range(STEPS + 1)]
        fitted = [made.law.loss(parameters, d) for d in across]
        series.append(Series(count(parameters), across, fitted, tone, "faint"))
        series.append(Series(count(parameters), [p.tokens for p in mine], [p.loss for p in mine], tone, "marks"))
    return line_chart("Loss over tokens", series, note="nats a token, by size", x_name="tokens", log_x=True, log_y=True)
