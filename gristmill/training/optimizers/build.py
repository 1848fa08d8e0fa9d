"""From a config and a model to an optimizer whose every group has a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from gristmill.core.config import config, require
from gristmill.training.optimizers.muon import Muon


@config
class OptimizerConfig:
    """Which rule updates the weights."""

    kind: Literal["muon", "adamw"] = "muon"
    """muon: Muon for the matrices of the blocks, AdamW for the rest. adamw: AdamW for everything."""
    learning_rate: float = 0.01
    """Peak learning rate of the matrices of the blocks (muon), or of everything (adamw)."""
    embedding_learning_rate: float | None = None
    """Peak learning rate of the embedding; default: that of the matrices."""
    head_learning_rate: float | None = None
    """Peak learning rate of the output head; default: that of the matrices."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices; embeddings, norms and biases have none."""
    momentum: float = 0.95
    """Muon's momentum."""
    betas: list[float] = (0.9, 0.95)  # type: ignore[assignment]
    """AdamW's averages of gradient and squared gradient."""
    epsilon: float = 1e-8
    """AdamW's guard against division by zero."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "learning_rate", "must be positive")
        require(self.weight_decay >= 0, "weight_decay", "must not be negative")
        require(len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "betas", "two numbers in [0, 1)")


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

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def tensors(self, names: Mapping[Any, str]) -> dict[str, torch.Tensor]:
        """State keyed by parameter name: `<parameter>/<quantity>`."""
        return {
            f"{names[parameter]}/{key}": value if isinstance(value, torch.Tensor) else torch.tensor(float(value))
            for part in self.parts
            for parameter, state in part.state.items()
            for key, value in state.items()
        }

    def load_tensors(self, tensors: dict[str, torch.Tensor], names: Mapping[Any, str]) -> None:
        """Restore what `tensors` gave."""
        for part in self.parts:
            for group in part.param_groups:
                for parameter in group["params"]:
                    prefix = names[parameter] + "/"
                    found = {k[len(prefix):]: v.clone() for k, v in tensors.items() if k.startswith(prefix)}
                    if found:
                        part.state[parameter] = found


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Joined:
    """Give every parameter exactly one rule; each group carries `peak_lr` and `name` for schedule and reports."""
    groups: dict[str, list[nn.Parameter]] = {"matrices": [], "embedding": [], "head": [], "vectors": []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            groups["vectors"].append(parameter)
        elif name.startswith("embedding."):
            groups["embedding"].append(parameter)
        elif name.startswith("head."):
            groups["head"].append(parameter)
        else:
            groups["matrices"].append(parameter)
    rates = {
        "matrices": config.learning_rate,
        "embedding": config.embedding_learning_rate or config.learning_rate,
        "head": config.head_learning_rate or config.learning_rate,
        "vectors": config.head_learning_rate or config.learning_rate,
    }
    decayed = {"matrices", "head"}

    def settings(name: str) -> dict[str, Any]:
        return {"params": groups[name], "lr": rates[name], "peak_lr": rates[name], "name": name,
                "weight_decay": config.weight_decay if name in decayed else 0.0}

    parts: list[torch.optim.Optimizer] = []
    if config.kind == "muon":
        if groups["matrices"]:
            parts.append(Muon([settings("matrices")], momentum=config.momentum))
        rest: tuple[str, ...] = ("embedding", "head", "vectors")
    else:
        rest = ("matrices", "embedding", "head", "vectors")
    adamw = [settings(name) for name in rest if groups[name]]
    if adamw:
        parts.append(torch.optim.AdamW(adamw, betas=(config.betas[0], config.betas[1]), eps=config.epsilon, fused=True))
    return Joined(parts)
