"""Sections of the plan page for an advice."""

from __future__ import annotations

from pathlib import Path

from gristmill.pipeline.report.formatting import count, size, words
from gristmill.pipeline.report.plan_page import Item, PlanSection, bars, code, facts, fine, lead, lines, power, table
from gristmill.pipeline.report.plan_sections import assumed, duration, energy, mass, money
from gristmill.planning.advice import Advice
from gristmill.planning.advice_models import PUBLIC_MODELS
from gristmill.planning.goal import TITLES, WAYS

COSTS = (("time", "time_s", duration), ("money", "cost_usd", money), ("energy", "energy_kwh", energy),
         ("CO₂e", "co2e_kg", mass))


def goal_sections(advice: Advice, recipe: Path) -> list[PlanSection]:
    """The way and why, the model, what it takes, what is missing, the risks, the other ways, the recipe."""
    decision, model = advice.decision, advice.model
    top = [("way", decision.way, ""), ("size", count(model["parameters"]), "parameters")]
    spent = []
    for name, key, show in COSTS:
        value = advice.cost[key]
        if advice.training_flops and value is not None:
            spent.append([name, show(value["low"]), show(value["expected"]), show(value["high"])])
    top += [(name, expected, f"{low} to {high}" if low != high else "") for name, low, expected, high in spent[:2]]
    about = [["model", model["name"] or f"a new one, depth {model['depth']}"],
             ["architecture", model["family"] + (f":{model['preset']}" if "preset" in model else "")],
             ["parameters", f"{model['parameters']:,}"],
             ["languages", ", ".join(model["languages"])], ["licence", model["licence"]]]
    if model["source"]:
        about.append(["source", model["source"]])
    takes: list[Item | None] = [table(["", "low", "expected", "high"], spent, [1, 2, 3])] if spent else [
        lead("Nothing is trained.")]
    if spent:
        takes.append(fine(f"The final run alone, on {advice.machine.title}: {count(advice.training_tokens)} tokens, "
                          f"{power(advice.training_flops)} FLOPs. Trials come on top."))
    answers = [[words(name), ", ".join(value) if isinstance(value, (list, tuple)) else str(value),
                "nobody said" if name in advice.assumed else "given"]
               for name, value in advice.as_json()["goal"].items()]
    return [
        PlanSection("headline", "Overview", [facts(top)]),
        PlanSection("why", "Why", [lines([_sentence(r) for r in decision.reasons]), _votes(advice), *(
            [fine("Against it: " + "; ".join(decision.doubts) + ".")] if decision.doubts else [])]),
        PlanSection("model", "The model", [
            table(["", ""], about), lines([_sentence(n) for n in advice.notes]), _sizes(advice)]),
        PlanSection("takes", "What it takes", takes),
        PlanSection("missing", "Still missing", [lines([_sentence(m) for m in advice.missing])]),
        PlanSection("risks", "Risks", [lines([_sentence(r) for r in advice.risks])]),
        PlanSection("others", "The other ways", [table(
            ["way", "why not"], [[TITLES[way], why] for way, why in decision.others.items()])]),
        PlanSection("answers", "What was answered", [table(["question", "answer", ""], answers)]),
        PlanSection("recipe", "The recipe", [fine(f"gristmill run {recipe} --dry-run"), code(advice.recipe)]),
        PlanSection("assumptions", "Assumptions", [assumed(advice.machine.used)]),
    ]


def _votes(advice: Advice) -> Item | None:
    """Votes of the ways that are possible; all from zero, so that the bars have a common beginning."""
    votes = advice.decision.votes
    lowest = min(0, *votes.values())
    rows = [(way, float(votes[way] - lowest), f"{TITLES[way]}: {votes[way]:+d}") for way in WAYS
            if way not in advice.decision.excluded]
    return bars("What the rules speak for", rows, unit="", chosen=advice.decision.way,
                note="votes of the rules above the least favoured way; ways out of the question are left out",
                show=lambda value: f"{value + lowest:+.0f}") if len(rows) > 1 else None


def _sizes(advice: Advice) -> Item | None:
    """The public models beside the one that was chosen."""
    name = advice.model["name"]
    chosen = next((m for m in PUBLIC_MODELS if name in (m.chat, m.base)), None)
    if chosen is None:
        return None
    rows = [(m.base.partition("/")[2], float(m.parameters), f"{m.licence}; {size(2 * m.parameters)} in bf16; "
             + ", ".join(m.languages)) for m in PUBLIC_MODELS]
    return bars("Public models", rows, unit="", chosen=chosen.base.partition("/")[2], note="parameters", show=count)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."
