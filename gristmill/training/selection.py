"""Model selection by held-out scores: which weights were the best, and when a training has seen enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Target:
    """Stops a training whose held-out loss is low enough, and looks more often when it may be.

    The planned evaluations may be far apart. So one more is due when the mean training loss of the last steps has come
    down to the target; at most fifty of those in a run, evenly apart, because training loss may lie below held-out
    loss for long.
    """

    loss: float
    """Nats a token."""
    steps: int
    """Of the whole run."""
    key: str = "valid_loss"
    """Which value of an evaluation."""

    WINDOW = 16
    LOOKS = 50

    def __post_init__(self) -> None:
        self._recent: list[float] = []
        self._looked = 0

    def remember(self, trace: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]) -> None:
        """Go on after a resume: the records that were written up to now, in order."""
        self._recent = [row["loss"] for row in trace[-self.WINDOW:]]
        self._looked = evaluations[-1]["step"] if evaluations else 0

    def note(self, loss: float) -> None:
        """The training loss of one more update."""
        self._recent = [*self._recent, loss][-self.WINDOW:]

    def due(self, step: int) -> bool:
        """Whether to evaluate after update `step` (from 1), by the losses that are known by then."""
        apart = max(1, self.steps // self.LOOKS)
        full = len(self._recent) == min(self.WINDOW, self.steps)
        return full and sum(self._recent) / len(self._recent) <= self.loss and step - self._looked >= apart

    def reached(self, step: int, values: Mapping[str, Any]) -> bool:
        """Whether this evaluation is low enough; the one before the first update does not count."""
        self._looked = step
        return step > 0 and isinstance(values.get(self.key), (int, float)) and values[self.key] <= self.loss


@dataclass
class Selection:
    """What the evaluations of one training have shown so far. Scores are better the lower they are."""

    patience: int
    """Planned evaluations in a row without a better score after which the training is over; 0: never."""
    keep_best: bool
    """Whether the weights of the best score are kept."""
    best: float = math.inf
    planned_best: float = math.inf
    """Of the planned evaluations alone: patience does not count those that a target asks for."""
    waited: int = 0
    """Planned evaluations since `planned_best`."""
    over: bool = False
    """Whether patience is at its end, or the target reached."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    """By name, of the best score; this process's parts. Empty unless `keep_best`."""
    held_out: float | None = None
    """Loss of the last evaluation, in the unit of the training loss."""
    target: Target | None = None

    def begin(self, target: Target | None, trace: Sequence[Mapping[str, Any]],
              evaluations: Sequence[Mapping[str, Any]]) -> None:
        """Before the first update of a process. trace, evaluations: the last records of an earlier one."""
        self.target = target
        if target is not None:
            target.remember(trace, evaluations)
        self.held_out = _loss(evaluations[-1]) if evaluations else None

    def note(self, loss: float) -> None:
        """The training loss of one more update."""
        if self.target is not None:
            self.target.note(loss)

    def due(self, step: int) -> bool:
        """Whether the target asks for an evaluation after update `step` (from 1)."""
        return self.target is not None and self.target.due(step)

    def judge(self, step: int, values: Mapping[str, Any], state: Callable[[], Mapping[str, Tensor]], *, planned: bool
              ) -> None:
        """Take the values of an evaluation after update `step`. state: gives the weights they are of. planned: not one
        that the target asked for."""
        score = values.get("score")
        if score is not None and score < self.best:
            self.best = score
            if self.keep_best:
                self.weights = {name: tensor.detach().clone() for name, tensor in state().items()}
        if score is not None and planned:
            self.waited = 0 if score < self.planned_best else self.waited + 1
            self.planned_best = min(self.planned_best, score)
            self.over = 0 < self.patience <= self.waited
        if self.target is not None and self.target.reached(step, values):
            self.over = True
        self.held_out = _loss(values)

    def record(self) -> dict[str, Any]:
        """For a checkpoint, beside `weights`."""
        best, planned = (value if math.isfinite(value) else None for value in (self.best, self.planned_best))
        return {"best": best, "planned_best": planned, "waited": self.waited, "stopped_early": self.over}

    def restore(self, record: Mapping[str, Any], weights: dict[str, Tensor]) -> None:
        """Restore what `record` gave."""
        self.best, self.planned_best = (
            math.inf if value is None else value
            for value in (record["best"], record.get("planned_best", record["best"])))
        self.waited, self.over, self.weights = record["waited"], record["stopped_early"], weights


def _loss(values: Mapping[str, Any]) -> float | None:
    return values.get("valid_loss", values.get("score"))
