"""The one training loop.

An update takes a window of micro-batches from the source, divides every summed term by its count over the whole
window, clips, and steps. State is one checkpoint: weights, optimizer, average, random state, and the number of
updates done; because batches are a pure function of that number, a resumed run is the undisturbed run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gristmill.core import interrupt
from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.core.files import read_jsonl
from gristmill.core.progress import Progress, Silent
from gristmill.models.body import Body
from gristmill.models.layers.moe import rebalance
from gristmill.objectives.base import Batch, Objective, attach
from gristmill.objectives.penalties import weight_penalty
from gristmill.objectives.r_drop import RDrop, has_dropout
from gristmill.training import checkpoint
from gristmill.training.device import Compute
from gristmill.training.optimizers import OptimizerConfig, build_optimizer
from gristmill.training.schedules import ScheduleConfig, factor
from gristmill.training.trace import TensorBoard, TraceFile


class BatchSource(Protocol):
    """Where batches come from."""

    def window(self, step: int) -> Sequence[Batch]:
        """The micro-batches of update `step` (0-based): a pure function of the step."""


@config
class TrainingConfig:
    """How long and how carefully to train; the same for every kind of training."""

    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    clip: float = 1.0
    """Largest gradient norm; 0 for no clipping."""
    evaluations: int = 8
    """How many evaluations, evenly spread; the last is after the last step."""
    patience: int = 0
    """Stop after this many evaluations without a better one; 0 never stops early."""
    keep_best: bool = False
    """End with the weights of the best evaluation rather than the last ones."""
    ema: float = 0.0
    """Decay of an exponential average of the weights, used for evaluation and as the result; 0 for none."""
    checkpoint_seconds: float = 30.0
    """At least this long between checkpoints."""
    l1: float = 0.0
    """Adds l1 x the sum of |w| of all matrices but the embedding to what is minimised; `loss` is reported without."""
    l2: float = 0.0
    """Adds l2 / 2 x the sum of their w². Its gradient passes through the optimizer; for decay that does not, use
    optimizer.weight_decay."""
    r_drop: float = 0.0
    """Weight (alpha) of R-Drop: every batch is run twice, and what dropout makes of it is to agree (arXiv:2106.14448;
    1 to 5). Needs a model with dropout, and doubles the time of a step."""

    def __post_init__(self) -> None:
        for name in ("l1", "l2", "r_drop"):
            require(getattr(self, name) >= 0, name, "must not be negative")
        require(self.clip >= 0, "clip", "must not be negative")
        require(self.evaluations >= 1, "evaluations", "must be at least 1")
        require(self.patience >= 0, "patience", "must not be negative")
        require(0 <= self.ema < 1, "ema", "must be in [0, 1)")


Evaluate = Callable[[nn.Module, int], Mapping[str, Any]]
"""(model, updates done) -> values for evaluations.jsonl; `score` (lower is better) steers early stopping."""


@dataclass
class Trainer:
    """Trains `model` in place. `folder` receives trace.jsonl, evaluations.jsonl and telemetry/; checkpoints lie in
    `checkpoints`. `evaluate` is called with the model (or its average) in eval mode."""

    model: Body
    objective: Objective
    source: BatchSource
    steps: int
    compute: Compute
    folder: Path
    checkpoints: Path
    config: TrainingConfig = field(default_factory=TrainingConfig)
    evaluate: Evaluate | None = None
    progress: Progress = field(default_factory=Silent)
    label: str = "training"

    def __post_init__(self) -> None:
        self.trained: dict[str, nn.Module] = {"": self.model}
        extra = attach(self.objective, self.model)
        if extra is not None:
            self.trained["objective."] = extra
        self.minimised: Objective = self.objective
        if self.config.r_drop:
            if not has_dropout(self.model.config):
                raise UserError("R-Drop compares two passes with different dropout, and this model has none",
                                where=f"{self.label}: training.r_drop",
                                fix="give the model dropout (model.options: {dropout: 0.1}), or set r_drop to 0")
            self.minimised = RDrop(self.objective, self.config.r_drop)
        named = [(at + name, p) for at, module in self.trained.items() for name, p in module.named_parameters()]
        self.optimizer = build_optimizer(named, self.config.optimizer)
        self.names = {parameter: name for name, parameter in named}
        self.penalised = [p for group in self.optimizer.param_groups if group["decays"] for p in group["params"]]
        # State that no gradient reaches, such as the bias by which experts are chosen.
        self.buffers: dict[str, Tensor] = {}
        for at, module in self.trained.items():
            stored = module.state_dict().keys()
            self.buffers |= {at + name: buffer for name, buffer in module.named_buffers() if name in stored}
        self.average = {n: p.detach().clone() for p, n in self.names.items()} if self.config.ema else {}
        self.step, self.best, self.waited, self.tokens = 0, math.inf, 0, 0
        self.best_weights: dict[str, Tensor] = {}
        self.stopped_early = False

    # -- the run ---------------------------------------------------------------------------------------------------

    def fit(self) -> dict[str, Any]:
        """Train from the newest checkpoint (or from the start) to the end; returns final numbers for the record."""
        self._resume()
        kept = self.step or -1  # without a checkpoint even the evaluation before the first step is done again
        trace = TraceFile(self.folder / "trace.jsonl", kept)
        evaluations = TraceFile(self.folder / "evaluations.jsonl", kept)
        speed = TraceFile(self.folder / "telemetry" / "speed.jsonl", kept)
        board = TensorBoard(self.folder / "telemetry" / "tensorboard")
        saved_at = time.monotonic()
        last_evaluation: dict[str, Any] = {}
        due = self._evaluation_steps()
        try:
            with self.progress.bar(self.label, self.steps, "steps") as bar, interrupt.deferred():
                if self.step == 0 and self.evaluate is not None:
                    last_evaluation = self._evaluate(evaluations, board)
                bar.advance(self.step)
                while self.step < self.steps and not self.stopped_early:
                    began = time.monotonic()
                    window = self.source.window(self.step)
                    waited = time.monotonic() - began
                    record = self.update(window)
                    seconds = time.monotonic() - began
                    trace.write(record)
                    rate = sum(b["input_ids"].numel() for b in window) / seconds
                    telemetry = {"seconds": seconds, "tokens_per_second": rate, "data_wait": waited / seconds,
                                 "memory_mb": _resident_mb()}
                    speed.write({"step": self.step, **telemetry})
                    board.write(self.step, {f"train/{k}": v for k, v in record.items()} | {
                        f"speed/{k}": v for k, v in telemetry.items()})
                    bar.advance(1, f"loss {record['loss']:.3f}, {rate:,.0f} tokens/s" + (
                        f", valid {last_evaluation['score']:.3f}" if "score" in last_evaluation else ""))
                    evaluated = self.step in due and self.evaluate is not None
                    if evaluated:
                        last_evaluation = self._evaluate(evaluations, board)
                    stopping = interrupt.requested()
                    if stopping or evaluated or time.monotonic() - saved_at >= self.config.checkpoint_seconds:
                        self._save()
                        saved_at = time.monotonic()
                    if stopping:
                        interrupt.stop()
        finally:
            for file in (trace, evaluations, speed, board):
                file.close()
        self._take_result()
        # Read back rather than remembered: a run that was killed after its last step reports the same.
        last = read_jsonl(self.folder / "trace.jsonl")[-1]
        final = (read_jsonl(self.folder / "evaluations.jsonl") or [{}])[-1]
        return {"steps": self.step, "tokens": self.tokens, "final_loss": last["loss"],
                "stopped_early": self.stopped_early,
                **{k: v for k, v in final.items()
                   if k not in ("score", "step", "tokens") and isinstance(v, (int, float))}}

    def update(self, window: Sequence[Batch]) -> dict[str, Any]:
        """One optimizer step over an accumulation window; returns the trace record."""
        counts: dict[str, int] = {}
        for batch in window:
            for name, count in self.minimised.counts(batch).items():
                counts[name] = counts.get(name, 0) + count
        if not counts.get("loss"):
            raise UserError(f"the batch of step {self.step} has nothing to learn from (every target is ignored)",
                            fix="check the data of this stage: are all answers empty or cut off?")
        self.model.train()
        sums: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        for batch in window:
            batch = {name: tensor.to(self.compute.device, non_blocking=True) for name, tensor in batch.items()}
            with self.compute.autocast():
                terms = self.minimised.terms(self.model, batch)
            loss = sum(self.minimised.weights[n] / counts[n] * s for n, s in terms.sums.items() if counts[n])
            loss.backward()  # type: ignore[union-attr]
            for name, value in terms.sums.items():
                sums[name] = sums.get(name, 0) + value.detach() / max(counts[name], 1)
            for name, (value, unit) in terms.metrics.items():
                metrics[name] = metrics.get(name, 0) + value / max(counts[unit], 1)
        if self.config.l1 or self.config.l2:
            penalty = weight_penalty(self.penalised, self.config.l1, self.config.l2)
            penalty.backward()
            sums["penalty"] = penalty.detach()
        norm = nn.utils.get_total_norm([p.grad for p in self.names if p.grad is not None])
        if self.config.clip:
            nn.utils.clip_grads_with_norm_(list(self.names), self.config.clip, norm)
        scale = factor(self.config.schedule, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * scale
        values = {n: float(v) for n, v in sums.items()}
        self._check_finite(values, float(norm), window)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loads: dict[str, float] = {}
        for module in self.trained.values():
            loads = rebalance(module) | loads
        if self.average:
            with torch.no_grad():
                for parameter, name in self.names.items():
                    self.average[name].lerp_(parameter, 1 - self.config.ema)
        self.step += 1
        self.tokens += sum(int((b["targets"] >= 0).sum()) for b in window)
        return {"step": self.step, "tokens": self.tokens, **values, "lr": scale * self.config.optimizer.learning_rate,
                "grad_norm": float(norm), **{n: float(v) for n, v in metrics.items()}, **loads}

    # -- evaluation ------------------------------------------------------------------------------------------------

    def _evaluation_steps(self) -> set[int]:
        return {round(self.steps * (i + 1) / self.config.evaluations) for i in range(self.config.evaluations)}

    def _evaluate(self, file: TraceFile, board: TensorBoard) -> dict[str, Any]:
        assert self.evaluate is not None
        self.model.eval()
        with self._averaged(), torch.no_grad():
            values = dict(self.evaluate(self.model, self.step))
            score = values.get("score")
            if score is not None and score < self.best:
                self.best, self.waited = score, 0
                if self.config.keep_best:
                    self.best_weights = {n: t.detach().clone() for n, t in self._weights().items()}
            elif score is not None:
                self.waited += 1
                self.stopped_early = bool(self.config.patience) and self.waited >= self.config.patience
        file.write({"step": self.step, "tokens": self.tokens, **values})
        board.write(self.step, {f"valid/{k}": v for k, v in values.items()})
        return values

    def _averaged(self):  # type: ignore[no-untyped-def]
        return _Swapped(self.names, self.average) if self.average else _Swapped({}, {})

    # -- state -----------------------------------------------------------------------------------------------------

    def _weights(self) -> dict[str, Tensor]:
        return {**{name: parameter for parameter, name in self.names.items()}, **self.buffers}

    def _save(self) -> None:
        tensors: dict[str, dict[str, Tensor]] = {
            "model": self._weights(),
            "optimizer": self.optimizer.tensors(self.names),
            "random": {"torch": torch.get_rng_state()},
        }
        if self.average:
            tensors["average"] = self.average
        if self.best_weights:
            tensors["best"] = self.best_weights
        state = {"best": self.best if math.isfinite(self.best) else None, "waited": self.waited,
                 "tokens": self.tokens, "stopped_early": self.stopped_early, "steps": self.steps}
        checkpoint.save(self.checkpoints, checkpoint.Checkpoint(self.step, tensors, state))

    def _resume(self) -> None:
        found = checkpoint.newest(self.checkpoints)
        if found is None:
            return
        with torch.no_grad():
            for name, tensor in self._weights().items():
                tensor.copy_(found.tensors["model"][name])
        self.optimizer.load_tensors(found.tensors["optimizer"], self.names)
        torch.set_rng_state(found.tensors["random"]["torch"])
        self.average = found.tensors.get("average", {})
        self.best_weights = found.tensors.get("best", {})
        self.step, self.tokens = found.step, found.state["tokens"]
        self.best = math.inf if found.state["best"] is None else found.state["best"]
        self.waited, self.stopped_early = found.state["waited"], found.state["stopped_early"]
        self.progress.say(f"  continuing {self.label} at step {self.step} of {self.steps}")

    def _take_result(self) -> None:
        chosen = self.best_weights or self.average
        with torch.no_grad():
            for name, tensor in self._weights().items():
                if name in chosen:
                    tensor.copy_(chosen[name])
        self.model.eval()

    def _check_finite(self, values: dict[str, float], norm: float, window: Sequence[Batch]) -> None:
        if all(map(math.isfinite, values.values())) and math.isfinite(norm):
            return
        broken = [n for p, n in self.names.items() if p.grad is not None and not bool(p.grad.isfinite().all())]
        raise UserError(
            f"the loss is {values} and the gradient norm {norm} at step {self.step + 1}; first layers with a bad "
            f"gradient: {', '.join(broken[:3]) or 'none'}",
            where=self.label,
            fix="lower learning_rate, or set clip (now "
            f"{self.config.clip}); the last checkpoint is kept and a run with the same recipe stops here again",
        )


class _Swapped:
    """Puts other values into the parameters for a while."""

    def __init__(self, names: Mapping[nn.Parameter, str], values: Mapping[str, Tensor]) -> None:
        self.names, self.values = names, values

    def __enter__(self) -> None:
        self.kept = {n: p.detach().clone() for p, n in self.names.items()}
        self._put(self.values)

    def __exit__(self, *error: object) -> None:
        self._put(self.kept)

    def _put(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for parameter, name in self.names.items():
                parameter.copy_(values[name])


def _resident_mb() -> float:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 1e6
    except OSError:
        return 0.0
