"""fp16: what is minimised is multiplied by a scale that keeps small gradients above fp16's smallest number.

The scale halves when a gradient overflows, and that update is not made; it doubles after 2,000 updates without
(Micikevicius et al. 2018, arXiv:1710.03740, section 3.2). All of it stays on the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from gristmill.training.optimizers.sharded import local

LOWEST = 2.0**-4
"""A scale below this cannot be the cure: fp16 reaches 65,504, and gradients that overflow here are no longer finite
whatever they are multiplied by."""


class LossScaler:
    """torch's GradScaler, told of all gradients by their norm alone.

    The norm is that of the whole update, over all processes, so that they agree on the scale; torch's own inspection
    would see the gradients of one.
    """

    def __init__(self, device: torch.device | str, *, initial: float = 2.0**16, patience: int = 2000) -> None:
        device = torch.device(device)
        self.scaler = torch.amp.GradScaler(device.type, init_scale=initial, growth_interval=patience)
        self.one = torch.ones((), device=device)
        self.norm = nn.Parameter(torch.zeros((), device=device))
        self.watched = torch.optim.SGD([self.norm], lr=0.0)

    def factor(self) -> Tensor:
        """By what the loss is to be multiplied, 0-d, on the device."""
        return self.scaler.scale(self.one)

    @torch.no_grad()
    def unscale(self, parameters: Iterable[nn.Parameter], norm: Tensor) -> tuple[Tensor, Tensor]:
        """Divide the gradients by the scale, then move the scale.

        norm: of all gradients as they are, 0-d. Returns the norm without the scale, and whether a gradient overflowed
        (0-d bool), so that the update is to be skipped.
        """
        inverse = self.factor().reciprocal()
        gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, inverse)
        self.norm.grad = norm.detach().to(self.norm).clone()
        self.scaler.unscale_(self.watched)
        found = self.norm.grad
        self.scaler.update()
        return found, ~found.isfinite()

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        state = self.scaler.state_dict()
        return {"scale": torch.tensor(state["scale"], dtype=torch.float64),
                "growth_tracker": torch.tensor(state["_growth_tracker"], dtype=torch.int64)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        self.factor()  # torch makes its tensors when it first scales
        self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": float(tensors["scale"]),
                                     "_growth_tracker": int(tensors["growth_tracker"])})
