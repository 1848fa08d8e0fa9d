"""The stage `evaluate`: models side by side on held-out text, with intervals, paired tests and plain sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from gristmill.core.config import CorpusRef, ModelRef, require, to_plain
from gristmill.core.files import read_json, write_json
from gristmill.core.hashing import digest
from gristmill.core.seeds import derive_seed
from gristmill.core.stage import StageContext, stage
from gristmill.evaluation.gains import gains
from gristmill.evaluation.subject import Subject, prompting_of
from gristmill.evaluation.table import gains_text
from gristmill.evaluation.tasks import TASKS, Docstring, Forgetting, Perplexity, PythonFunctions, Samples
from gristmill.evaluation.tasks.base import Record, Setting, Summary

TaskName = Literal["perplexity", "python_functions", "docstring", "forgetting", "samples"]
SPLIT = "test"


@stage(kind="evaluate", produces="evaluation", semantics_version=1)
class Evaluate:
    """Compare models on the held-out test split of a corpus."""

    models: list[ModelRef]
    """The models, in the order of their making: each is compared with the one it was made from."""
    corpus: CorpusRef
    """Where the held-out text comes from; its test split is used."""
    tasks: list[TaskName | Perplexity | PythonFunctions | Docstring | Forgetting | Samples] | None = None
    """What is measured: names, or settings with a `kind`. Default: everything that the held-out text allows."""
    max_bytes: int = 250_000
    """UTF-8 bytes of held-out text that are scored, in whole documents chosen by hash."""
    prompts: int = 128
    """Held-out functions that are asked about, and asked for."""
    samples: int = 2
    """Answers a prompt where answers are sampled."""
    prompting: dict[str, Literal["chat", "plain"]] | None = None
    """How to ask a model (by its reference): chat, through its chat template, or plain, as text that it continues.
    Default: chat for models tuned on answers, and for foreign ones with a template."""
    seed: int | None = None
    """Seed of samples and resampling; default derived from the recipe's."""

    def __post_init__(self) -> None:
        require(len(self.models) >= 1, "models", "name at least one model")
        require(len(set(self.models)) == len(self.models), "models", "the same model stands twice")
        require(self.tasks is None or len(self.tasks) >= 1, "tasks", "name at least one task")
        kinds = [t if isinstance(t, str) else t.kind for t in self.tasks or []]
        require(set(kinds) <= TASKS.keys(), "tasks", f"choose from {', '.join(TASKS)}")
        require(len(set(kinds)) == len(kinds), "tasks", "the same task stands twice")
        for name in ("max_bytes", "prompts", "samples"):
            require(getattr(self, name) >= 1, name, "must be at least 1")
        for reference in self.prompting or {}:
            require(reference in self.models, "prompting", f"{reference!r} is none of the models")

    def run(self, context: StageContext) -> dict[str, Any]:
        """Measure every task on every model (finished pairs are kept), then summarise."""
        setting = self._setting(context)
        tasks, skipped = self._tasks(setting)
        setting.perplexity = next((t for t in tasks if isinstance(t, Perplexity)), None)
        measured = Measured(context.scratch, setting)
        for subject in setting.subjects:
            for task in tasks:
                measured.record(task, subject)
            subject.release()
        results, samples = summarise(tasks, measured, setting)
        if skipped:
            results["skipped"] = skipped
        write_json(context.work / "results.json", results)
        write_json(context.work / "samples.json", samples)
        lines = [f"  skipped {s['task']}: {s['reason']}" for s in skipped] + gains_text(results).split("\n")
        for line in filter(None, lines):
            context.progress.say(line)
        return headline(results)

    def _setting(self, context: StageContext) -> Setting:
        from gristmill.training.device import prepare

        # Results are fp32 unless bf16 was asked for: a comparison should not depend on what the machine can do.
        precision = "fp32" if context.runtime.precision == "auto" else context.runtime.precision
        compute = prepare(replace(context.runtime, precision=precision))
        artifacts = [context.inputs[reference] for reference in self.models]
        short = [str(a.record["name"]).split("/")[-1] for a in artifacts]
        names = short if len(set(short)) == len(short) else list(self.models)
        subjects = [
            Subject(name, reference, artifact, (self.prompting or {}).get(reference) or prompting_of(artifact), compute)
            for name, reference, artifact in zip(names, self.models, artifacts, strict=True)]
        return Setting(
            corpus=context.inputs[self.corpus], split=SPLIT, subjects=subjects, cache=context.cache,
            seed=derive_seed(context.seed, "evaluate") if self.seed is None else self.seed,
            max_bytes=self.max_bytes, prompts=self.prompts, samples=self.samples, progress=context.progress)

    def _tasks(self, setting: Setting) -> tuple[list[Any], list[dict[str, str]]]:
        """The tasks, and which of the default ones the held-out text does not allow."""
        if self.tasks is not None:
            return [TASKS[t]() if isinstance(t, str) else t for t in self.tasks], []
        tasks, skipped = [], []
        for name, cls in TASKS.items():
            if cls in (PythonFunctions, Docstring) and not setting.functions:
                skipped.append({"task": name, "reason": "the held-out text has no documented Python functions"})
            elif cls is Forgetting and len(self.models) == 1:
                skipped.append({"task": name, "reason": "there is only one model"})
            else:
                tasks.append(cls())
        return tasks, skipped


class Measured:
    """Records of (task, model) pairs, kept on the disk as soon as each is complete."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        self.folder, self.setting = folder, setting
        self._data: dict[str, Any] = {}

    def data(self, task: Any) -> Any:
        """The items of a task, made once."""
        key = digest(to_plain(task))
        if key not in self._data:
            self._data[key] = task.data(self.setting)
        return self._data[key]

    def record(self, task: Any, subject: Subject) -> Record:
        """One model's record: read back if it is there, else measured."""
        source = self._source(task)

        def measure() -> Record:
            total, unit = source.work(self.data(source))
            with self.setting.progress.bar(f"{source.kind}: {subject.name}", total, unit) as bar:
                return source.measure(subject, self.data(source), self.setting, bar)

        others = [[s.artifact.digest, s.prompting] for s in self.setting.subjects]
        return self._kept([to_plain(source), subject.artifact.digest, subject.prompting, others], measure)

    def baselines(self, task: Any) -> Record:
        """The record of a task's baselines."""
        models = [s.artifact.digest for s in self.setting.subjects]
        return self._kept(["baselines", to_plain(task), models],
                          lambda: task.measure_baselines(self.data(task), self.setting))

    def _source(self, task: Any) -> Any:
        return task.text(self.setting) if isinstance(task, Forgetting) else task

    def _kept(self, key: list[Any], make: Callable[[], Record]) -> Record:
        s = self.setting
        shared = [s.corpus.digest, s.split, s.seed, s.max_bytes, s.prompts, s.samples]
        path = self.folder / f"record-{digest([key, shared])[:24]}.json"
        if not path.exists():
            write_json(path, make())
        return read_json(path)  # also what was just made: a resumed run and an undisturbed one see the same


def summarise(tasks: list[Any], measured: Measured, setting: Setting) -> tuple[dict[str, Any], dict[str, Any]]:
    """(results.json, samples.json) from all records."""
    whole = Summary()
    for task in tasks:
        records = {s.name: measured.record(task, s) for s in setting.subjects}
        part = task.summarise(measured.data(task), records, measured.baselines(task), setting)
        whole.tables += part.tables
        whole.samples += part.samples
        whole.forgetting += part.forgetting
        whole.details |= part.details
    results = {
        "models": [{"name": s.name, "reference": s.reference, "artifact": s.artifact.name, "digest": s.artifact.digest,
                    "parameters": s.parameters, "prompting": s.prompting} for s in setting.subjects],
        "corpus": {"name": setting.corpus.name, "digest": setting.corpus.digest, "split": setting.split},
        "tasks": whole.tables, "gains": gains(whole.tables, setting), "forgetting": whole.forgetting,
        "samples": whole.samples, "seed": setting.seed,
    }
    return results, {"samples": whole.samples, **whole.details}


def headline(results: dict[str, Any]) -> dict[str, Any]:
    """The numbers for the record: each metric's value by model, and which stages improved."""
    metrics: dict[str, Any] = {}
    for table in results["tasks"]:
        values = {r["model"]: r["value"] for r in table["rows"]} | {b["name"]: b["value"] for b in table["baselines"]}
        metrics.setdefault(table["task"], {})[table["metric"]] = values
    metrics["improved"] = {g["model"]: g["improved"] for g in results["gains"]}
    return metrics
