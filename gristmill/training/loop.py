"""The one training loop.

An update takes a window of micro-batches from the source, divides every summed term by its count over the whole
window and all processes, clips, and steps. State is one checkpoint: weights, optimizer, average, and the number of
updates done; because batches and dropout are pure functions of that number, a resumed run is the undisturbed run,
on any number of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gristmill.core import interrupt
from gristmill.core.config import to_plain
from gristmill.core.errors import UserError
from gristmill.core.files import read_jsonl
from gristmill.core.progress import Progress, Silent
from gristmill.core.seeds import derive_seed
from gristmill.models.body import Body
from gristmill.models.layers.moe import rebalance
from gristmill.models.loading import build
from gristmill.objectives.base import Batch, Objective, attach, rows_per_item
from gristmill.objectives.penalties import penalise
from gristmill.objectives.r_drop import RDrop, has_dropout
from gristmill.tokens.loader import Loader
from gristmill.training.accumulate import Accumulation
from gristmill.training.checkpoints import Checkpoints
from gristmill.training.checkpoints.store import beside
from gristmill.training.compile import compiler_told
from gristmill.training.config import TrainingConfig
from gristmill.training.deterministic import explained
from gristmill.training.device import Compute
from gristmill.training.fit_memory import out_of_memory_told
from gristmill.training.guards import Guards
from gristmill.training.not_finite import trace_not_finite
from gristmill.training.optimizers import build_optimizer
from gristmill.training.optimizers.sharded import local
from gristmill.training.parallel.agreement import Agreement
from gristmill.training.parallel.apply import Settings, parallelise
from gristmill.training.parallel.gradients import clip, total_norm
from gristmill.training.parallel.world import World
from gristmill.training.report import Count, Report, over
from gristmill.training.schedules import average_decay, factor
from gristmill.training.selection import Selection, Target
from gristmill.training.swapped import Swapped
from gristmill.training.trace import Traces
from gristmill.training.watching import Watching, holding


class BatchSource(Protocol):
    """Where batches come from."""

    def window(self, step: int) -> Sequence[Batch]:
        """This process's micro-batches of update `step` (0-based), a pure function of the step; as many on every
        process."""


ATTACHED = "objective."
"""Before the names of what an objective brings."""
Evaluate = Callable[[nn.Module, int], Mapping[str, Any]]
"""(model, updates done) -> values for evaluations.jsonl; `score` (lower is better) steers early stopping."""


@dataclass
class Trainer:
    """Trains `model` in place. `folder` receives trace.jsonl, evaluations.jsonl and telemetry/; checkpoints lie in
    `checkpoints`, a folder or a URL that fsspec reads. `evaluate` is called with the model (or its average) in eval
    mode, on all processes."""

    model: Body
    objective: Objective
    source: BatchSource
    steps: int
    compute: Compute
    folder: Path
    checkpoints: Path | str
    config: TrainingConfig = field(default_factory=TrainingConfig)
    evaluate: Evaluate | None = None
    progress: Progress = field(default_factory=Silent)
    label: str = "training"
    seed: int = 0
    """Of dropout."""
    world: World | None = None
    """The processes that train together; default this one alone."""
    settings: Settings = field(default_factory=Settings)
    target_loss: float | None = None
    """Stop as soon as an evaluation's `valid_loss` is at or below it."""

    def __post_init__(self) -> None:
        self.minimised: Objective = self.objective
        if self.config.r_drop:
            if not has_dropout(self.model.config):
                raise UserError("R-Drop compares two passes with different dropout, and this model has none",
                                where=f"{self.label}: training.r_drop",
                                fix="give the model dropout (model.options: {dropout: 0.1}), or set r_drop to 0")
            self.minimised = RDrop(self.objective, self.config.r_drop)
        self.together = self.world or World.alone(self.compute.device)
        self.trained: dict[str, nn.Module] = {"": self.model}
        extra = attach(self.objective, self.model)
        if extra is not None:
            self.trained[ATTACHED] = extra
        self.settings = dataclasses.replace(self.settings, float8=self.compute.float8,
                                            checkpointing=self.config.activation_checkpointing)
        self.passes = parallelise(self.model, self.minimised, extra, self.together, self.compute, self.settings)
        self.saves = Checkpoints(self.checkpoints, self.together, keep=self.config.keep,
                                 keep_every=self.config.keep_every, asynchronous=True)
        self.begin()

    def begin(self) -> None:
        """Fresh state for the weights as they are: optimizer, average, counters."""
        named = [(at + name, p) for at, module in self.trained.items() for name, p in module.named_parameters()]
        self.names = {parameter: name for name, parameter in named}
        held = self.together.gather([*self.names.values()]) if self.together.layout.pipeline > 1 else []
        # Stages of a pipeline hold other weights, of which some may be refused.
        self.optimizer = self.together.alike(
            lambda: build_optimizer(named, self.config.optimizer, [name for names in held for name in names]))
        self.penalised = [p for group in self.optimizer.param_groups if group["decays"] for p in group["params"]]
        # State that no gradient reaches, such as the bias by which experts are chosen.
        self.buffers: dict[str, Tensor] = {}
        for at, module in self.trained.items():
            stored = module.state_dict().keys()
            self.buffers |= {at + name: buffer for name, buffer in module.named_buffers() if name in stored}
        self.average = {n: p.detach().clone() for p, n in self.names.items()} if self.config.ema else {}
        self.step, self.tokens = 0, 0
        self.selection = Selection(self.config.patience, self.config.keep_best)
        self.guards = Guards(self.config, self.compute, self.together, rows_per_item(self.objective))
        self.agreement = Agreement(self.together, self.compute.runtime.check_ranks)
        if isinstance(self.passes, Accumulation):
            self.passes.after = (lambda number: self.guards.after(number, self.names)) if self.guards.noise else None
        self.recent: deque[tuple[int, Sequence[Batch]]] = deque(maxlen=self.lag + 1)
        self.now: Callable[..., Any] = lambda phase, step=None: None
        self.saved_at = self.noted_at = time.monotonic()

    # -- the run ---------------------------------------------------------------------------------------------------

    def fit(self) -> dict[str, Any]:
        """Train from the newest checkpoint (or from the start) to the end; returns final numbers for the record, on
        the first process."""
        self._resume()
        self._agree()
        kept = self.step or -1  # without a checkpoint even the evaluation before the first step is done again
        self.watching = Watching.begin(
            self.compute, self.together, self.folder, self.model.config, name=self.label, left=self.steps - self.step,
            settings=self.config, say=self.progress.say, holding=lambda: holding(
                self.names, self.optimizer.tensors(self.names), self.buffers, self.average))
        self.traces = Traces(self.folder if self.together.main else None, kept, self.watching.write)
        if lost := self.traces.lost(self.step):
            self.progress.say(f"  trace.jsonl has lost the numbers of {lost} steps; their work is in the checkpoint, "
                              "and training goes on")
        target = None if self.target_loss is None else Target(self.target_loss, self.steps)
        self.selection.begin(target, *self.together.tell(
            [self._written("trace")[-Target.WINDOW:] if target else [], self._written("evaluations")[-1:]]))
        self.saved_at = self.noted_at = time.monotonic()
        due = self._evaluation_steps()
        running: deque[Report] = deque()
        try:
            with self.progress.bar(self.label, self.steps, "steps", before=self.step) as bar, interrupt.deferred(), \
                    explained(), self._windows() as windows, self.watching.signs as self.now:
                if self.step == 0 and self.evaluate is not None:
                    self.now("evaluation", 0)
                    self._evaluate()
                while self.step < self.steps and not self.selection.over:
                    began = time.monotonic()
                    self.now("data", self.step)
                    with self.watching.recording.range("data"):
                        _, window = next(windows)
                    running.append(self.advance(window, began, time.monotonic() - began))
                    self.watching.recording.step()
                    self.agreement.after(self.step, self._named)
                    self.now("report")
                    evaluated = self.step in due and self.evaluate is not None
                    behind = 0 if evaluated or self.step == self.steps else self.lag
                    reports = [running.popleft() for _ in range(len(running) - behind)]
                    for report in reports:
                        self._note(report, bar)
                    if not evaluated and self.evaluate is not None and self.selection.due(self.step):
                        evaluated = True
                        while running:
                            reports.append(running.popleft())
                            self._note(reports[-1], bar)
                    if evaluated:
                        self.now("evaluation")
                        self._evaluate(planned=self.step in due)
                        bar.advance(0, self._said())
                    stopping = any(report.stop for report in reports)
                    kept = self.saves.permanent(self.step)
                    if stopping or evaluated or kept or any(report.save for report in reports):
                        while running:
                            self._note(running.popleft(), bar)
                        self.now("checkpoint")
                        self._save()
                        self.saved_at = time.monotonic()
                    self.watching.stragglers(self.step, self.watching.signs.take)
                    if stopping:
                        interrupt.stop()
            self.saves.wait()
        finally:
            self.traces.close()
            self.saves.close()
            self.watching.close(finished=self.step >= self.steps or self.selection.over)
        self._take_result()
        self.together.barrier()
        return self._finals() if self.together.main else {}

    def _agree(self) -> None:
        """Raise before the first update where processes do not train the same thing."""
        if self.together.size > 1:
            window = self.source.window(self.step) if getattr(self.source, "static", False) else ()
            self.agreement.begin(self._named, {
                "model": to_plain(self.model.config), "training": to_plain(self.config), "steps": self.steps,
                "step": self.step}, window)

    def _named(self) -> list[tuple[str, Tensor]]:
        return [(name, parameter) for parameter, name in self.names.items()]

    def update(self, window: Sequence[Batch]) -> dict[str, Any]:
        """One optimizer step over an accumulation window; returns the trace record."""
        return self._read(self.advance(window, time.monotonic()))

    def advance(self, window: Sequence[Batch], began: float = 0.0, waited: float = 0.0) -> Report:
        """One optimizer step over an accumulation window, whose numbers may still be on their way. began: the clock's
        time when its data was asked for; waited: seconds until it came."""
        self.now("collective")
        window = self.guards.window(window)
        self.recent.append((self.step, window))
        counts, tokens = self._counts(window)
        self.model.train()
        self.draw(self.step)
        shape = window[0]["input_ids"].shape
        self.now("forward")
        with out_of_memory_told(shape[0], shape[-1], self.label), compiler_told(self.label):
            sums, metrics = self.passes.run(window, self.factors(counts))
        values = {name: over(value, counts[name]) for name, value in sums.items()}
        measured = {name: over(value, counts[unit]) for name, (value, unit) in metrics.items()}
        if self.guards.noise is not None:
            self.guards.compare(total_norm(self.names, self.together), self.minimised.counts(window[0])["loss"],
                                counts["loss"])
        if self.config.l1 or self.config.l2:
            penalty = penalise(self.penalised, self.config.l1, self.config.l2, self.guards.scaled(1.0))
            values["penalty"] = penalty / (self.together.data_size * self.together.layout.context)
        norm, skip = self.guards.judge(self.names, values.get("loss"), total_norm(self.names, self.together))
        if skip is None and self.lag and self.optimizer.selects:
            # What is broken is noticed an update later: until then the weights stay good, for `trace_not_finite`.
            skip = ~norm.isfinite()
        if self.config.clip:
            clip(self.names, self.config.clip, norm)
        scale = factor(self.config.schedule, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * scale
        self.now("optimizer")
        report = Report(
            step=self.step + 1, values=values, measured=measured, norm=norm, counted=counts["loss"], tokens=tokens,
            rows=sum(b["input_ids"].numel() for b in window) * self.together.data_size,
            context=window[0]["input_ids"].shape[-1] if window else 0,
            known={"lr": scale * self.config.optimizer.learning_rate}, began=began, waited=waited,
            same=self.guards.numbers(), telemetry=self.passes.telemetry())
        report.share(self.together, stop=interrupt.requested(),
                     save=time.monotonic() - self.saved_at >= self.config.checkpoint_seconds)
        if not self.lag:
            self._check_finite(report)
        self.saves.staged()
        if skip is None:
            self.optimizer.step()
        else:
            self.optimizer.step_unless(skip)
        self.optimizer.zero_grad()
        for at, module in self.trained.items():
            pooled = not at and getattr(self.model.config, "moe", None) is not None
            loads = rebalance(module, self.together.sum, self.together.of_stages if pooled else None)
            report.later = {**loads, **report.later}
        if self.average:
            decay = average_decay(self.config.ema, self.step)
            with torch.no_grad():
                torch._foreach_lerp_([local(self.average[name]) for name in self.names.values()],
                                     [local(parameter) for parameter in self.names], 1 - decay)
        self.step += 1
        return report

    def _counts(self, window: Sequence[Batch]) -> tuple[dict[str, Count], Count]:
        """Items of each term, and targets, over the window and all processes."""
        counts: dict[str, int] = dict.fromkeys(self.minimised.weights, 0)
        for batch in window:
            for name, count in self.minimised.counts(batch).items():
                counts[name] = counts.get(name, 0) + count
        tokens = sum(int((b["targets"] >= 0).sum()) for b in window)
        if self.together.size == 1:
            if not counts.get("loss"):
                raise self._nothing_to_learn()
            return dict(counts), tokens
        # Context ranks read the same rows, and each counts all of them.
        total = self.compute.moved(torch.tensor([*counts.values(), tokens]))
        self.together.sum(total, "tokens")
        *found, tokens_everywhere = total // self.together.layout.context
        return dict(zip(counts, found, strict=True)), tokens_everywhere

    def draw(self, step: int) -> None:
        """Begin the random numbers of an update. No state to keep: its masks are the same wherever a run was
        interrupted."""
        torch.manual_seed(derive_seed(self.seed, step, self.together.data_rank, self.together.place("context")))

    def factors(self, counts: Mapping[str, Count]) -> dict[str, Any]:
        """By what the sum of each term is multiplied to give what is minimised."""
        return {name: self.guards.scaled(over(weight, counts[name])) for name, weight in self.minimised.weights.items()}

    def factors_of(self, window: Sequence[Batch]) -> dict[str, Any]:
        """`factors` of an update over `window`; all processes call it."""
        return self.factors(self._counts(window)[0])

    def _nothing_to_learn(self) -> UserError:
        return UserError(f"the batch of step {self.step} has nothing to learn from (every target is ignored)",
                         fix="check the data of this stage: are all answers empty or cut off?")

    @property
    def lag(self) -> int:
        """Updates whose numbers are not waited for: a GPU is asked while it works on the next one."""
        return int(self.compute.device.type == "cuda")

    def _windows(self) -> Loader[Sequence[Batch]]:
        ahead = self.lag if getattr(self.source, "static", False) else 0
        return Loader(_Numbered(self.source), self.step, self.steps, prefetch=ahead)

    # -- what is noted ---------------------------------------------------------------------------------------------

    def _read(self, report: Report) -> dict[str, Any]:
        """The trace record of an update."""
        values = report.read()
        if (self.lag or self.together.size > 1) and not int(report.counted):
            raise self._nothing_to_learn()
        if self.lag:
            self._check_finite(report)
        if not math.isfinite(values["grad_norm"]):
            del values["grad_norm"]  # an update that fp16 left out; JSON has no infinity
        self.tokens += int(report.tokens)
        return {"step": report.step, "tokens": self.tokens, **values}

    def _note(self, report: Report, bar: Any) -> None:
        record = self._read(report)
        now = time.monotonic()
        seconds, self.noted_at = now - max(report.began, self.noted_at), now
        telemetry = {**self.watching.meter.step(seconds, report.waited, report.rows, report.context),
                     **report.telemetry}
        self.traces.update(record, telemetry)
        self.selection.note(record["loss"])
        self.said = f"loss {record['loss']:.3f}, {telemetry['tokens_per_second']:,.0f} tokens/s"
        bar.advance(1, self._said())

    def _said(self) -> str:
        """What the bar shows: the last update, and the last evaluation."""
        valid = self.selection.held_out
        return self.said if valid is None else f"{self.said}, valid {valid:.3f}"

    def _finals(self) -> dict[str, Any]:
        # Read back rather than remembered: a run that was killed after its last step reports the same.
        last = read_jsonl(self.folder / "trace.jsonl")[-1]
        final = (read_jsonl(self.folder / "evaluations.jsonl") or [{}])[-1]
        return {"steps": self.step, "tokens": self.tokens, "final_loss": last["loss"],
                "stopped_early": self.selection.over,
                **({} if self.target_loss is None else {
                    "target_reached": final.get("valid_loss", math.inf) <= self.target_loss}),
                **{k: v for k, v in final.items()
                   if k not in ("score", "step", "tokens") and isinstance(v, (int, float))}}

    # -- evaluation ------------------------------------------------------------------------------------------------

    def _evaluation_steps(self) -> set[int]:
        return {round(self.steps * (i + 1) / self.config.evaluations) for i in range(self.config.evaluations)}

    def _evaluate(self, planned: bool = True) -> None:
        """planned: not one of those that `target_loss` asks for, which early stopping does not count."""
        assert self.evaluate is not None
        evaluate = self.evaluate
        self.model.eval()
        with self._averaged(), torch.no_grad():
            step, within = self.step, self.passes.within if self.passes.whole else self._as_it_is
            values = dict(within(lambda model: evaluate(model, step)))
            self.selection.judge(step, values, self.state, planned=planned)
        self.traces.evaluation({"step": self.step, "tokens": self.tokens, **values})

    def _written(self, name: str) -> list[dict[str, Any]]:
        """Records of an earlier process, as far as they are kept."""
        return read_jsonl(self.folder / f"{name}.jsonl") if self.together.main else []

    def _as_it_is(self, use: Callable[[nn.Module], Any]) -> Any:
        return use(self.model)

    def _averaged(self) -> contextlib.AbstractContextManager:
        return Swapped(self.names, self.average) if self.average else contextlib.nullcontext()

    # -- state -----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """What is trained, and what beside it the result depends on, by name; this process's parts."""
        return {**{name: parameter for parameter, name in self.names.items()}, **self.buffers}

    def _save(self) -> None:
        tensors: dict[str, dict[str, Tensor]] = {
            "model": self.state(),
            "optimizer": self.optimizer.tensors(self.names),
        }
        if guarded := self.guards.tensors():
            tensors["guards"] = guarded
        if self.average:
            tensors["average"] = self.average
        if self.selection.weights:
            tensors["best"] = self.selection.weights
        self.traces.flush()
        self.saves.save(self.step, tensors, {"tokens": self.tokens, "steps": self.steps, **self.selection.record()},
                        overlap=True)

    def _resume(self) -> None:
        found = self.saves.newest()
        if found is None:
            return
        for line in found.passed_over:
            self.progress.say(f"  passed over: {line}")
        weights = self.state()
        asked = {"model": weights, "optimizer": self.saves.empty(found, "optimizer", weights)}
        for group in ("average", "best"):
            if group in found.groups:
                asked[group] = self.saves.empty(found, group, weights)
        if "guards" in found.groups:
            entries = {name: found.index[f"guards/{name}"] for name in found.names("guards")}
            asked["guards"] = {name: torch.empty(e.shape, dtype=e.dtype) for name, e in entries.items()}
        self.saves.load_into(found, asked)
        self.guards.load_tensors(asked.get("guards", {}))
        self.optimizer.load_tensors(asked["optimizer"], self.names)
        self.average = asked.get("average", {})
        self.step, self.tokens = found.step, found.state["tokens"]
        self.selection.restore(found.state, asked.get("best", {}))
        self.progress.say(f"  continuing {self.label} at step {self.step} of {self.steps}")

    def whole(self) -> Body | None:
        """The trained model on the CPU, on the first process; None on the others."""
        if self.together.size == 1:
            return self.model.cpu()
        # As a checkpoint is read by any number of processes, so is the result by one.
        saves = Checkpoints(beside(self.checkpoints, "result"), self.together, keep=1)
        saves.save(self.step, {"model": {n: t for n, t in self.state().items() if not n.startswith(ATTACHED)}}, {})
        found = saves.newest()
        assert found is not None
        if not self.together.main:
            return None
        model = build(self.model.config, saves.read(found, "model"))
        saves.store.remove(found.step)
        return model

    def _take_result(self) -> None:
        chosen = self.selection.weights or self.average
        with torch.no_grad():
            for name, tensor in self.state().items():
                if name in chosen:
                    tensor.copy_(chosen[name])
        self.model.eval()

    def _check_finite(self, report: Report) -> None:
        """Raise on all processes or on none: they look at the same numbers."""
        numbers = report.read()
        values, norm = {name: numbers[name] for name in report.values}, numbers["grad_norm"]
        if all(map(math.isfinite, values.values())) and (
                math.isfinite(norm) or self.guards.overflow_is_usual(report.same.get("loss_scale"))):
            return
        raise trace_not_finite(self, report.step - 1, values, norm)


@dataclass(frozen=True)
class _Numbered:
    """A source of windows as a loader reads it."""

    source: BatchSource
    steps: int | None = None

    def batch(self, step: int) -> Sequence[Batch]:
        return self.source.window(step)
