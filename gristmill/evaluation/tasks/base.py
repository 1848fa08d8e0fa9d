"""What a task is: a dataset, the way a model is asked about it, and a scorer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from gristmill.core.artifact import Artifact
from gristmill.core.progress import Bar, Progress, Silent
from gristmill.core.seeds import fraction
from gristmill.evaluation.subject import Subject

Record = dict[str, Any]
"""What a task measured on one model: JSON-ready, one entry an item, kept until the whole evaluation is done."""


@dataclass
class Setting:
    """What all tasks of an evaluation share."""

    corpus: Artifact
    split: str
    subjects: list[Subject]
    seed: int
    cache: Path
    max_bytes: int = 250_000
    """UTF-8 bytes of held-out text that are scored, as whole documents."""
    prompts: int = 128
    """Held-out functions that are asked about."""
    samples: int = 2
    """Answers a prompt."""
    perplexity: Any = None
    """The evaluation's perplexity task, whose records `forgetting` shares; None for the default one."""
    progress: Progress = field(default_factory=Silent)

    @cached_property
    def functions(self) -> list[HeldOut]:
        """Documented functions with a body in the split, in an order drawn by hash that takes documents in turn."""
        from gristmill.data.documents import iterate_documents
        from gristmill.data.python_code import functions
        from gristmill.data.python_pairs import stub
        from gristmill.evaluation.python_answers import judge

        ranked: list[tuple[int, float, HeldOut]] = []
        for document in iterate_documents(self.corpus.path, self.split):
            if document["language"] != "python":
                continue
            found = []
            for function in functions(document["text"]):
                verdict = judge(stub(function), function.body) if function.summary and function.body.strip() else None
                if verdict is not None and verdict.accepted and not verdict.trivial:
                    key = f"{document['id']}:{function.qualified_name}:{function.line}"
                    found.append((fraction(self.seed, "function", key), HeldOut(key, document["id"], function)))
            found.sort(key=lambda item: item[0])
            ranked += [(turn, rank, item) for turn, (rank, item) in enumerate(found)]
        ranked.sort(key=lambda item: item[:2])
        return [item for _, _, item in ranked]


@dataclass(frozen=True)
class HeldOut:
    """A function that no model was trained on: its key, the document it stands in, and itself."""

    key: str
    document: str
    function: Any


class Task(Protocol):
    """A frozen config whose methods are pure in everything but the weights."""

    kind: str

    def data(self, setting: Setting) -> Any:
        """The items, the same for every model."""

    def measure(self, subject: Subject, data: Any, setting: Setting, bar: Bar) -> Record:
        """One model's record on the items; `bar` counts the units of `work`."""

    def work(self, data: Any) -> tuple[float, str]:
        """(how much `measure` has to do, in what unit), for the progress bar."""

    def measure_baselines(self, data: Any, setting: Setting) -> Record:
        """What there is to compare with, without any model; {} for nothing."""

    def summarise(self, data: Any, records: Mapping[str, Record], baselines: Record, setting: Setting) -> Summary:
        """Rows, comparisons and samples from all records (model name -> record, in the models' order)."""


@dataclass
class Summary:
    """A task's part of results.json."""

    tables: list[dict[str, Any]] = field(default_factory=list)
    """{"task", "metric", "unit", "better", "split", "n", "rows", "baselines", "comparisons"}, the headline first."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """{"prompt", "outputs": {model: text}} for results.json."""
    forgetting: list[dict[str, Any]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    """For samples.json: every answer with its verdict."""


def predecessor(name: str, setting: Setting) -> str | None:
    """The evaluated model that `name` was trained from, else the one before it in the list; None for the first."""
    names = [s.name for s in setting.subjects]
    subject = setting.subjects[names.index(name)]
    for entry in subject.artifact.record.get("inputs", {}).values():
        for other in setting.subjects:
            if entry.get("kind") == "model" and entry.get("digest") == other.artifact.digest and other.name != name:
                return other.name
    return names[names.index(name) - 1] if names.index(name) else None


def successive(setting: Setting) -> list[tuple[str, str]]:
    """The pairs (before, after) that are compared: each model with its predecessor, and the last with the first."""
    names = [s.name for s in setting.subjects]
    pairs = [(before, name) for name in names if (before := predecessor(name, setting)) is not None]
    ends = (names[0], names[-1])
    return pairs + ([ends] if len(names) > 2 and ends not in pairs else [])


def row(model: str, estimate: Any, **details: Any) -> dict[str, Any]:
    """An `Estimate` as a row of a table."""
    return {"model": model, "value": estimate.value, "low": estimate.low, "high": estimate.high,
            "stderr": estimate.stderr, **details}


def comparison(before: str, after: str, result: Any, **details: Any) -> dict[str, Any]:
    """A `Comparison` as an entry of a table."""
    from gristmill.evaluation.statistics import minimum_detectable_effect

    return {"from": before, "to": after, "difference": result.difference, "low": result.low, "high": result.high,
            "p_value": result.p_value, "n": result.n, "test": result.test,
            "detectable": minimum_detectable_effect(result.stderr), **details}
