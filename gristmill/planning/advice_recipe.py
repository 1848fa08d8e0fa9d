"""The recipe of an advice: stages as plain values, written as YAML with the reason beside each."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import yaml

from gristmill.models.spec import ModelSpec
from gristmill.planning.goal import Goal, Way

EXAMPLE_TOKENS = 300
"""Of a question with its answer."""
DEEPEST = 120
STAND_IN = ("Python's standard library stands in for your texts: replace the source by "
            '{kind: files, path: "texts/**/*"}')


@dataclass(frozen=True)
class Inputs:
    """What the user named: paths as they go into the recipe."""

    texts: str | None = None
    """A folder, file or pattern of raw text."""
    conversations: str | None = None
    """A .jsonl file of examples."""
    model: str | None = None
    """A folder or file of the public model, in place of its hub id."""


@dataclass(frozen=True)
class Shape:
    """A model from scratch."""

    depth: int
    vocab_size: int
    context: int
    parameters: int


@dataclass(frozen=True)
class Training:
    """What the recipe needs of the plan."""

    parameters: float
    tokens: float
    source: str = ""
    shape: Shape | None = None
    epochs: int = 2
    adapters: Mapping[str, Any] = field(default_factory=dict)


Entry = tuple[str, str, dict[str, Any]]
"""(name of the stage, what it is for, its keys)."""


def scratch_shape(parameters: float, tokens: float) -> Shape:
    """The depth of the dial whose model is nearest to `parameters`, with a vocabulary and a context that suit it."""
    vocabulary = 2048 if tokens < 5e6 else 8192 if tokens < 2e8 else 32_768
    context = 256 if parameters < 3e7 else 1024 if parameters < 1e9 else 2048
    return min(_dial(vocabulary, context), key=lambda shape: abs(math.log(shape.parameters / parameters)))


@lru_cache(maxsize=16)
def _dial(vocabulary: int, context: int) -> tuple[Shape, ...]:
    shapes = []
    for depth in range(1, DEEPEST + 1):
        config, _ = ModelSpec(depth=depth, context=context).resolve(vocabulary)
        lookup = 0 if config.tied_head else config.vocab_size * config.dim
        shapes.append(Shape(depth, vocabulary, context, config.matmul_parameters + lookup))
    return tuple(shapes)


def write_recipe(name: str, way: Way, goal: Goal, training: Training, inputs: Inputs, reasons: Sequence[str]) -> str:
    """The recipe as text; `gristmill run` takes it."""
    entries = {"prompt": _prompt, "lora": _finetune, "finetune": _finetune, "continue": _continue, "scratch": _scratch}[
        way](goal, training, inputs)
    lines = [f"# Written by `gristmill plan goal`. Look at it first: gristmill run {name}.yaml --dry-run"]
    for reason in reasons:
        lines += textwrap.wrap(reason, 116, initial_indent="# - ", subsequent_indent="#   ")
    lines += [f"name: {name}", "seed: 1337", "stages:"]
    for stage, comment, value in entries:
        lines.append("")
        lines += textwrap.wrap(comment, 114, initial_indent="  # ", subsequent_indent="  # ")
        text = yaml.safe_dump({stage: value}, sort_keys=False, allow_unicode=True, width=100)
        lines += ["  " + line for line in text.rstrip().split("\n")]
    return "\n".join(lines) + "\n"


def _corpus(goal: Goal, inputs: Inputs, why: str) -> Entry:
    if inputs.texts is None:
        return ("corpus", f"{why} {STAND_IN}", {
            "uses": "data", "sources": [{"kind": "python_stdlib"}], "filter": {"preset": "code"},
            "split": {"valid": 0.03, "test": 0.05}})
    source: dict[str, Any] = {"kind": "files", "path": inputs.texts}
    if len(goal.languages) == 1:
        source["language"] = goal.languages[0]
    return ("corpus", why, {"uses": "data", "sources": [source], "filter": {
        "preset": "code" if goal.domain == "code" else "standard"}, "split": {"valid": 0.03, "test": 0.05}})


def _import(training: Training) -> Entry:
    return ("public", "The public model. A local folder or .gguf file works as well as a hub id.",
            {"uses": "import", "source": training.source})


def _prompt(goal: Goal, training: Training, inputs: Inputs) -> list[Entry]:
    entries = [_import(training)]
    release: dict[str, Any] = {"uses": "export", "model": "public"}
    if inputs.texts is not None or goal.domain == "code":
        entries += [_corpus(goal, inputs, "Held-out text, to see how well it knows your field."),
                    ("scores", "How well it knows your text.", {
                        "uses": "evaluate", "models": ["public"], "corpus": "corpus", "max_bytes": 60_000,
                        "prompts": 32, "samples": 1})]
        release["evaluation"] = "scores"
    return [*entries, ("release", "A folder to serve: gristmill serve RECIPE/release", release)]


def _finetune(goal: Goal, training: Training, inputs: Inputs) -> list[Entry]:
    entries = [_import(training)]
    corpus = inputs.texts is not None or inputs.conversations is None
    if corpus:
        entries.append(_corpus(goal, inputs, "Text to keep general skills alive, and to measure on."))
    entries.append(_tuned(training, inputs, "public", corpus))
    return [*entries, *_ending("tuned", ["public", "tuned"], corpus)]


def _continue(goal: Goal, training: Training, inputs: Inputs) -> list[Entry]:
    entries = [
        _import(training), _corpus(goal, inputs, "Your text."),
        ("domain", "Reads your text, gently: a learning rate far below that of training from scratch.", {
            "uses": "pretrain", "corpus": "corpus", "start": "public", "context": 1024, "batch": 16, "micro_batch": 1,
            "budget": {"tokens": max(16 * 1024, int(training.tokens))},
            "training": {"optimizer": {"kind": "adamw", "learning_rate": _rate(training.parameters)},
                         "schedule": {"kind": "cosine", "warmup": 0.02, "final": 0.1}}})]
    models, last = ["public", "domain"], "domain"
    if inputs.conversations is not None:
        entries.append(_tuned(training, inputs, "domain", True))
        models, last = [*models, "tuned"], "tuned"
    return [*entries, *_ending(last, models, True)]


def _scratch(goal: Goal, training: Training, inputs: Inputs) -> list[Entry]:
    shape = training.shape
    assert shape is not None
    size, amount = f"{shape.parameters / 1e6:,.3g} M parameters", f"{training.tokens / 1e6:,.3g} M tokens"
    entries = [
        _corpus(goal, inputs, "Your text: cleaned, without duplicates, split."),
        ("tokenizer", "Its tokens.", {"uses": "tokenizer", "corpus": "corpus", "vocab_size": shape.vocab_size}),
        ("base", f"About {size} on {amount}, repeated ones included.", {
            "uses": "pretrain", "corpus": "corpus", "tokenizer": "tokenizer",
            "model": {"family": "llama", "depth": shape.depth, "context": shape.context},
            "budget": {"tokens": max(1, int(training.tokens))}})]
    models, last = ["base"], "base"
    if inputs.conversations is not None or (goal.domain == "code" and inputs.texts is None and goal.purpose == "chat"):
        entries.append(_tuned(training, inputs, "base", True))
        models, last = [*models, "tuned"], "tuned"
    return [*entries, *_ending(last, models, True)]


def _tuned(training: Training, inputs: Inputs, model: str, corpus: bool) -> Entry:
    own = inputs.conversations is not None
    comment = "Learns to answer from your examples." if own else (
        "Learns to answer. Questions about Python's standard library stand in for your examples: replace data by "
        '{kind: file, path: "examples.jsonl"}')
    value: dict[str, Any] = {
        "uses": "finetune", "model": model,
        "data": {"kind": "file", "path": inputs.conversations} if own else
        {"kind": "docstrings", "corpus": "corpus", "limit": 2000},
        "epochs": training.epochs, "batch": 16, **training.adapters}
    if corpus and not training.adapters:
        value["replay"] = {"corpus": "corpus", "share": 0.2}
    rate = 1e-3 if model == "base" else _rate(training.parameters)
    value["training"] = {"optimizer": {"kind": "adamw", "learning_rate": rate},
                         "schedule": {"kind": "linear", "warmup": 0.05}}
    return "tuned", comment, value


def _ending(last: str, models: list[str], corpus: bool) -> list[Entry]:
    entries: list[Entry] = []
    release: dict[str, Any] = {"uses": "export", "model": last}
    if corpus:
        entries.append(("scores", "Each model against the one before, on text that none has seen.", {
            "uses": "evaluate", "models": models, "corpus": "corpus"}))
        release["evaluation"] = "scores"
    return [*entries, ("release", "A folder to serve: gristmill serve RECIPE/release", release)]


def _rate(parameters: float) -> float:
    """Learning rate of a model that is already trained: smaller for larger ones."""
    return 1e-4 if parameters < 3e8 else 5e-5 if parameters < 2e9 else 2e-5
