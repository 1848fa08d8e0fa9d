"""The contract between an objective and the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

Batch = Mapping[str, Tensor]
IGNORED = -100
"""Targets with this value count for nothing."""


@dataclass
class LossTerms:
    """What one micro-batch contributes.

    sums: a differentiable sum for each term; the trainer divides it by the term's count over the window.
    metrics: detached sums to report, each divided by the count of the term named beside it.
    """

    sums: dict[str, Tensor]
    metrics: dict[str, tuple[Tensor, str]] = field(default_factory=dict)


class Objective(Protocol):
    """Pure: the same model and batch give the same terms.

    The term `loss` is what scores are compared by. Where more than it is minimised, another term holds the whole and
    `loss` has weight 0, so that it is reported and nothing else.

    An objective may have a method `attach(model) -> nn.Module`: makes anew, as a pure function of the model's
    weights, the parts of its own that are to be trained beside the model. The trainer optimises and checkpoints them
    (under `objective.`); they are no part of the model that is saved. A wrapper holds the objective that it wraps as
    `objective`.

    An objective whose items are several rows in succession says how many as `rows_per_item`: a batch is cut between
    items only.
    """

    weights: Mapping[str, float]
    """Factor of each term in the total loss."""

    def counts(self, batch: Batch) -> dict[str, int]:
        """Items of each term in this batch; known before any forward pass."""

    def terms(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Run the model on the batch."""


def attach(objective: Any, model: nn.Module) -> nn.Module | None:
    """The parts that `objective`, or one that it wraps, wants trained beside the model; None for none."""
    makes = _said(objective, "attach")
    return None if makes is None else makes(model)


def rows_per_item(objective: Any) -> int:
    """Rows in succession that `objective`, or one that it wraps, cannot do without each other; 1 where it says
    nothing."""
    return _said(objective, "rows_per_item") or 1


def _said(objective: Any, name: str) -> Any:
    """An attribute of the outermost of these objectives that has it, or None."""
    while objective is not None:
        if hasattr(objective, name):
            return getattr(objective, name)
        objective = getattr(objective, "objective", None)
    return None
