"""Running a recipe: unchanged stages are reused, changed ones become the next version, unfinished ones continue."""

from __future__ import annotations

import os
import time
import traceback
import uuid
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gristmill.core import interrupt
from gristmill.core.artifact import Artifact
from gristmill.core.config import to_plain
from gristmill.core.errors import GristmillError, Interrupted, UserError
from gristmill.core.files import disk_errors, read_json, write_atomic, write_json
from gristmill.core.hashing import canonical_json, digest
from gristmill.core.progress import Progress, Silent
from gristmill.core.stage import Runtime, StageContext
from gristmill.pipeline import provenance
from gristmill.pipeline.display import plan_table, show, summary_table
from gristmill.pipeline.follow import follow, message
from gristmill.pipeline.guard import guarded
from gristmill.pipeline.lock import run_lock
from gristmill.pipeline.log import EventLog, now
from gristmill.pipeline.plan import Plan, Step, decide, make_plan
from gristmill.pipeline.ranks import Leader, check_layout, leading, place
from gristmill.pipeline.state import RunState
from gristmill.pipeline.store import ArtifactStore
from gristmill.pipeline.work import WorkFolder, remove_torn_writes
from gristmill.pipeline.writers import writer_opener
from gristmill.recipe.schema import Recipe, load_recipe


@dataclass
class Run:
    """What a run left. `run["base"]` is the artifact of the stage `base`."""

    name: str
    folder: Path
    plan: Plan
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    """Stages that ran (or continued) now."""
    reused: list[str] = field(default_factory=list)
    """Stages whose finished artifact was taken as it is."""
    report: Path | None = None

    def __getitem__(self, stage: str) -> Artifact:
        return self.artifacts[stage]


def run(recipe: str | Path | Mapping[str, Any] | Recipe, *, runs_dir: str | Path = "runs", until: str | None = None,
        set: Iterable[str] | Mapping[str, Any] = (), resume: bool = True, dry_run: bool = False, report: bool = True,
        runtime: Runtime | None = None, progress: Progress | None = None) -> Run:
    """Run a recipe to its end, or as far as the stage `until` needs.

    recipe: a file, a mapping or a Recipe. set: overrides, as `--set` takes them or as {dotted path: value}.
    resume: take up unfinished work (else it is begun anew). dry_run: plan only and write nothing.
    Raises RecipeError before anything runs; Interrupted on SIGTERM or Ctrl-C, with everything durable kept.

    Under torchrun the first process runs the recipe and the others take part in its stages that can use them
    (`pipeline/ranks.py`); there SystemExit ends a process whose error the first one tells.
    """
    def load() -> Recipe:
        return load_recipe(recipe, [set] if isinstance(set, str) else set)

    def lead(ranks: Leader | None = None) -> Run:
        typed, store, shown = load(), ArtifactStore(runs_dir), progress or Silent()
        if ranks is not None:
            ranks.meet(_card(typed))
        plan = make_plan(typed, store, until)
        folder = store.run_folder(typed.name)
        if dry_run:
            show(shown, plan_table(plan))
            return Run(typed.name, folder, plan)
        with interrupt.handlers(), run_lock(folder):
            return _Runner(typed, store, plan, runtime or Runtime(), shown, resume, report, ranks).run()

    here = place()
    check_layout((runtime or Runtime()).parallel, here.size)
    if here.size == 1:
        return lead()
    with interrupt.handlers(together=True):
        if here.main:
            with leading(here) as ranks:
                done = lead(ranks)
                ranks.left = {name: str(artifact.path) for name, artifact in done.artifacts.items()}
                return done
        typed, left = follow(here, load, _card)
        made = {name: Artifact.open(path) for name, path in left.items()}
        return Run(typed.name, ArtifactStore(runs_dir).run_folder(typed.name), Plan(typed, []), made)


def _card(recipe: Recipe) -> dict[str, Any]:
    """What must be the same on all processes of a run."""
    return {"code": provenance.code(), "torch": provenance.libraries().get("torch"),
            "recipe": digest(recipe.to_plain())}


class _Runner:
    """One run under the lock of its folder."""

    def __init__(self, recipe: Recipe, store: ArtifactStore, plan: Plan, runtime: Runtime, progress: Progress,
                 resume: bool, report: bool, ranks: Leader | None = None) -> None:
        self.recipe, self.store, self.plan, self.runtime, self.progress = recipe, store, plan, runtime, progress
        self.resume, self.report, self.ranks = resume, report, ranks
        self.folder = store.run_folder(recipe.name)
        self.result = Run(recipe.name, self.folder, plan)

    def run(self) -> Run:
        with disk_errors(self.folder):
            remove_torn_writes(self.folder, deep=False)
            remove_torn_writes(self.folder / "work" / ".marks")
            write_atomic(self.folder / "recipe.yaml", recipe_text(self.recipe))
            self.log = EventLog(self.folder / "log.jsonl")
            # Another process may have finished stages since the plan was made.
            for step in self.plan.steps:
                decide(self.plan, step, self.store)
            self.state = RunState.begin(self.folder, self.plan)
        show(self.progress, plan_table(self.plan))
        self.log.write("run_started", recipe=self.recipe.name, seed=self.recipe.seed, code=provenance.code())
        began = time.monotonic()
        try:
            for step in self.plan.steps:
                decide(self.plan, step, self.store)
                if step.wanted:
                    self._step(step)
        except Interrupted:
            self.state.end("interrupted")
            raise
        except BaseException:
            self.state.end("failed")
            raise
        self.state.end("done")
        seconds = round(time.monotonic() - began, 3)
        self.log.write("run_finished", seconds=seconds, ran=self.result.ran, reused=self.result.reused)
        self._close()
        return self.result

    def _step(self, step: Step) -> None:
        if step.artifact is not None:
            self.progress.say(f"{step.name}: reused {step.artifact.name}")
            self.log.write("stage_reused", stage=step.name, artifact=step.artifact.name)
            self.result.reused.append(step.name)
            work = WorkFolder(self.folder, step.name)
            if not work.path.exists():
                work.forget()
        else:
            step.artifact = self._execute(step)
            self.result.ran.append(step.name)
        self.result.artifacts[step.name] = step.artifact
        self.state.settle(step)

    def _execute(self, step: Step) -> Artifact:
        assert step.identity is not None
        work = WorkFolder(self.folder, step.name)
        target = self.store.folder(self.recipe.name, step.name, step.version)
        if self.resume and (artifact := work.finished(step.identity)) is not None:
            self.progress.say(f"{step.name}: was complete when the last run ended; taken over")
            if artifact.record.get("version") == step.version:
                return self._publish(step, work, target)
        if aside := work.displaced(step.identity):
            whose = "is of other settings or inputs" if work.mark() else (
                f"cannot go on: {work.mark_path}, which says of what it is, is lost or damaged")
            self.progress.say(f"{step.name}: unfinished work {whose}; it is set aside in {aside}, until other work is")
            self.log.write("work_set_aside", stage=step.name, aside=str(aside), marked=work.mark() is not None)
        continues = work.begin(step.identity, step.version, self.resume)
        name = f"{self.recipe.name}/{step.name}@{step.version}"
        self.progress.say(f"{step.name}: {'continuing' if continues else 'running'} {step.kind} -> {name} ({step.why})")
        self.log.write("stage_continued" if continues else "stage_started", stage=step.name, artifact=name,
                       why=step.why)
        self.state.start(step)
        earlier = float((work.mark() or {}).get("seconds", 0.0))
        started, began = now(), time.monotonic()
        try:
            record = self._run_stage(step, work, name)
            seconds = round(earlier + time.monotonic() - began, 3)
            work.seal(lambda digest: {**record, "digest": digest, "started": started, "finished": now(),
                                      "seconds": seconds})
            return self._publish(step, work, target)
        except BaseException as error:
            self._note(step, work, error, earlier + time.monotonic() - began)
            raise

    def _run_stage(self, step: Step, work: WorkFolder, name: str) -> dict[str, Any]:
        inputs = self.plan.inputs(step) or {}
        context = StageContext(name=name, seed=step.seed, work=work.path, cache=self.folder / "cache", inputs=inputs,
                               runtime=self.runtime, progress=self.progress,
                               open_writer=writer_opener(self.runtime), checkpoints=self._checkpoints(step, work))
        context.cache.mkdir(parents=True, exist_ok=True)
        alone = self.ranks is None or not type(step.config).many_processes
        with nullcontext() if alone else self.ranks.together(message(step.name, context)):  # type: ignore[union-attr]
            metrics = dict(guarded(step.name, step.config, work.path, context) or {})
        canonical_json(metrics)
        return {
            "kind": step.produces, "name": f"{self.recipe.name}/{step.name}", "version": step.version,
            "identity": step.identity, "uses": step.kind, "semantics_version": type(step.config).semantics_version,
            "config": to_plain(step.config), "inputs": {text: self._input(step, a) for text, a in inputs.items()},
            "metrics": metrics, "seed": step.seed, "code": provenance.code(), "libraries": provenance.libraries(),
            "machine": provenance.machine(), "runtime": asdict(self.runtime),
        }

    def _checkpoints(self, step: Step, work: WorkFolder) -> str:
        """The folder of one stage below `--checkpoints`, "" without it. Its last name is made up and lies with the
        unfinished work: whatever else a bucket holds, a run goes on from checkpoints of its own only. Raises UserError
        where a training has begun with the option and goes on without it, or the other way round: it would begin at
        its first step again, and cut its traces there."""
        url, path = self.runtime.checkpoints, work.path / ".scratch" / "checkpoints.json"
        trained, stored = (work.path / "trace.jsonl").exists(), path.exists()
        if trained and stored and url is None:
            raise UserError("this training keeps its checkpoints in storage, and --checkpoints is not given",
                            where=f"stage {step.name}", fix=f"--checkpoints {read_json(path).get('url', 'URL')} to go "
                                                            "on from them, or --no-resume to begin anew")
        if trained and not stored and url is not None:
            raise UserError("this training keeps its checkpoints with the run, and --checkpoints looks elsewhere",
                            where=f"stage {step.name}", fix="leave --checkpoints out to go on from them, or begin anew "
                                                            "with --no-resume")
        if url is None:
            return ""
        if not stored:
            write_json(path, {"name": uuid.uuid4().hex[:12], "url": url})
        return "/".join((url.rstrip("/"), self.recipe.name,
                         f"{step.name}@{step.version}", read_json(path)["name"], "checkpoints"))

    def _input(self, step: Step, artifact: Artifact) -> dict[str, Any]:
        """What the record says of an input; the path is relative to the artifact where both lie in the store."""
        home = self.store.folder(self.recipe.name, step.name, step.version)
        path = artifact.path.absolute()
        if path.is_relative_to(self.store.root):
            path = Path(os.path.relpath(path, home))
        return {"name": artifact.record["name"], "version": artifact.record.get("version", 0), "kind": artifact.kind,
                "digest": artifact.digest, "path": path.as_posix()}

    def _publish(self, step: Step, work: WorkFolder, target: Path) -> Artifact:
        artifact = work.publish(target)
        self.log.write("stage_finished", stage=step.name, artifact=artifact.name, digest=artifact.digest,
                       seconds=artifact.record.get("seconds"), metrics=artifact.metrics)
        return artifact

    def _note(self, step: Step, work: WorkFolder, error: BaseException, seconds: float) -> None:
        """Write down how a stage ended; must not hide the error itself, even on a full disk."""
        stopped = isinstance(error, (Interrupted, KeyboardInterrupt))
        try:
            work.note_seconds(round(seconds, 3))
            self.log.write("stage_interrupted" if stopped else "stage_failed", stage=step.name,
                           error=str(error), type=type(error).__name__,
                           traceback=None if stopped else "".join(traceback.format_exception(error)))
            self.state.fail(step, "interrupted" if stopped else "failed", str(error))
        except (OSError, GristmillError):
            pass

    def _close(self) -> None:
        rows = [(s.name, "ran" if s.name in self.result.ran else "reused", s.artifact.name,
                 s.artifact.record.get("seconds"), s.artifact.metrics) for s in self.plan.wanted if s.artifact]
        show(self.progress, summary_table(self.recipe.name, rows))
        try:
            from gristmill.pipeline import report
        except ImportError as error:
            self.progress.say(f"no report: {error}")
            return
        try:
            if self.report:
                self.result.report = report.write_report(self.folder)
            self.progress.say(report.summary_text(self.folder))
        except Exception as error:  # the run is done; a report that fails must not make it fail
            self.log.write("report_failed", error=str(error), traceback=traceback.format_exc())
            self.progress.say(f"the report could not be written: {error} (details in {self.folder / 'log.jsonl'})")


def recipe_text(recipe: Recipe) -> str:
    """The recipe as it runs: the file itself where nothing was overridden, else the merged values."""
    if recipe.document is not None and recipe.document.text:
        return recipe.document.text
    import yaml

    value = recipe.document.value if recipe.document is not None else recipe.to_plain()
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)
