"""What stands between the gradients of an update and the optimizer: the scale of fp16, outliers, the noise scale.

Each is off unless asked for. What they decide stays on the device; their state is part of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gristmill.objectives.base import Batch
from gristmill.training.config import TrainingConfig
from gristmill.training.device import Compute
from gristmill.training.noise_scale import NoiseScale, at_least_two, check_whole_gradients
from gristmill.training.outliers import Outliers
from gristmill.training.parallel.gradients import sum_of_squares
from gristmill.training.parallel.world import World
from gristmill.training.report import Count
from gristmill.training.scaler import LOWEST, LossScaler


class Guards:
    """Made anew with the optimizer. All processes call every method, in the same order."""

    def __init__(self, config: TrainingConfig, compute: Compute, world: World, unit: int = 1) -> None:
        """unit: rows of an item, see `objectives.base.rows_per_item`."""
        self.world, self.unit = world, unit
        self.outliers = Outliers(config.skip_outliers, world.device) if config.skip_outliers else None
        self.scaler = LossScaler(world.device) if compute.dtype == torch.float16 else None
        self.noise = NoiseScale(world.device) if config.noise_scale else None
        self.first: Tensor | None = None
        self.several = False
        if self.noise is not None:
            check_whole_gradients(world.layout)

    # -- before and after the passes -------------------------------------------------------------------------------

    def window(self, window: Sequence[Batch]) -> Sequence[Batch]:
        """The micro-batches of an update as they are to be run."""
        self.first = None
        window = window if self.noise is None else at_least_two(window, self.unit)
        self.several = len(window) > 1
        return window

    def scaled(self, factor: Any) -> Any:
        """By what a term, or a penalty, is multiplied before its gradient is taken."""
        return factor if self.scaler is None else factor * self.scaler.factor()

    def after(self, number: int, parameters: Iterable[nn.Parameter]) -> None:
        """To be called after the backward pass of micro-batch `number`, before gradients are shared."""
        if self.noise is not None and number == 0 and self.several:
            gradients = [p.grad for p in parameters if p.grad is not None]
            self.first = sum_of_squares(gradients).float() if gradients else None

    @torch.no_grad()
    def compare(self, norm: Tensor, first: int, counted: Count) -> None:
        """For the noise scale. norm: of all gradients of the update, as `after` saw them; first, counted: targets in
        this process's first micro-batch, and in all of the update."""
        if self.noise is None or (self.first is None and self.world.size == 1):
            return
        factor = 1.0 if self.scaler is None else self.scaler.factor()
        everything = counted.float() if isinstance(counted, Tensor) else norm.new_tensor(float(counted))
        # Gradients are sums over the count of the whole update; those of a part are made means of their own.
        shared = norm.new_zeros(3)
        if self.first is not None and first:
            times = everything / first
            shared = torch.stack([self.first * times**2, times, torch.ones_like(times)])
        # A process whose share was a single row, or whose first part has no target, has none to compare. Where all are
        # such, nothing finite is added. Noise falls with 1 / size, so of unequal parts that has to be averaged.
        *sums, parts = self.world.sum(shared, "tokens")
        small, times = (total / parts for total in sums)
        self.noise.add(small / factor**2, everything / times, norm.square() / factor**2, everything)

    def judge(self, parameters: Iterable[nn.Parameter], loss: Tensor | None, norm: Tensor
              ) -> tuple[Tensor, Tensor | None]:
        """Take the scale out of the gradients. Returns their norm without it, and whether the update is to be skipped
        (0-d bool), None where it never is. loss: this process's part; norm: of all processes."""
        skip = None
        if self.scaler is not None:
            norm, skip = self.scaler.unscale(parameters, norm)
        if self.outliers is not None:
            part = torch.zeros((), device=norm.device) if loss is None else loss.detach().float().clone()
            outlying = self.outliers.judge(self.world.sum(part, "updates"), norm)
            skip = outlying if skip is None else skip | outlying
        return norm, skip

    # -- numbers ---------------------------------------------------------------------------------------------------

    def numbers(self) -> dict[str, Tensor]:
        """For the trace, 0-d each, still on the device; what is not finite is to be left out."""
        found = {}
        if self.outliers is not None:
            found["skipped"] = self.outliers.skipped
        if self.scaler is not None:
            found["loss_scale"] = self.scaler.factor()
        if self.noise is not None:
            found["noise_scale"] = self.noise.value()
        return found

    def overflow_is_usual(self, scale: Tensor | None) -> bool:
        """Whether a gradient that is not finite is nothing but too large a scale. scale: as it is now."""
        return self.scaler is not None and scale is not None and float(scale) >= LOWEST

    # -- state -----------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {f"{name}/{key}": value for name, part in self._parts().items() for key, value in part.tensors().items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave; what was off when it was written begins anew."""
        for name, part in self._parts().items():
            own = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
            if own:
                part.load_tensors(own)

    def _parts(self) -> dict[str, Any]:
        parts = {"outliers": self.outliers, "scaler": self.scaler, "noise": self.noise}
        return {name: part for name, part in parts.items() if part is not None}
