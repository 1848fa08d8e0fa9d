"""What a decoder is made of: plain numbers and choices, checked once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from gristmill.core.config import require

Activation = Literal["swiglu", "geglu", "gelu", "gelu_tanh", "relu", "relu2"]
"""Feed-forward: the gated ones (arXiv:2002.05202) have three matrices, the others two."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A causal transformer: the defaults are Llama's (arXiv:2302.13971), the options those of its relatives."""

    family: str = "llama"
    """Whose public format this model is written in."""
    vocab_size: int
    """Rows of the embedding; at least as many as the tokenizer has tokens."""
    dim: int
    """Width of the residual stream."""
    layers: int
    heads: int
    """Query heads."""
    kv_heads: int
    """Key/value heads; heads / kv_heads queries share one (grouped-query attention, arXiv:2305.13245)."""
    head_dim: int
    mlp_dim: int
    """Inner width of the feed-forward layers."""
    context: int
    """Longest sequence the model is meant for."""
    positions: Literal["rotary", "learned"] = "rotary"
    """rotary (arXiv:2104.09864), or a learned vector a position, added to the embedding."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    rope_scaling: dict[str, Any] | None = field(default=None)
    """Context extension, as in public configs: {"rope_type": "linear", "factor": ...} or "llama3"."""
    norm: Literal["rms", "layer"] = "rms"
    """rms (arXiv:1910.07467) or layer (arXiv:1607.06450)."""
    norm_bias: bool = True
    """Whether a layer norm has a bias; an rms norm never has."""
    norm_eps: float = 1e-5
    mlp: Activation = "swiglu"
    parallel: bool = False
    """Attention and feed-forward read the same norm and are added together (PaLM, arXiv:2204.02311)."""
    qk_norm: bool = False
    """An rms norm over each head's query and key, before positions."""
    tied_head: bool = False
    """The output head is the embedding."""
    qkv_bias: bool = False
    output_bias: bool = False
    """Bias of attention's output projection."""
    mlp_bias: bool = False
    window: int | None = None
    """How many keys a query sees where attention is `window`: its own and those just before it."""
    attention: tuple[str, ...] = ("full",)
    """Kind of attention of each layer, repeated over the layers: full or window."""
    dropout: float = 0.0
    """Of the embedding and of what each block adds."""
    attention_dropout: float = 0.0
    """Of the attention weights."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "attention", tuple(self.attention))
        for name in ("vocab_size", "dim", "layers", "heads", "kv_heads", "head_dim", "mlp_dim", "context"):
            require(getattr(self, name) >= 1, name, "must be at least 1")
        require(self.heads % self.kv_heads == 0, "kv_heads",
                f"{self.heads} query heads cannot be shared among {self.kv_heads} key/value heads; choose a divisor")
        require(self.positions != "rotary" or self.head_dim % 2 == 0, "head_dim",
                "must be even: rotary positions turn pairs of channels")
        require(self.rope_theta > 0, "rope_theta", "must be positive")
        require(self.norm_eps > 0, "norm_eps", "must be positive")
        require(self.mlp in get_args(Activation), "mlp", f"choose one of {', '.join(get_args(Activation))}")
        require(self.window is None or self.window >= 1, "window", "must be at least 1: a query sees itself")
        require(len(self.attention) > 0 and set(self.attention) <= {"full", "window"}, "attention",
                "name one of full, window for each layer of the repeated pattern")
        require("window" not in self.attention or self.window is not None, "window", "give the width of the window")
        for name in ("dropout", "attention_dropout"):
            require(0 <= getattr(self, name) < 1, name, "must be in [0, 1)")

    @property
    def gated(self) -> bool:
        """Whether the feed-forward has a gate."""
        return self.mlp in ("swiglu", "geglu")

    def layer_window(self, layer: int) -> int | None:
        """Width of the window of a layer, None where it sees everything before."""
        return self.window if self.attention[layer % len(self.attention)] == "window" else None

    @property
    def matmul_parameters(self) -> int:
        """Parameters that take part in a matrix product for every token, the head included, the lookup not."""
        attention = self.dim * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        mlp = (3 if self.gated else 2) * self.dim * self.mlp_dim
        return self.layers * (attention + mlp) + self.dim * self.vocab_size

    def flops_per_token(self, context: int) -> float:
        """Training FLOPs for one token: 6 per matmul parameter, and the causal half of attention."""
        return 6 * self.matmul_parameters + 6 * self.layers * self.heads * self.head_dim * context
