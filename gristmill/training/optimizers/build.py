"""From a config and a model to an optimizer whose every group has a name."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.training.optimizers.muon import Muon


@config
class GroupRule:
    """What holds for the parameters whose name fits a pattern."""

    pattern: str
    """Shell-style, over the whole name: `blocks.*.mlp.*`, `*.bias`, `embedding.weight`."""
    learning_rate: float | None = None
    """Their peak learning rate; default: what they would have anyway. 0 leaves them as they are."""
    weight_decay: float | None = None
    """Their decoupled decay; default: what they would have anyway."""

    def __post_init__(self) -> None:
        require(bool(self.pattern.strip()), "pattern", "must not be empty; * fits every name")
        for name in ("learning_rate", "weight_decay"):
            require((getattr(self, name) or 0) >= 0, name, "must not be negative")
        require(self.learning_rate is not None or self.weight_decay is not None, "learning_rate",
                "say what is to differ: learning_rate, weight_decay or both")


@config
class OptimizerConfig:
    """Which rule updates the weights."""

    kind: Literal["muon", "adamw"] = "muon"
    """muon: Muon for the matrices of the blocks, AdamW for the rest. adamw: AdamW for everything."""
    learning_rate: float = 0.01
    """Peak learning rate of the matrices of the blocks (muon), or of everything (adamw)."""
    embedding_learning_rate: float | None = None
    """Peak learning rate of the embedding. Default for muon: 30 times `learning_rate` times the root mean square of
    what each embedding starts with (docs/decisions.md, "optimizer"); for adamw: that of everything."""
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
    groups: list[GroupRule] = ()  # type: ignore[assignment]
    """Exceptions by name, e.g. {pattern: "blocks.*.mlp.*", weight_decay: 0.1}; the first that fits holds."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "learning_rate", "must be positive")
        require(self.weight_decay >= 0, "weight_decay", "must not be negative")
        require(len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "betas", "two numbers in [0, 1)")


RATE = "peak_lr"


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
        """Restore what `tensors` gave."""
        for part in self.parts:
            for group in part.param_groups:
                for parameter in group["params"]:
                    prefix = names[parameter] + "/"
                    found = {k[len(prefix):]: v.clone() for k, v in tensors.items() if k.startswith(prefix)}
                    group["peak_lr"] = float(found.pop(RATE, group["peak_lr"]))
                    if found:
                        part.state[parameter] = found


def build_optimizer(parameters: nn.Module | Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> Joined:
    """Give every parameter exactly one rule; each group carries `peak_lr` and `name` for schedule and reports, and
    `decays`: whether weight decay and penalties are meant for it.

    parameters: a model, or names and parameters. Raises UserError for a pattern of `groups` that fits no name.
    """
    named = list(parameters.named_parameters() if isinstance(parameters, nn.Module) else parameters)
    rules = list(config.groups)
    _check_patterns(rules, [name for name, _ in named])
    groups: dict[tuple[str, str, float, float, str], list[nn.Parameter]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        part = label = _part(name, parameter)
        rate, decay = _rate(config, part, parameter), config.weight_decay if part in DECAYED else 0.0
        rule = next((rule for rule in rules if fnmatch.fnmatchcase(name, rule.pattern)), None)
        if rule is not None:
            rate = rate if rule.learning_rate is None else rule.learning_rate
            decay = decay if rule.weight_decay is None else rule.weight_decay
            label = f"{part}: {rule.pattern}"
        # An embedding is a group of its own, so that the groups are the same whatever the weights are.
        groups.setdefault((part, label, rate, decay, name if part == "embedding" else ""), []).append(parameter)

    def settings(wanted: str) -> list[dict[str, Any]]:
        return [{"params": members, "lr": rate, "peak_lr": rate, "name": label, "weight_decay": decay,
                 "decays": part in DECAYED}
                for (part, label, rate, decay, _), members in groups.items() if part == wanted]

    parts: list[torch.optim.Optimizer] = []
    rest: tuple[str, ...] = PARTS
    if config.kind == "muon":
        matrices, rest = settings("matrices"), PARTS[1:]
        if matrices:
            parts.append(Muon(matrices, momentum=config.momentum))
    adamw = [group for part in rest for group in settings(part)]
    if adamw:
        parts.append(torch.optim.AdamW(adamw, betas=(config.betas[0], config.betas[1]), eps=config.epsilon, fused=True))
    return Joined(parts)


PARTS = ("matrices", "embedding", "head", "vectors")
DECAYED = ("matrices", "head")
EMBEDDINGS = ("embedding", "positions", "value_embedding", "relative_bias")
"""Names of modules that are looked up rather than multiplied."""
EMBEDDING_RATE = 30


def _part(name: str, parameter: nn.Parameter) -> str:
    path = name.split(".")[:-1]
    if parameter.ndim < 2:
        return "vectors"
    if any(word in EMBEDDINGS for word in path):
        return "embedding"
    return "head" if path[:1] == ["head"] else "matrices"


def _rate(config: OptimizerConfig, part: str, parameter: nn.Parameter) -> float:
    given = {"embedding": config.embedding_learning_rate, "head": config.head_learning_rate,
             "vectors": config.head_learning_rate}.get(part)
    if given or part != "embedding" or config.kind != "muon":
        return given or config.learning_rate
    # Adam's step has the size of its rate whatever the gradient, so an embedding's is measured by its own weights; to
    # three digits, so that the order of a sum cannot change the training.
    deviation = float(parameter.detach().double().square().mean()) ** 0.5
    return float(f"{EMBEDDING_RATE * config.learning_rate * deviation:.3g}") or config.learning_rate


def _check_patterns(rules: list[GroupRule], names: list[str]) -> None:
    for number, rule in enumerate(rules):
        if not any(fnmatch.fnmatchcase(name, rule.pattern) for name in names):
            raise UserError(f"no parameter's name fits {rule.pattern!r}", where=f"optimizer.groups.{number}.pattern",
                            fix=f"the names are {', '.join(names[:8])}" + (", ..." if len(names) > 8 else ""))
