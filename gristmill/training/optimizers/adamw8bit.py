"""AdamW whose two averages take a byte each (Dettmers et al. 2022, arXiv:2110.02861)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gristmill.training.optimizers.blockwise import BLOCK, quantise, restore, zeros
from gristmill.training.optimizers.sharded import cut_blocks, joined_parts, local
from gristmill.training.optimizers.unless import unless

WHOLE = 4096
"""Parameters with fewer numbers than this keep fp32 states, as in the paper's implementation: they cost little."""
CHUNK = {"cpu": 2**16, "cuda": 2**24}
"""Numbers that are restored at a time, whole blocks: on a CPU what stays in its cache, on a GPU enough to fill it, so
that the workspace does not grow with the largest parameter."""


class AdamW8bit(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) on states that are restored, updated and quantised again.

    The second average is kept as its root: its smallest numbers would otherwise be below the table's seven decades.
    The step itself is made from the unrounded averages. Of a parameter whose rows are dealt out to processes, each has
    whole blocks (`sharded.refuse_cut_blocks`), so that nothing is sent.
    """

    found_inf: Tensor | None = None
    """0-d; where it is not zero a step changes nothing (torch's name, as its fused optimizers have it)."""

    def __init__(self, params: Iterable, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[no-untyped-def, override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state |= _first(parameter)
                with unless(self.found_inf, parameter, *state.values()):
                    _move(local(parameter.detach()), local(parameter.grad),
                          {name: local(value) for name, value in state.items()}, group)

    @staticmethod
    def lay_out(parameter: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state that was read from a checkpoint: scales are read whole, and cut as the parameter is."""
        return {name: cut_blocks(value, parameter) if name.endswith("_scales") else value
                for name, value in state.items()}


def _move(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    state["step"] += 1
    # Corrections of the averages' start at zero, 1 - beta^t (Kingma and Ba 2015, algorithm 1): in fp32 the difference
    # itself would lose digits.
    first, second = (-torch.expm1(state["step"] * (math.log(beta) if beta else -math.inf)) for beta in group["betas"])
    # A view wherever the memory is in order; else a copy that is written back.
    flat, gradient = parameter.reshape(-1), gradient.reshape(-1)
    flat.mul_(1 - group["lr"] * group["weight_decay"])
    chunk = CHUNK.get(flat.device.type, 2**24)
    for start in range(0, flat.numel(), chunk):
        part = slice(start, start + chunk)
        average, root = _update(state, part, gradient[part], group["betas"])
        divisor = root.div_(second.sqrt()).add_(group["eps"])
        flat[part].sub_(average.div(divisor).mul_(group["lr"] / first))
    if not parameter.is_contiguous():
        parameter.copy_(flat.view_as(parameter))


def _first(parameter: Tensor) -> dict[str, Tensor]:
    step = torch.zeros((), device=parameter.device)
    if parameter.numel() < WHOLE:
        return {"step": step, "average": torch.zeros_like(parameter, memory_format=torch.contiguous_format),
                "square": torch.zeros_like(parameter, memory_format=torch.contiguous_format)}
    state = {"step": step}
    for name, signed in (("average", True), ("root", False)):
        codes, scales = zeros(local(parameter), signed)
        state[f"{name}_codes"] = joined_parts(codes, parameter, parameter.shape)
        state[f"{name}_scales"] = joined_parts(scales, parameter, (-(-parameter.numel() // BLOCK),))
    return state


def _update(state: dict[str, Tensor], part: slice, gradient: Tensor, betas: tuple[float, float],
            ) -> tuple[Tensor, Tensor]:
    """Move the averages of one slice towards its gradient; returns the first and the root of the second."""
    if "square" in state:
        average, square = state["average"].view(-1)[part], state["square"].view(-1)[part]
        average.lerp_(gradient, 1 - betas[0])
        square.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
        return average, square.sqrt()
    gradient = gradient.float()
    blocks = slice(part.start // BLOCK, -(-part.stop // BLOCK))
    codes = {name: state[f"{name}_codes"].view(-1)[part] for name in ("average", "root")}
    scales = {name: state[f"{name}_scales"][blocks] for name in ("average", "root")}
    average = restore(codes["average"], scales["average"], True).lerp_(gradient, 1 - betas[0])
    root = restore(codes["root"], scales["root"], False).square_().mul_(betas[1])
    root.addcmul_(gradient, gradient, value=1 - betas[1]).sqrt_()
    for name, values in (("average", average), ("root", root)):
        new_codes, new_scales = quantise(values, name == "average")
        codes[name].copy_(new_codes)
        scales[name].copy_(new_scales)
    return average, root
