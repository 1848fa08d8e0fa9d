"""Stages of a few lines that behave like real ones: durable points, resume, scraps, telemetry, references."""

from __future__ import annotations

import json
import time
from dataclasses import field
from typing import Any, Literal

from gristmill.core.config import CorpusRef, ModelRef, TokenizerRef, config, require
from gristmill.core.errors import UserError
from gristmill.core.files import read_json, write_atomic, write_json
from gristmill.core.seeds import derive_seed
from gristmill.core.stage import StageContext, stage
from gristmill.recipe.registry import register


@config
class ToyFiles:
    """Files."""

    kind: Literal["files"] = "files"
    """files."""
    path: str
    """Where."""


@config
class ToyNumbers:
    """Numbers made up."""

    kind: Literal["numbers"] = "numbers"
    """numbers."""
    count: int = 3
    """How many."""


@config
class ToyBudget:
    """How long: one of these."""

    alternatives = ("minutes", "steps")

    minutes: float | None = None
    """Minutes."""
    steps: int | None = None
    """Steps."""

    def __post_init__(self) -> None:
        require(self.minutes is None or self.steps is None, "budget", "give one of minutes, steps")
        require(self.steps is None or self.steps >= 1, "steps", "must be at least 1")


@register
@stage(kind="toy_corpus", produces="corpus")
class ToyCorpus:
    """Parts of text, one durable point each."""

    parts: int = 3
    """How many parts."""
    text: str = "x"
    """What stands in them."""
    sources: list[ToyFiles | ToyNumbers] = field(default_factory=list)
    """Where from."""

    def run(self, context: StageContext) -> dict[str, Any]:
        for i in range(self.parts):
            path = context.work / "documents" / f"{i}.txt"
            if not path.exists():
                write_atomic(path, f"{self.text} {i} {derive_seed(context.seed, i)}\n")
        (context.scratch / "scraps").write_text("scraps")
        write_json(context.telemetry / "speed.json", {"time": time.time()})
        return {"documents": self.parts}


@register
@stage(kind="toy_tokenizer", produces="tokenizer")
class ToyTokenizer:
    """A tokenizer."""

    corpus: CorpusRef
    """Text."""

    def run(self, context: StageContext) -> dict[str, Any]:
        context.progress.say("tokenizing")
        write_json(context.work / "tokenizer.json", {"of": context.inputs[self.corpus].digest})
        return {"vocab_size": 7}


@register
@stage(kind="toy_model", produces="model")
class ToyModel:
    """A model that learns in steps, with checkpoints and a trace that must come out the same after any crash."""

    corpus: CorpusRef | None = None
    """Text."""
    tokenizer: TokenizerRef | None = None
    """Tokens."""
    start: ModelRef | None = None
    """Go on from here."""
    budget: ToyBudget = ToyBudget(steps=3)
    """How long."""
    mode: Literal["plain", "fail", "write_hole", "disk_full", "nan", "memory"] = "plain"
    """What happens."""
    width: int | Literal["auto"] = "auto"
    """Size."""
    rate: float = 0.1
    """Learning rate."""
    fast: bool = False
    """Faster."""
    prompts: list[str] = field(default_factory=list)
    """Texts."""

    def run(self, context: StageContext) -> dict[str, Any]:
        if self.mode == "fail":
            raise ZeroDivisionError("a fault")
        if self.mode == "memory":
            raise MemoryError
        if self.mode == "disk_full":
            raise OSError(28, "No space left on device", str(context.work / "x"))
        if self.mode == "write_hole":
            raise UserError("the corpus is empty", fix="add text")
        checkpoint = context.scratch / "checkpoint.json"
        start = derive_seed(context.seed, str(self.rate), *sorted(a.digest for a in context.inputs.values())) % 1000
        state = read_json(checkpoint) if checkpoint.exists() else {"step": 0, "value": start, "trace": []}
        while state["step"] < (self.budget.steps or 1):
            state["value"] = derive_seed(state["value"], state["step"]) % 1000
            state["step"] += 1
            state["trace"].append({"step": state["step"], "loss": state["value"]})
            write_json(checkpoint, state)
        write_atomic(context.work / "trace.jsonl", "".join(json.dumps(line) + "\n" for line in state["trace"]))
        write_json(context.work / "config.json", {"value": state["value"]})
        return {"loss": float("nan") if self.mode == "nan" else state["value"]}


@register
@stage(kind="toy_scores", produces="evaluation")
class ToyScores:
    """Scores."""

    models: list[ModelRef]
    """Which models."""

    def run(self, context: StageContext) -> dict[str, Any]:
        losses = {name: context.inputs[name].metrics["loss"] for name in self.models}
        write_json(context.work / "results.json", {
            "gains": [{"improved": True, "text": "the loss fell"}],
            "samples": [{"prompt": "def f(", "outputs": {"base": "x):\n    return x"}}], "losses": losses})
        return {"losses": losses}


RECIPE = {
    "name": "toy", "seed": 7,
    "stages": {
        "scores": {"uses": "toy_scores", "models": ["base", "tuned"]},
        "corpus": {"uses": "toy_corpus", "parts": 2},
        "tokenizer": {"uses": "toy_tokenizer", "corpus": "corpus"},
        "base": {"uses": "toy_model", "corpus": "corpus", "tokenizer": "tokenizer"},
        "tuned": {"uses": "toy_model", "start": "base", "budget": {"steps": 2}},
    },
}
