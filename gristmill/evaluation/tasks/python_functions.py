"""Does Python accept the functions that a model writes? Bodies for held-out signatures, judged by `ast.parse`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.core.progress import Bar
from gristmill.core.seeds import derive_seed
from gristmill.data.python_pairs import complete_pair, stub
from gristmill.evaluation.python_answers import end_of_body, judge
from gristmill.evaluation.statistics import (
    Comparison,
    bootstrap,
    cluster_sums,
    clustered_share,
    matched_test,
    mcnemar,
    paired_test,
)
from gristmill.evaluation.subject import Subject
from gristmill.evaluation.tasks.base import HeldOut, Record, Setting, Summary, comparison, row, successive

METRICS = ("parses and does something", "parses", "accepted", "trivial", "ends by itself")
"""The shares that are reported. parses: accepted by `ast.parse` as one function, and ended by itself.
accepted: the same, however it ended. trivial: accepted, but only passes, returns a constant, or the like."""
LENGTH_BINS = 5


@config
class PythonFunctions:
    """The share of sampled functions that parse, and of those that also do something."""

    kind: Literal["python_functions"] = "python_functions"
    prompts: int | None = None
    """Held-out functions to ask for; default the stage's."""
    samples: int | None = None
    """Answers a prompt; default the stage's. One greedy answer where the temperature is 0."""
    temperature: float = 0.8
    """Of the sampling; 0 takes the likeliest tokens."""
    max_tokens: int = 96
    """Longest answer; one that reaches it did not end by itself."""

    def __post_init__(self) -> None:
        require(self.prompts is None or self.prompts >= 1, "prompts", "must be at least 1")
        require(self.samples is None or self.samples >= 1, "samples", "must be at least 1")
        require(self.temperature >= 0, "temperature", "must be 0 or more")
        require(self.max_tokens >= 1, "max_tokens", "must be at least 1")

    def data(self, setting: Setting) -> list[HeldOut]:
        """Held-out functions whose prompt leaves every model room for the answer."""
        return fitting(setting, self.prompts or setting.prompts, self.max_tokens, prompt)

    def work(self, data: list[HeldOut]) -> tuple[float, str]:
        return float(len(data)), "prompts"

    def measure(self, subject: Subject, data: list[HeldOut], setting: Setting, bar: Bar) -> Record:
        """Every answer with its verdict; sample n of a prompt has the same seed for every model."""
        from gristmill.generation import Sampling

        samples = 1 if self.temperature == 0 else self.samples or setting.samples
        jobs = [(item, n) for item in data for n in range(samples)]
        plain = subject.prompting == "plain"
        written = subject.write(
            [prompt(subject, item) for item, _ in jobs],
            [Sampling(max_tokens=self.max_tokens, temperature=self.temperature, stop_ids=subject.stop_ids,
                      seed=derive_seed(setting.seed, "answer", item.key, n)) for item, n in jobs],
            Shares(bar, samples), (lambda text: end_of_body(text)[1]) if plain else None,
        )
        answers = []
        for (item, _), answer in zip(jobs, written, strict=True):
            body = end_of_body(answer.text)[0] if plain else answer.text
            verdict = judge(stub(item.function), body)
            answers.append({"key": item.key, "document": item.document, "text": body, "tokens": answer.tokens,
                            "ended": answer.ended, **asdict(verdict)})
        return {"answers": answers, "samples": samples}

    def measure_baselines(self, data: list[HeldOut], setting: Setting) -> Record:
        return {}

    def summarise(self, data: list[HeldOut], records: Mapping[str, Record], baselines: Record,
                  setting: Setting) -> Summary:
        """One table a metric, the lengths, and comparisons that are paired by document."""
        answers = {name: r["answers"] for name, r in records.items()}
        tables = [self._table(metric, answers, setting) for metric in METRICS]
        tables.append(self._lengths(answers, setting))
        return Summary(tables=tables, details={
            "python_functions": {"prompts": [{"key": i.key, "stub": stub(i.function), "body": i.function.body}
                                             for i in data], "answers": answers}})

    def _table(self, metric: str, answers: Mapping[str, list[dict[str, Any]]], setting: Setting) -> dict[str, Any]:
        rows = [row(name, clustered_share(*cluster_sums(values(metric, a), [x["document"] for x in a])), samples=len(a))
                for name, a in answers.items()]
        comparisons = []
        for before, after in successive(setting):
            details: dict[str, Any] = {}
            if metric in METRICS[:2]:
                matched = at_matched_length(metric, answers[before], answers[after],
                                            derive_seed(setting.seed, "matched", metric, before, after))
                details["matched_length"] = comparison(before, after, matched)
            result = paired(metric, answers[before], answers[after],
                            derive_seed(setting.seed, "paired", metric, before, after))
            comparisons.append(comparison(before, after, result, **details))
        better = "lower" if metric == "trivial" else "higher"
        return {**head(metric, "share", better, answers, setting), "rows": rows, "baselines": [],
                "comparisons": comparisons}

    def _lengths(self, answers: Mapping[str, list[dict[str, Any]]], setting: Setting) -> dict[str, Any]:
        rows = []
        for name, a in answers.items():
            sums, counts = cluster_sums([x["tokens"] for x in a], [x["document"] for x in a])
            rows.append(row(name, bootstrap(sums, counts, seed=derive_seed(setting.seed, "length", name))))
        return {**head("length", "tokens", "neither", answers, setting), "rows": rows, "baselines": [],
                "comparisons": []}


class Shares:
    """A bar that is told of answers and shows prompts."""

    def __init__(self, bar: Bar, samples: int) -> None:
        self.bar, self.samples = bar, samples

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.bar.advance(amount / self.samples, note)


def prompt(subject: Subject, item: HeldOut) -> list[int]:
    """How a subject is asked for the body of a function: the request in a conversation, or the module's text."""
    return subject.ask(complete_pair(item.function).messages, stub(item.function) + "\n")


def fitting(setting: Setting, count: int, room: int, ask: Any) -> list[HeldOut]:
    """The first `count` held-out functions whose prompts leave `room` tokens of every model's context.

    Raises UserError where the split has no documented function, or none fits.
    """
    chosen: list[HeldOut] = []
    for item in setting.functions:
        if len(chosen) == count:
            break
        if all(len(ask(s, item)) + room <= s.context for s in setting.subjects):
            chosen.append(item)
    if not chosen:
        has = f"{len(setting.functions)} documented Python functions"
        raise UserError(f"the split {setting.split!r} has {has}, and none leaves {room} tokens for the answer",
                        where=setting.corpus.name,
                        fix="lower max_tokens, or evaluate with a corpus that has documented Python functions")
    return chosen


def head(metric: str, unit: str, better: str, answers: Mapping[str, Sequence[Any]], setting: Setting) -> dict[str, Any]:
    first = next(iter(answers.values()))
    return {"task": "python_functions", "metric": metric, "unit": unit, "better": better, "split": setting.split,
            "n": len({x["key"] for x in first}), "n_unit": "functions",
            "documents": len({x["document"] for x in first})}


def values(metric: str, answers: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """0 or 1 for each answer."""
    rules = {
        "accepted": lambda x: x["accepted"], "ends by itself": lambda x: x["ended"],
        "parses": lambda x: x["accepted"] and x["ended"], "trivial": lambda x: x["trivial"],
        "parses and does something": lambda x: x["accepted"] and x["ended"] and not x["trivial"],
    }
    return np.array([float(rules[metric](x)) for x in answers])


def paired(metric: str, before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]],
           seed: int) -> Comparison:
    """McNemar's test where every document gave one answer; else sign flips of whole documents."""
    documents = [x["document"] for x in before]
    a, b = values(metric, before), values(metric, after)
    if len(set(documents)) == len(documents):
        return mcnemar(a, b, seed=seed)
    sums, counts = cluster_sums(a, documents)
    return paired_test(sums, cluster_sums(b, [x["document"] for x in after])[0], counts, seed=seed)


def at_matched_length(metric: str, before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]],
                      seed: int) -> Comparison:
    """The difference among answers of like length: both models' lengths are cut into five bins."""
    lengths = [np.array([x["tokens"] for x in side]) for side in (before, after)]
    borders = np.quantile(np.concatenate(lengths), np.linspace(0, 1, LENGTH_BINS + 1)[1:-1])
    bins = [np.searchsorted(borders, side, side="left") for side in lengths]
    return matched_test(values(metric, before), values(metric, after), bins[0], bins[1],
                        [x["document"] for x in before], [x["document"] for x in after], seed=seed)
