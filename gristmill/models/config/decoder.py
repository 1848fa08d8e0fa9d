"""What a decoder is made of: plain numbers and choices, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from gristmill.core.config import require
from gristmill.models.config.moe import MOE_FAMILIES, MoEConfig

Activation = Literal["swiglu", "geglu", "gelu", "gelu_tanh", "relu", "relu2"]
"""Feed-forward: the gated ones (arXiv:2002.05202) have three matrices, the others two."""

ROPE_SCALINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "linear": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), ()),
    "dynamic": (("factor",), ()),
    "yarn": (("factor", "original_max_position_embeddings"),
             ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate")),
}
"""Kinds of rope scaling -> the numbers that each needs, and those that it may have, as public configs call them."""


VALUE_GATE = 12
"""Channels of the state that the gate of a value embedding reads."""


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
    """Context extension, as in public configs: {"rope_type": "linear", "llama3", "dynamic" or "yarn", "factor": ...}
    (docs/models/llama.md, "a longer context")."""
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
    moe: MoEConfig | None = None
    """Experts in place of the feed-forward (docs/models/moe.md)."""
    value_embeddings: bool = False
    """Every second block, the last one among them, looks its tokens up in a table of its own and adds what it finds to
    their values, by a gate a head that reads the state (docs/models/gristmill.md)."""
    logit_scale: float = 1.0
    """Factor of the logits; 0 stands for 1/sqrt(dim) (PaLM, arXiv:2204.02311, 5)."""
    attention: tuple[str, ...] = ()
    """Kind of attention of each layer, repeated over the layers: full, window or sparse. Default: window if one is
    given, else full. `sparse` is what the numbers below say together, each a way to be seen (layers/masks.py)."""
    window: int | None = None
    """How many keys a query sees of those just before it, its own included (arXiv:2004.05150)."""
    dilation: int = 1
    """Of a sparse layer's window: its places lie this far apart."""
    stride: int | None = None
    """Of a sparse layer: every so-many-th key before the query is seen as well (arXiv:1904.10509)."""
    global_tokens: int = 0
    """Of a sparse layer: the first so many tokens are seen by all."""
    attention_block: int = 1
    """Of a sparse layer: the four numbers above count blocks of this many tokens."""
    dropout: float = 0.0
    """Of the embedding and of what each block adds."""
    attention_dropout: float = 0.0
    """Of the attention weights."""
    stochastic_depth: float = 0.0
    """Share of the rows that skip the last block in training; earlier ones are skipped in proportion to their depth
    (arXiv:1603.09382)."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "dim", "layers", "heads", "kv_heads", "head_dim", "mlp_dim", "context", "dilation",
                     "attention_block"):
            require(getattr(self, name) >= 1, name, "must be at least 1")
        require(self.heads % self.kv_heads == 0, "kv_heads",
                f"{self.heads} query heads cannot be shared among {self.kv_heads} key/value heads; choose a divisor")
        require(self.positions in ("rotary", "learned"), "positions", "choose one of rotary, learned")
        require(self.norm in ("rms", "layer"), "norm", "choose one of rms, layer")
        require(self.positions != "rotary" or self.head_dim % 2 == 0, "head_dim",
                "must be even: rotary positions turn pairs of channels")
        require(self.rope_theta > 0, "rope_theta", "must be positive")
        require(self.rope_scaling is None or self.positions == "rotary", "rope_scaling", "needs rotary positions")
        require(self.norm_eps > 0, "norm_eps", "must be positive")
        require(not self.value_embeddings or self.dim >= VALUE_GATE, "value_embeddings",
                f"their gates read {VALUE_GATE} channels; dim is {self.dim}")
        require(self.logit_scale >= 0, "logit_scale", "must not be negative")
        if self.logit_scale == 0:
            object.__setattr__(self, "logit_scale", self.dim**-0.5)
        require(self.mlp in get_args(Activation), "mlp", f"choose one of {', '.join(get_args(Activation))}")
        for name in ("dropout", "attention_dropout", "stochastic_depth"):
            require(0 <= getattr(self, name) < 1, name, "must be in [0, 1)")
        object.__setattr__(self, "rope_scaling", checked_scaling(self.rope_scaling))
        require(self.head_dim > 2 or (self.rope_scaling or {}).get("rope_type") != "dynamic", "rope_scaling",
                "dynamic scaling needs heads of more than one pair of channels")
        require((self.moe is not None) == (self.family in MOE_FAMILIES), "moe",
                f"{' and '.join(MOE_FAMILIES)} are the families with experts, and they cannot be without; choose one")
        if self.moe is not None:
            require(not self.mlp_bias, "mlp_bias", "experts have no biases")
            object.__setattr__(self, "moe", self.moe.resolved(self.mlp_dim, self.layers))
        self._settle_attention()

    def _settle_attention(self) -> None:
        """Check the kinds of attention, and write them as the shortest pattern that repeats, so that equal models have
        equal configs."""
        require(self.window is None or self.window >= 1, "window", "must be at least 1: a query sees itself")
        require(self.stride is None or self.stride >= 1, "stride", "must be at least 1")
        require(self.global_tokens >= 0, "global_tokens", "must not be negative")
        given = tuple(self.attention) or (("full",) if self.window is None else ("window",))
        require(set(given) <= {"full", "window", "sparse"}, "attention",
                "name one of full, window, sparse for each layer of the repeated pattern")
        kinds = [given[layer % len(given)] for layer in range(self.layers)]
        period = next(n for n in range(1, self.layers + 1)
                      if all(kind == kinds[layer % n] for layer, kind in enumerate(kinds)))
        object.__setattr__(self, "attention", tuple(kinds[:period]))
        for name, unused, users in (
            ("window", None, {"window", "sparse"}), ("dilation", 1, {"sparse"}), ("stride", None, {"sparse"}),
            ("global_tokens", 0, {"sparse"}), ("attention_block", 1, {"sparse"}),
        ):
            if not users & set(kinds):
                require(getattr(self, name) == unused or bool(users & set(given)), name,
                        f"no layer uses it: name {' or '.join(sorted(users, reverse=True))} in `attention`")
                object.__setattr__(self, name, unused)
        require("window" not in kinds or self.window is not None, "window", "give the width of the window")
        require("sparse" not in kinds or self.window is not None or self.stride is not None, "window",
                "a sparse layer needs a window or a stride: a query sees itself")

    @property
    def gated(self) -> bool:
        """Whether the feed-forward has a gate."""
        return self.mlp in ("swiglu", "geglu")

    def layer_window(self, layer: int) -> int | None:
        """Width of the window of a layer, None where it sees everything before."""
        return self.window if self.layer_attention(layer) == "window" else None

    def layer_attention(self, layer: int) -> str:
        """Kind of attention of a layer: full, window or sparse."""
        return self.attention[layer % len(self.attention)]

    def keys_seen(self, layer: int, context: int) -> float:
        """Keys that a query of this layer sees, the mean over a row of `context` tokens: context / 2 for full
        attention, which leaves out the half key of the diagonal."""
        kind, full = self.layer_attention(layer), context / 2
        if kind == "full":
            return full
        local = float(min((self.window or 0) * self.attention_block, context))
        if kind == "sparse":
            local = min((self.window or 0) * self.dilation * self.attention_block, context)
        seen = local * (1 - local / (2 * context)) / (self.dilation if kind == "sparse" else 1)
        if kind == "sparse":
            seen += (full / self.stride if self.stride else 0) + self.global_tokens * self.attention_block
        return min(seen, full)

    def layer_values(self, layer: int) -> bool:
        """Whether a layer adds an embedding of its tokens to their values."""
        return self.value_embeddings and (self.layers - 1 - layer) % 2 == 0

    def layer_experts(self, layer: int) -> MoEConfig | None:
        """The experts of a layer, None where it has an ordinary feed-forward."""
        return self.moe if self.moe is not None and layer >= self.moe.first_dense else None

    @property
    def experts(self) -> int:
        """Routed experts of a layer that has any."""
        return 0 if self.moe is None else self.moe.experts

    @property
    def active_experts(self) -> int:
        """How many of them a token goes to."""
        return 0 if self.moe is None else self.moe.active

    @property
    def matmul_parameters(self) -> int:
        """Parameters that take part in a matrix product for every token, the head included, the lookup not; of experts
        those that a token meets."""
        attention = self.dim * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        gates = VALUE_GATE * self.kv_heads * sum(self.layer_values(layer) for layer in range(self.layers))
        mlps = sum(self._mlp_parameters(self.layer_experts(layer)) for layer in range(self.layers))
        return self.layers * attention + gates + mlps + self.dim * self.vocab_size

    def _mlp_parameters(self, moe: MoEConfig | None) -> int:
        matrices = 3 if self.gated else 2
        if moe is None:
            return matrices * self.dim * self.mlp_dim
        return self.dim * (matrices * (moe.active + moe.shared) * moe.width + moe.experts + moe.shared_gate)

    def flops_per_token(self, context: int) -> float:
        """Training FLOPs for one token: 6 per matmul parameter, and 12 per channel of attention for every key seen."""
        keys = sum(self.keys_seen(layer, context) for layer in range(self.layers))
        return 6 * self.matmul_parameters + 12 * self.heads * self.head_dim * keys


def checked_scaling(scaling: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A rope scaling with its kind and the numbers that count, None for none; ValueError for what we cannot compute."""
    given = {name: value for name, value in (scaling or {}).items() if value is not None}
    kind = given.pop("rope_type", None) or given.get("type") or "default"
    given.pop("type", None)
    if kind == "default":
        return None
    require(kind in ROPE_SCALINGS, "rope_scaling",
            f"rope scaling of the kind {kind!r} is not supported; supported: default, {', '.join(ROPE_SCALINGS)}")
    needed, optional = ROPE_SCALINGS[kind]
    missing = [name for name in needed if name not in given]
    require(not missing, "rope_scaling", f"rope scaling {kind} lacks {', '.join(missing)}")
    kept = {name: given[name] for name in (*needed, *optional) if name in given}
    for name, value in kept.items():
        require(isinstance(value, bool) if name == "truncate" else
                isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0,
                "rope_scaling", f"{name} is {value!r}, which is no positive number")
    return {"rope_type": kind, **kept}
