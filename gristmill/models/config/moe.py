"""What a mixture of experts is made of, where a decoder has one in place of its feed-forward."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, Literal

from gristmill.core.config import config, require

MOE_FAMILIES = ("mixtral", "moe")
"""The families whose public formats hold experts."""


@config
class MoEConfig:
    """Experts, the router that chooses among them, and what keeps their loads equal. The defaults are Mixtral's
    (arXiv:2401.04088)."""

    experts: int = 8
    """Routed experts of a layer."""
    active: int = 2
    """How many of them a token goes to (top-k)."""
    mlp_dim: int | None = None
    """Inner width of one expert; default the decoder's mlp_dim over `granularity`, rounded up to a multiple of 8
    (grouped products want rows of a multiple of 16 bytes)."""
    granularity: int = 1
    """Into how many experts the width of one dense feed-forward is cut, where `mlp_dim` is not given
    (fine-grained experts, arXiv:2401.06066; the name is that of arXiv:2402.07871)."""
    shared: int = 0
    """Experts that every token goes to, besides (arXiv:2401.06066); kept as one feed-forward of their joint width."""
    shared_gate: bool = False
    """Whether the shared experts' result is multiplied by a sigmoid of the token (Qwen2-MoE, arXiv:2407.10671)."""
    score: Literal["softmax", "sigmoid"] = "softmax"
    """How router logits become weights: over all experts, or each by itself (DeepSeek-V3, arXiv:2412.19437)."""
    renormalise: bool = True
    """Whether the weights of the chosen experts are made to add up to 1. With one active expert leave it off: its
    weight would always be 1 and the router learn nothing from the loss."""
    scale: float = 1.0
    """Factor of the weights, after that."""
    selection_bias: bool = False
    """Whether each expert has a bias that counts for being chosen only and moves against its load: balance without an
    auxiliary loss (arXiv:2408.15664)."""
    bias_rate: float = 0.001
    """How far an update moves the selection bias."""
    balance_loss: float = 0.0
    """Coefficient of the auxiliary balance loss (Switch Transformer, arXiv:2101.03961, eq. 4); 0 for none."""
    pooled_balance: bool = False
    """Take that loss over all layers together, as transformers does, rather than over each by itself."""
    z_loss: float = 0.0
    """Coefficient of the router z-loss (ST-MoE, arXiv:2202.08906, eq. 5); 0 for none."""
    capacity: float | None = None
    """In training, most tokens an expert takes, as a multiple of the even share; what is beyond is dropped and counted.
    Default: nothing is ever dropped. Never applies outside of training."""
    first_dense: int = 0
    """Layers at the start that have an ordinary feed-forward."""

    def __post_init__(self) -> None:
        for name in ("experts", "active", "granularity"):
            require(getattr(self, name) >= 1, f"moe.{name}", "must be at least 1")
        require(self.active <= self.experts, "moe.active",
                f"a token cannot go to {self.active} of {self.experts} experts; lower it, or raise experts")
        require(self.mlp_dim is None or self.mlp_dim >= 1, "moe.mlp_dim", "must be at least 1")
        for name in ("shared", "first_dense", "bias_rate", "balance_loss", "z_loss"):
            require(getattr(self, name) >= 0, f"moe.{name}", "must not be negative")
        require(self.score in ("softmax", "sigmoid"), "moe.score", "choose one of softmax, sigmoid")
        require(self.scale > 0, "moe.scale", "must be positive")
        require(self.capacity is None or self.capacity > 0, "moe.capacity", "must be positive, or left out")
        require(not self.shared_gate or self.shared > 0, "moe.shared_gate", "there are no shared experts to gate")

    def resolved(self, mlp_dim: int, layers: int) -> MoEConfig:
        """With every width said, for a decoder of this feed-forward width and depth."""
        require(self.first_dense < layers, "moe.first_dense", f"of {layers} layers none would be left with experts")
        width = mlp_dim if self.granularity == 1 else -(-mlp_dim // (8 * self.granularity)) * 8
        return dataclasses.replace(self, mlp_dim=self.mlp_dim or width, granularity=1)

    @property
    def width(self) -> int:
        """Inner width of one expert, once it is resolved."""
        assert self.mlp_dim is not None
        return self.mlp_dim


def changed(base: MoEConfig, changes: Any) -> MoEConfig:
    """`base` with some fields changed by name, as recipes say them; ValueError names the field."""
    require(isinstance(changes, dict), "moe", "give its fields by name, e.g. {experts: 16, active: 4}")
    known = [field.name for field in dataclasses.fields(MoEConfig)]
    for name in changes:
        near = difflib.get_close_matches(str(name), known, n=1)
        require(name in known, f"moe.{name}", "there is no such option" + (
            f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"))
    if "granularity" in changes and "mlp_dim" not in changes:
        changes = {**changes, "mlp_dim": None}
    return dataclasses.replace(base, **changes)
