"""Forward and backward of an update's micro-batches, one after another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gristmill.objectives.base import Batch
from gristmill.objectives.known_targets import Known, knows
from gristmill.training.device import Compute
from gristmill.training.micro_batch import Metrics, Sums


class Passes(Protocol):
    """What the loop asks to run the model: gradients of a window, and terms without gradients."""

    whole: bool
    """Whether `within` gives a model that can be run on whole rows: not where this process holds some of the blocks."""

    def run(self, window: Sequence[Batch], factors: Mapping[str, Tensor | float]) -> tuple[Sums, Metrics]:
        """Forward and backward of micro-batches; what is minimised is the sum of `factors[term]` x the term's sum.

        Leaves gradients that are summed over all processes, and returns this process's own sums, detached."""

    def score(self, batch: Batch) -> tuple[Sums, Metrics]:
        """Forward of a batch without gradients; this process's own sums."""

    def within(self, use: Callable[[nn.Module], Any]) -> Any:
        """What `use` makes of the model, without gradients and with all weights at hand, on whole rows; all processes
        call it, and run the model as often."""

    def telemetry(self) -> dict[str, float]:
        """How the last `run` went, in numbers that depend on the clock; by the same names on every process."""


class Part(Protocol):
    """What of a batch a process sees."""

    def __call__(self, batch: Batch) -> Batch: ...

    def whole(self) -> AbstractContextManager[None]:
        """A context in which the model is run on whole rows."""


class Everything:
    """The `Part` of a process that shares no rows."""

    def __call__(self, batch: Batch) -> Batch:
        return batch

    def whole(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()


def alone(last: bool) -> AbstractContextManager:
    """Around a micro-batch where nobody else waits for its gradients."""
    return contextlib.nullcontext()


@dataclass
class Accumulation:
    """Micro-batches in order; gradients add up in the parameters."""

    module: nn.Module
    """A `MicroBatch`, or what wraps it."""
    compute: Compute
    together: Callable[[bool], AbstractContextManager] = alone
    """Given whether a micro-batch is the last: a context in which its gradients are shared with other processes, or
    kept back until the last one's are."""
    part: Part = field(default_factory=Everything)
    """What of a batch this process sees (context parallelism)."""
    whole: bool = True
    settle: Callable[[], None] = lambda: None
    """Called after the weights were used without gradients: FSDP2 forgets what it had gathered."""
    after: Callable[[int], None] | None = None
    """Told the number of a micro-batch when its gradients are there."""
    knows_targets: bool = False
    """Whether the head is told which targets count (`objectives.known_targets`)."""

    def run(self, window: Sequence[Batch], factors: Mapping[str, Tensor | float]) -> tuple[Sums, Metrics]:
        sums: Sums = {}
        metrics: Metrics = {}
        for at, batch in enumerate(window):
            there = self._moved(batch)
            known = Known.of(batch, there, self.compute.moved) if self.knows_targets else None
            with self.together(at == len(window) - 1):
                with knows(known), self.compute.autocast():
                    found, measured = self.module(there)
                minimised(found, factors).backward()
            add(sums, metrics, found, measured)
            if self.after is not None:
                self.after(at)
        return sums, metrics

    def loss(self, batch: Batch, factors: Mapping[str, Tensor | float]) -> Tensor:
        """What `run` minimises of a micro-batch, with its graph."""
        with self.compute.autocast():
            found, _ = self.module(self._moved(batch))
        return minimised(found, factors)

    def score(self, batch: Batch) -> tuple[Sums, Metrics]:
        with torch.no_grad(), self.compute.autocast():
            found = self.module(self._moved(batch))
        self.settle()
        return found

    def within(self, use: Callable[[nn.Module], Any]) -> Any:
        with torch.no_grad(), self.part.whole():
            found = self.module(use=use)
        self.settle()
        return found

    def telemetry(self) -> dict[str, float]:
        return {}

    def forget(self) -> None:
        """Let go of whatever was made for the shapes of micro-batches so far: others come."""

    def _moved(self, batch: Batch) -> Batch:
        return self.part({name: self.compute.moved(tensor) for name, tensor in batch.items()})


def minimised(sums: Sums, factors: Mapping[str, Tensor | float]) -> Tensor:
    """The sum of all terms, each times its factor."""
    return sum(factors[name] * value for name, value in sums.items())  # type: ignore[return-value]


def add(sums: Sums, metrics: Metrics, found: Sums, measured: Metrics) -> None:
    """Add what a micro-batch gave, without its graph."""
    for name, value in found.items():
        value = value.detach()
        sums[name] = sums[name] + value if name in sums else value
    for name, (value, unit) in measured.items():
        metrics[name] = (metrics[name][0] + value if name in metrics else value, unit)
