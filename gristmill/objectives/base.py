"""The contract between an objective and the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

Batch = Mapping[str, Tensor]


@dataclass
class LossTerms:
    """What one micro-batch contributes.

    sums: a differentiable sum for each term; the trainer divides it by the term's count over the window.
    metrics: detached sums to report, each divided by the count of the term named beside it.
    """

    sums: dict[str, Tensor]
    metrics: dict[str, tuple[Tensor, str]] = field(default_factory=dict)


class Objective(Protocol):
    """Pure: the same model and batch give the same terms."""

    weights: Mapping[str, float]
    """Factor of each term in the total loss."""

    def counts(self, batch: Batch) -> dict[str, int]:
        """Items of each term in this batch; known before any forward pass."""

    def terms(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Run the model on the batch."""
