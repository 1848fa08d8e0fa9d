"""The gradient noise scale: how large a batch can be before more rows stop paying.

McCandlish et al. 2018, arXiv:1812.06162, appendix A.1: gradients of a small batch are longer than those of a large one
by their noise, so that two lengths tell the noise and the true gradient apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.objectives.base import Batch
from gristmill.training.parallel.layout import Layout

DECAY = 0.99
"""Of the averages over updates. The quotient of two averages is far steadier than the average of quotients."""


def estimates(small: Tensor, small_size: Tensor | float, big: Tensor, big_size: Tensor | float
              ) -> tuple[Tensor, Tensor]:
    """Unbiased estimates of |G|² and of the trace of the covariance of one item's gradient (equations A.2, A.3).

    small, big: squared norms (0-d) of the mean gradient of a batch of so many items, the small one part of the big one
    or not. Several small batches, of micro-batches or of processes, may give the mean of their squared norms.
    """
    square = (big_size * big - small_size * small) / (big_size - small_size)
    trace = (small - big) / (1 / small_size - 1 / big_size)
    return square, trace


def check_whole_gradients(layout: Layout) -> None:
    """UserError where no process has whole gradients before they are summed."""
    if layout.processes != layout.replicate:
        raise UserError("the noise scale is measured on whole gradients, and this layout has none before they are "
                        "summed", where="training.noise_scale",
                        fix="set it to false, or use a layout of `replicate` alone")


class NoiseScale:
    """Averages of both estimates over updates; all on the device."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros(3, device=device)
        """Of |G|², of the trace, and of the weights that they were added with."""

    @torch.no_grad()
    def add(self, small: Tensor, small_size: Tensor | float, big: Tensor, big_size: Tensor | float) -> None:
        """Take an update into the averages; arguments as in `estimates`. One that is not finite is left out."""
        new = torch.stack([*estimates(small, small_size, big, big_size), torch.ones_like(big)]).to(self.sums)
        self.sums = torch.where(new.isfinite().all(), self.sums * DECAY + new * (1 - DECAY), self.sums)

    def value(self) -> Tensor:
        """The simple noise scale, trace / |G|² (equation 2.9), in items, 0-d; nan as long as the noise hides the
        gradient."""
        square, trace, weight = self.sums
        return torch.where((square > 0) & (trace > 0) & (weight > 0), trace / square, torch.nan)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"sums": self.sums}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        self.sums = tensors["sums"].to(self.sums.device, copy=True)


def at_least_two(window: Sequence[Batch], unit: int = 1) -> Sequence[Batch]:
    """The micro-batches of an update, a single one of two items or more cut in halves: without two gradients there is
    nothing to compare. Sums over a window are the same however it is cut between items, of `unit` rows each."""
    rows = len(window[0]["input_ids"])
    half = (rows // unit + 1) // 2 * unit
    if len(window) != 1 or half >= rows:
        return window
    return [{name: tensor[part] for name, tensor in window[0].items()} for part in (slice(half), slice(half, rows))]
