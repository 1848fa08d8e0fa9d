"""An advice as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gristmill.cli.plan_display import duration, energy, mass, money, number
from gristmill.planning.advice import Advice
from gristmill.planning.goal import TITLES

WIDTH = 112


def goal_text(advice: Advice, recipe: Path) -> str:
    """The way and its reasons, the model, what it costs, what is missing, what can go wrong, and the next step."""
    model = advice.model
    lines = [f"advice: {advice.title}", "", "why:", *_points(advice.decision.reasons)]
    if advice.decision.doubts:
        lines += ["against it:", *_points(advice.decision.doubts)]
    lines += ["", "model:", *_points([said_of(model), *advice.notes])]
    lines += ["", f"takes, on {advice.machine.title}:"]
    if advice.training_flops:
        lines.append(f"  {'':<12}{'low':>14}{'expected':>14}{'high':>14}")
        for name, key, show in COSTS:
            value = advice.cost[key]
            if value is not None:
                lines.append(f"  {name:<12}{show(value['low']):>14}{show(value['expected']):>14}"
                             f"{show(value['high']):>14}")
        lines.append(f"  {number(advice.training_tokens)} tokens, {advice.training_flops:.3g} FLOPs, in the final run "
                     "alone; trials come on top")
    else:
        lines.append("  nothing is trained")
    lines += ["", "still missing:", *_points(advice.missing), "", "risks:", *_points(advice.risks)]
    lines += ["", "the other ways:", *_points(f"{TITLES[way]}: {why}" for way, why in advice.decision.others.items())]
    if advice.assumed:
        lines += ["", f"nobody said: {', '.join(advice.assumed)}; the defaults were taken"]
    return "\n".join([*lines, "", f"recipe: {recipe}", f"next: gristmill run {recipe} --dry-run"])


COSTS: tuple[tuple[str, str, Any], ...] = (
    ("time", "time_s", duration), ("money", "cost_usd", money), ("electricity", "energy_kwh", energy),
    ("CO2e", "co2e_kg", mass))


def said_of(model: dict[str, Any] | Any) -> str:
    """The model in a line."""
    if model["name"] is None:
        return (f"a new {model['family']} model, depth {model['depth']}: {number(model['parameters'])} parameters, "
                f"{model['vocab_size']:,} tokens of vocabulary, context {model['context']:,}")
    return (f"{model['name']} ({model['family']}:{model['preset']}): {number(model['parameters'])} parameters, licence "
            f"{model['licence']}; {model['source']}")


def _points(texts: Iterable[str]) -> list[str]:
    return [line for text in texts for line in textwrap.wrap(
        text, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False)]
