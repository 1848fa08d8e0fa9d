"""An advice: the way, the model, what is missing, what it costs, what can go wrong, and a recipe to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gristmill.core.config import to_plain
from gristmill.planning.advice_machine import Machine, machine_for
from gristmill.planning.advice_models import PublicModel, choose_model
from gristmill.planning.advice_recipe import EXAMPLE_TOKENS, Inputs, Training, scratch_shape, write_recipe
from gristmill.planning.goal import (
    BYTES_TO_ADAPT,
    BYTES_TO_TRAIN,
    BYTES_TO_USE,
    FEW_EXAMPLES,
    MANY_EXAMPLES,
    TITLES,
    USABLE_SCRATCH_TOKENS,
    Decision,
    Facts,
    Goal,
    Way,
    decide,
)
from gristmill.planning.scaling_laws import BESIROGLU, MUENNIGHOFF, Optimum
from gristmill.planning.tables import Tables

STAND_IN_TOKENS = 6.7e6
"""Of Python's standard library in a vocabulary of 8,192: the text that every machine has."""
TRIALS = 1.5
"""All computing over the final run: what trials and mistakes take (planning/tables/assumptions.yaml)."""
EPOCHS_OF_TEXT = 4
"""Passes over a text that are worth it (arXiv:2305.16264)."""
CONTINUED_EPOCHS = 2


@dataclass(frozen=True)
class Advice:
    """Everything that the page says."""

    goal: Goal
    decision: Decision
    model: Mapping[str, Any]
    machine: Machine
    training_tokens: float
    training_flops: float
    cost: Mapping[str, Any]
    missing: tuple[str, ...]
    risks: tuple[str, ...]
    notes: tuple[str, ...]
    recipe: str
    assumed: tuple[str, ...] = field(default=())
    """Answers that nobody gave."""

    @property
    def title(self) -> str:
        return TITLES[self.decision.way]

    def as_json(self) -> dict[str, Any]:
        decision = self.decision
        return {
            "goal": to_plain(self.goal), "assumed_answers": list(self.assumed),
            "way": decision.way, "title": self.title,
            "reasons": list(decision.reasons), "doubts": list(decision.doubts), "votes": dict(decision.votes),
            "other_ways": [{"way": way, "title": TITLES[way], "why_not": why} for way, why in decision.others.items()],
            "model": dict(self.model), "hardware": self.machine.title, "training_tokens": self.training_tokens,
            "training_flops": self.training_flops, **self.cost, "missing": list(self.missing),
            "risks": list(self.risks), "notes": list(self.notes),
            "assumptions": [u.as_json() for u in self.machine.used], "recipe": self.recipe,
        }


def advise(goal: Goal, tables: Tables, *, inputs: Inputs | None = None, name: str = "my-model",
           lora: Mapping[str, Any] | None = None, hardware: str = "h100-sxm", memory_bytes: float = 16e9,
           threads: int = 2, region: str | None = None, assumed: tuple[str, ...] = ()) -> Advice:
    """From answers to an advice.

    lora: keys of the fine-tuning stage that switch adapters on; None where this installation has none. memory_bytes,
    threads: of the machine at hand, used where there is no money for another.
    """
    inputs = inputs or Inputs()
    machine = machine_for(goal, tables, hardware=hardware, memory_bytes=memory_bytes, threads=threads)
    compute = machine.flops.expected / TRIALS
    examples = goal.examples * EXAMPLE_TOKENS * _epochs(goal.examples)
    whole, covered = choose_model(goal.quality, goal.languages, _most(machine, compute, examples, BYTES_TO_TRAIN))
    full_fits = _fits(whole, machine, compute, examples, BYTES_TO_TRAIN)
    using, covered_by_use = choose_model(goal.quality, goal.languages, machine.memory_bytes / BYTES_TO_USE)
    optimum, limited = _scratch(goal, compute, inputs)
    facts = Facts(lora=lora is not None, covered=covered or covered_by_use, full_fits=full_fits,
                  scratch_tokens=optimum.tokens)
    decision = decide(goal, facts)
    way = decision.way
    model, tokens, flops, training = _plan(way, goal, machine, compute, examples, whole, using, optimum, inputs, lora)
    cost = machine.cost(flops, training.parameters, tables, region) if flops else _nothing()
    notes = [*limited] if way == "scratch" else []
    if lora is None and decide(goal, replace(facts, lora=True)).way == "lora":
        notes.append("low-rank adapters (LoRA) would suit best, but this version of Gristmill cannot train them: what "
                     "is advised here is the best of the rest")
    return Advice(goal, decision, model, machine, tokens, flops, cost,
                  tuple(_missing(way, goal, inputs)), tuple(_risks(way, goal, model, cost, facts)), tuple(notes),
                  write_recipe(name, way, goal, training, inputs, decision.reasons), assumed)


def _plan(way: Way, goal: Goal, machine: Machine, compute: float, examples: float, whole: PublicModel,
          using: PublicModel, optimum: Optimum, inputs: Inputs, lora: Mapping[str, Any] | None
          ) -> tuple[dict[str, Any], float, float, Training]:
    """(what the page says of the model, tokens, FLOPs, what the recipe needs)."""
    if way == "scratch":
        shape = scratch_shape(optimum.parameters, optimum.tokens)
        tokens = max(float(shape.context * 16), min(optimum.tokens, compute / 6 / shape.parameters))
        said = {"name": None, "family": "llama", "depth": shape.depth, "parameters": shape.parameters,
                "vocab_size": shape.vocab_size, "context": shape.context, "licence": "yours", "languages":
                list(goal.languages), "source": None}
        return said, tokens, 6 * shape.parameters * tokens, Training(
            shape.parameters, tokens, shape=shape, epochs=_epochs(goal.examples))
    chosen, tokens = using, 0.0
    if way == "lora":
        chosen, _ = choose_model(goal.quality, goal.languages, _most(machine, compute, examples, BYTES_TO_ADAPT))
        tokens = examples
    elif way == "finetune":
        chosen, tokens = whole, examples
    elif way == "continue":
        chosen = whole
        tokens = min(CONTINUED_EPOCHS * goal.text_tokens, compute / 6 / chosen.parameters)
    hub = chosen.base if way == "continue" or goal.purpose == "write" else chosen.chat
    said = {"name": hub, "family": chosen.family, "preset": chosen.preset, "parameters": chosen.parameters,
            "licence": chosen.licence, "languages": list(chosen.languages), "source": f"{chosen.source}, {chosen.date}"}
    return said, tokens, 6 * chosen.parameters * tokens, Training(
        chosen.parameters, tokens, source=inputs.model or hub, epochs=_epochs(goal.examples),
        adapters=dict(lora or {}) if way == "lora" else {})


def _scratch(goal: Goal, compute: float, inputs: Inputs) -> tuple[Optimum, list[str]]:
    """The best model from scratch for the compute and the text, and what limits it."""
    unique = goal.text_tokens or STAND_IN_TOKENS
    free = BESIROGLU.optimum(compute)
    if free.tokens <= EPOCHS_OF_TEXT * unique:
        each = f"{free.tokens_per_parameter:.0f} tokens a parameter"
        return free, [f"the size follows from the budget by {BESIROGLU.title}: {each}"]
    limited = replace(MUENNIGHOFF, unique_tokens=unique).at_tokens(EPOCHS_OF_TEXT * unique)
    suits = (f"the text limits the size, not the budget: {unique / 1e6:,.1f} M tokens, read {EPOCHS_OF_TEXT} times, "
             f"suit {limited.parameters / 1e6:,.2g} M parameters ({MUENNIGHOFF.title})")
    more = (f"with {free.tokens / unique:,.0f} times the text, the budget would allow {free.parameters / 1e6:,.3g} M "
            "parameters")
    return limited, [suits, more]


def _most(machine: Machine, compute: float, tokens: float, bytes_each: float) -> float:
    """The largest model that the memory of one device and the compute allow."""
    return min(machine.memory_bytes / bytes_each, compute / 6 / max(tokens, 1e6))


def _fits(model: PublicModel, machine: Machine, compute: float, tokens: float, bytes_each: float) -> bool:
    return model.parameters <= _most(machine, compute, tokens, bytes_each)


def _epochs(examples: int) -> int:
    """Passes over the examples: more where there are few."""
    return 3 if examples < MANY_EXAMPLES else 2


def _missing(way: Way, goal: Goal, inputs: Inputs) -> list[str]:
    said = []
    if way in ("continue", "scratch") and inputs.texts is None:
        said.append("the folder of your texts (--texts); until then the recipe reads Python's standard library in "
                    "their place")
    if way in ("finetune", "lora") and inputs.conversations is None:
        said.append("the file of your examples (--conversations); until then the recipe makes questions from Python's "
                    "standard library")
    if way == "scratch" and goal.text_tokens < USABLE_SCRATCH_TOKENS and goal.purpose in ("chat", "classify"):
        said.append(f"about {(USABLE_SCRATCH_TOKENS - goal.text_tokens) * 4.2 / 1e9:.1f} GB more text for a model from "
                    "scratch that understands questions")
    if way in ("prompt", "continue", "scratch") and goal.purpose in ("chat", "classify"):
        least = FEW_EXAMPLES if way == "prompt" else MANY_EXAMPLES
        if goal.examples < least:
            said.append(f"about {least - goal.examples:,} examples of questions with good answers, to fine-tune on")
    said.append("100 questions of your users with right answers that no training sees: without them nobody can tell "
                "whether it works")
    return said


def _risks(way: Way, goal: Goal, model: Mapping[str, Any], cost: Mapping[str, Any], facts: Facts) -> list[str]:
    said = []
    uncovered = sorted(set(goal.languages) - set(model["languages"]))
    if uncovered:
        said.append(f"{model['name']} was not trained on {', '.join(uncovered)}: expect weak answers there")
    if way in ("prompt", "lora", "finetune", "continue"):
        said.append(f"what {model['name']} learned from is not fully known; licence {model['licence']}, read it")
    if way in ("lora", "finetune", "continue"):
        said.append("it may forget what it could: compare it with the model that it came from (stage `evaluate`)")
    if way in ("lora", "finetune") and goal.examples < MANY_EXAMPLES:
        said.append("with few examples it learns them by heart: watch the loss on held-out ones")
    if way == "scratch" and goal.purpose in ("chat", "classify") and facts.scratch_tokens < USABLE_SCRATCH_TOKENS:
        said.append("it will write text like yours, but not follow instructions reliably")
    if way != "prompt" and goal.privacy != "open":
        said.append("a model can repeat what it was trained on: remove personal data from the texts first")
    if way == "prompt" and goal.privacy != "open":
        said.append("run it on your own machines; a provider's API would see the texts")
    dollars, seconds = cost.get("cost_usd"), cost["time_s"]
    if dollars and dollars["high"] > goal.budget_usd > 0:
        said.append(f"in the worst case it costs {dollars['high']:,.0f} US dollars, more than the budget of "
                    f"{goal.budget_usd:,.0f}")
    if seconds["high"] > goal.days * 86_400:
        said.append(f"in the worst case it takes {seconds['high'] / 86_400:,.1f} days, longer than the {goal.days:g} "
                    "given")
    said.append("it will say wrong things with confidence: keep a person where that would hurt")
    return said


def _nothing() -> dict[str, Any]:
    zero = {"low": 0.0, "expected": 0.0, "high": 0.0}
    return {name: dict(zero) for name in ("time_s", "device_hours", "cost_usd", "energy_kwh", "co2e_kg")}
