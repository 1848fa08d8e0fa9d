"""From a config and a model to an optimizer whose every group has a name."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.training.optimizers.adafactor import Adafactor
from gristmill.training.optimizers.adamw8bit import WHOLE, AdamW8bit
from gristmill.training.optimizers.blockwise import BLOCK
from gristmill.training.optimizers.joined import Joined
from gristmill.training.optimizers.lion import Lion
from gristmill.training.optimizers.muon import Muon
from gristmill.training.optimizers.sharded import kind, mean_square, refuse_cut_blocks


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


_ADAPTING = ("muon", "adamw", "adam", "adamw8bit")
OWN = {"momentum": ("muon", "sgd"), "betas": (*_ADAPTING, "lion"), "epsilon": _ADAPTING}
"""Setting -> the kinds that have it; muon gives the last two to AdamW, for what is no matrix of a block."""


@config
class OptimizerConfig:
    """Which rule updates the weights."""

    kind: Literal["muon", "adamw", "adam", "sgd", "adafactor", "lion", "adamw8bit"] = "muon"
    """muon: Muon for the matrices of the blocks, AdamW for the rest. The others are for everything: adamw; adamw8bit,
    whose states take a byte a number; lion, with one average; adafactor, with next to no state; sgd; adam. Papers,
    memory and usual rates: docs/optimizers.md."""
    learning_rate: float = 0.01
    """Peak learning rate of the matrices of the blocks (muon), or of everything. The default is for muon; the others
    want their own (docs/optimizers.md)."""
    embedding_learning_rate: float | None = None
    """Peak learning rate of the embedding. Default for muon: 30 times `learning_rate` times the root mean square of
    what each embedding starts with (docs/decisions.md, "optimizer"); for the others: that of everything. 0 leaves it
    as it is."""
    head_learning_rate: float | None = None
    """Peak learning rate of the output head's matrix (a tied one is the embedding); default: `learning_rate`, as norms
    and biases have. 0 leaves it as it is."""
    weight_decay: float = 0.0
    """Decay of matrices; embeddings, norms and biases have none. Decoupled, but for adam and sgd, which add it to the
    gradient (L2), as the methods were published."""
    momentum: float = 0.95
    """Muon's or SGD's momentum."""
    nesterov: bool = False
    """sgd: step from where the momentum leads (Sutskever et al. 2013). Muon always does."""
    betas: list[float] | None = None
    """Averages of gradient and squared gradient, default [0.9, 0.95]; lion: of update and momentum, default
    [0.9, 0.99]."""
    epsilon: float = 1e-8
    """Adam's guard against division by zero."""
    groups: list[GroupRule] = ()  # type: ignore[assignment]
    """Exceptions by name, e.g. {pattern: "blocks.*.mlp.*", weight_decay: 0.1}; the first that fits holds."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "learning_rate", "must be positive")
        for name in ("embedding_learning_rate", "head_learning_rate"):
            require((getattr(self, name) or 0) >= 0, name, "must not be negative")
        require(self.weight_decay >= 0, "weight_decay", "must not be negative")
        require(0 <= self.momentum < 1, "momentum", "must be in [0, 1)")
        require(self.epsilon >= 0, "epsilon", "must not be negative")
        require(not self.nesterov or (self.kind == "sgd" and self.momentum > 0), "nesterov",
                "is for sgd with momentum")
        for name, kinds in OWN.items():
            require(self.kind in kinds or getattr(self, name) == getattr(type(self), name), name,
                    f"{self.kind} has none; it is for {', '.join(kinds)}")
        require(self.betas is None or (len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas)), "betas",
                "two numbers in [0, 1)")

    @property
    def averages(self) -> tuple[float, float]:
        """`betas`, or the kind's own."""
        first, second = self.betas or ([0.9, 0.99] if self.kind == "lion" else [0.9, 0.95])
        return first, second

    @property
    def planned(self) -> str:
        """What the planner calls it (`planning.memory.OPTIMIZERS`): sgd has a state with momentum only."""
        return "momentum" if self.kind == "sgd" and self.momentum else self.kind


Groups = list[dict[str, Any]]


def _adamw(groups: Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, betas=config.averages, eps=config.epsilon, fused=True)


EVERYTHING: Mapping[str, Callable[[Groups, OptimizerConfig], torch.optim.Optimizer]] = {
    "muon": _adamw,
    "adamw": _adamw,
    "adam": lambda groups, config: torch.optim.Adam(groups, betas=config.averages, eps=config.epsilon, fused=True),
    # torch's fused SGD fails where a parameter has its first gradient later than others.
    "sgd": lambda groups, config: torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum,
                                                  nesterov=config.nesterov, foreach=True),
    "adafactor": lambda groups, config: Adafactor(groups),
    "lion": lambda groups, config: Lion(groups, betas=config.averages),
    "adamw8bit": lambda groups, config: AdamW8bit(groups, betas=config.averages, eps=config.epsilon),
}
"""Kind -> the optimizer of all parameters; of muon: of all but the matrices of the blocks."""


def build_optimizer(parameters: nn.Module | Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig,
                    elsewhere: Iterable[str] = ()) -> Joined:
    """Give every parameter exactly one rule; each group carries `peak_lr` and `name` for schedule and reports, and
    `decays`: whether weight decay and penalties are meant for it.

    parameters: a model, or names and parameters. elsewhere: names that other stages of a pipeline hold. Raises
    UserError for a pattern of `groups` that fits no name of either.
    """
    named = list(parameters.named_parameters() if isinstance(parameters, nn.Module) else parameters)
    rules = list(config.groups)
    _check_patterns(rules, [*(name for name, _ in named), *elsewhere])
    groups: dict[tuple[str, str, float, float, Hashable], list[nn.Parameter]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        part = label = parameter_part(name, parameter.ndim)
        rate, decay = _rate(config, part, parameter), config.weight_decay if part in DECAYED else 0.0
        rule = next((rule for rule in rules if fnmatch.fnmatchcase(name, rule.pattern)), None)
        if rule is not None:
            rate = rate if rule.learning_rate is None else rule.learning_rate
            decay = decay if rule.weight_decay is None else rule.weight_decay
            label = f"{part}: {rule.pattern}"
        # An embedding is a group of its own, so that the groups are the same whatever the weights are; and so are
        # weights that are cut over processes in the same way, as torch steps a group at once.
        own = name if part == "embedding" else kind(parameter)
        groups.setdefault((part, label, rate, decay, own), []).append(parameter)

    def settings(wanted: str) -> Groups:
        return [{"params": members, "lr": rate, "peak_lr": rate, "name": label, "weight_decay": decay,
                 "decays": part in DECAYED}
                for (part, label, rate, decay, _), members in groups.items() if part == wanted]

    parts: list[torch.optim.Optimizer] = []
    rest: tuple[str, ...] = PARTS
    if config.kind == "muon":
        matrices, rest = settings("matrices"), PARTS[1:]
        if matrices:
            parts.append(Muon(matrices, momentum=config.momentum))
    others = [group for part in rest for group in settings(part)]
    if config.kind == "adamw8bit":
        refuse_cut_blocks(config.kind, named, BLOCK, WHOLE)
    if others:
        parts.append(EVERYTHING[config.kind](others, config))
    return Joined(parts)


PARTS = ("matrices", "embedding", "head", "vectors")
DECAYED = ("matrices", "head")
EMBEDDINGS = ("embedding", "positions", "value_embedding", "relative_bias")
"""Names of modules that are looked up rather than multiplied."""
EMBEDDING_RATE = 30


def parameter_part(name: str, dimensions: int) -> str:
    """Which of `PARTS` a parameter of this name and number of dimensions belongs to."""
    path = name.split(".")[:-1]
    if dimensions < 2:
        return "vectors"
    if any(word in EMBEDDINGS for word in path):
        return "embedding"
    return "head" if path[:1] == ["head"] else "matrices"


def _rate(config: OptimizerConfig, part: str, parameter: nn.Parameter) -> float:
    given = {"embedding": config.embedding_learning_rate, "head": config.head_learning_rate}.get(part)
    if given is not None:
        return given
    if part != "embedding" or config.kind != "muon":
        return config.learning_rate
    # Adam's step has the size of its rate whatever the gradient, so an embedding's is measured by its own weights; to
    # three digits, so that the order of a sum cannot change the training.
    deviation = mean_square(parameter) ** 0.5
    return float(f"{EMBEDDING_RATE * config.learning_rate * deviation:.3g}") or config.learning_rate


def _check_patterns(rules: list[GroupRule], names: list[str]) -> None:
    for number, rule in enumerate(rules):
        if not any(fnmatch.fnmatchcase(name, rule.pattern) for name in names):
            raise UserError(f"no parameter's name fits {rule.pattern!r}", where=f"optimizer.groups.{number}.pattern",
                            fix=f"the names are {', '.join(names[:8])}" + (", ..." if len(names) > 8 else ""))
