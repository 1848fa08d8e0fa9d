"""Which targets of a batch count, where it is known in advance, so that nobody asks the device for it.

`cross_entropy.head_loss` otherwise looks whether a target is ignored, and a GPU then stands still until it has answered
and is given work again: once a micro-batch, between forward and backward. The host knew before the batch was sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor

from gristmill.objectives.base import IGNORED, Batch


@dataclass(frozen=True)
class Known:
    """Which targets of a batch count."""

    targets: Tensor
    """As they are on the device, (batch, time)."""
    rows: Tensor | None = None
    """Places of those that count among all of them, (counted,) int64, on the device; None for all."""
    weighed: bool = False
    """Ignored ones stay, with weight 0: no shape hangs on the data, as a CUDA graph wants it."""

    @classmethod
    def of(cls, batch: Batch, there: Batch, move: Callable[[Tensor], Tensor]) -> Known | None:
        """batch: on the CPU; there: the same on the device; move: what brought it there. None where the batch was on a
        device before, or a part of it is there."""
        targets = batch.get("targets")
        if targets is None or targets.device.type != "cpu" or there["targets"].shape != targets.shape:
            return None
        rows = counted_rows(targets)
        return cls(there["targets"], None if rows is None else move(rows))

    def speaks_of(self, targets: Tensor) -> bool:
        """Whether `targets` (tokens,) are these."""
        return targets.numel() == self.targets.numel() and targets.data_ptr() == self.targets.data_ptr()


def counted_rows(targets: Tensor) -> Tensor | None:
    """targets (batch, time) -> places of those that are not ignored, (counted,); None where all count."""
    kept = targets != IGNORED
    return None if bool(kept.all()) else kept.flatten().nonzero().squeeze(1)


_known: ContextVar[Known | None] = ContextVar("known targets", default=None)


@contextlib.contextmanager
def knows(known: Known | None) -> Iterator[None]:
    """Inside, nobody need look."""
    token = _known.set(known)
    try:
        yield
    finally:
        _known.reset(token)


def known_of(targets: Tensor) -> Known | None:
    """What is known of these targets (tokens,)."""
    known = _known.get()
    return known if known is not None and known.speaks_of(targets) else None
