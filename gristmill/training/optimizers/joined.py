"""Several optimizers as one, with a state that is named by parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gristmill.core.errors import UserError
from gristmill.training.optimizers.unless import unless

RATE = "peak_lr"

QUANTITIES: Mapping[str, tuple[frozenset[str], ...]] = {
    "Muon": (frozenset({"momentum"}),),
    "AdamW": (frozenset({"step", "exp_avg", "exp_avg_sq"}),),
    "Adam": (frozenset({"step", "exp_avg", "exp_avg_sq"}),),
    "SGD": (frozenset({"momentum_buffer"}),),
    "Adafactor": (frozenset({"step", "row", "column"}), frozenset({"step", "variance"})),
    "Lion": (frozenset({"exp_avg"}),),
    "AdamW8bit": (frozenset({"step", "average_codes", "average_scales", "root_codes", "root_scales"}),
                  frozenset({"step", "average", "square"})),
}
"""What each optimizer keeps of a parameter that has been updated: one of these."""


class Joined(torch.optim.Optimizer):
    """Several optimizers that step as one; groups keep their own peak learning rate and name."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        self.defaults: dict[str, Any] = {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return [group for part in self.parts for group in part.param_groups]

    def step(self, closure=None):  # type: ignore[no-untyped-def, override]
        for part in self.parts:
            part.step()

    def step_unless(self, skip: torch.Tensor) -> None:
        """`step`, or nothing where `skip` (0-d, bool) is true: weights and states stay as they are, bit for bit.

        On a CPU by looking at it; elsewhere the device decides by itself, and nobody waits for it.
        """
        if skip.device.type != "cpu":
            self.step_selected(skip)
        elif not bool(skip):
            self.step()

    def step_selected(self, skip: torch.Tensor) -> None:
        """`step_unless` without looking at `skip`, on any device. States that a skipped step creates are zero."""
        found = skip.to(torch.float32)
        for part in self.parts:
            # torch's fused optimizers and ours select inside of their step; others are put back from outside.
            if hasattr(part, "found_inf") or part.defaults.get("fused"):
                part.found_inf = found  # type: ignore[attr-defined]
                try:
                    part.step()
                finally:
                    part.found_inf = None  # type: ignore[attr-defined]
            else:
                self._step_and_put_back(part, skip)

    @property
    def selects(self) -> bool:
        """Whether `step_unless` costs nothing: torch's fused optimizers select in the kernel that steps."""
        return all(part.defaults.get("fused") for part in self.parts)

    @staticmethod
    def _step_and_put_back(part: torch.optim.Optimizer, skip: torch.Tensor) -> None:
        moved = [parameter for group in part.param_groups for parameter in group["params"]
                 if parameter.grad is not None]
        old = {id(value) for parameter in moved for value in part.state[parameter].values()
               if isinstance(value, torch.Tensor)}
        states = [value for parameter in moved for value in part.state[parameter].values() if id(value) in old]
        with unless(skip, *moved, *states):
            part.step()
        with torch.no_grad():
            for parameter in moved:
                for value in part.state[parameter].values():
                    if isinstance(value, torch.Tensor) and id(value) not in old:
                        value.copy_(torch.where(skip, torch.zeros_like(value), value))

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def tensors(self, names: Mapping[Any, str]) -> dict[str, torch.Tensor]:
        """State by parameter name, `<parameter>/<quantity>`, and peak rates, which may follow from first weights."""
        state = {
            f"{names[parameter]}/{key}": value if isinstance(value, torch.Tensor) else torch.tensor(float(value))
            for part in self.parts
            for parameter, state in part.state.items()
            for key, value in state.items()
        }
        return state | {f"{names[parameter]}/{RATE}": torch.tensor(group["peak_lr"], dtype=torch.float64)
                        for group in self.param_groups for parameter in group["params"]}

    def load_tensors(self, tensors: dict[str, torch.Tensor], names: Mapping[Any, str]) -> None:
        """Restore what `tensors` gave. Raises UserError where that is the state of another kind of optimizer."""
        for part in self.parts:
            kept = QUANTITIES[type(part).__name__]
            for group in part.param_groups:
                for parameter in group["params"]:
                    prefix = names[parameter] + "/"
                    found = {k[len(prefix):]: v for k, v in tensors.items() if k.startswith(prefix)}
                    group["peak_lr"] = float(found.pop(RATE, group["peak_lr"]))
                    if found and found.keys() not in kept:
                        raise UserError(
                            f"the checkpoint has {', '.join(sorted(found))} of {names[parameter]}, which is not what "
                            f"{type(part).__name__} keeps", where="training.optimizer.kind",
                            fix="go on with the kind that wrote the checkpoint, or train anew")
                    if found:
                        state = {k: v.to(parameter.device, copy=True) for k, v in found.items()}
                        part.state[parameter] = part.lay_out(parameter, state) if hasattr(part, "lay_out") else state
