"""The objective on the model as one module: what DDP and FSDP2 wrap, so that a whole forward pass is one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from gristmill.objectives.base import Batch, Objective

Sums = dict[str, Tensor]
"""Term -> its sum over what was seen."""
Metrics = dict[str, tuple[Tensor, str]]
"""Name -> a detached sum, and the term by whose count it is divided."""


class MicroBatch(nn.Module):
    """Runs an objective; its parameters are the model's and those that the objective brings."""

    def __init__(self, model: nn.Module, objective: Objective, attached: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.attached = model, attached
        self.objective = objective

    def forward(self, batch: Batch | None = None, use: Callable[[nn.Module], Any] | None = None) -> Any:
        """batch: tensors (rows, ...) on the model's device -> sums and metrics of the objective's terms. Or `use`: what
        it makes of the model, called where all weights are at hand."""
        if use is not None:
            return use(self.model)
        assert batch is not None
        terms = self.objective.terms(self.model, batch)
        return terms.sums, terms.metrics
