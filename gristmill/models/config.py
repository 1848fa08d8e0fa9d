"""What a decoder is made of: plain numbers, checked once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gristmill.core.config import require


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A Llama-style decoder (Touvron et al. 2023, arXiv:2302.13971) with the usual options of its relatives."""

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
    """Inner width of the SwiGLU (arXiv:2002.05202)."""
    context: int
    """Longest sequence the model is meant for."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies (arXiv:2104.09864)."""
    rope_scaling: dict[str, Any] | None = field(default=None)
    """Context extension, as in public configs: {"rope_type": "linear", "factor": ...} or "llama3"."""
    norm_eps: float = 1e-5
    tied_head: bool = False
    """The output head is the embedding."""
    attention_bias: bool = False
    """Biases on query, key, value and output projections."""
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "dim", "layers", "heads", "kv_heads", "head_dim", "mlp_dim", "context"):
            require(getattr(self, name) >= 1, name, "must be at least 1")
        require(self.heads % self.kv_heads == 0, "kv_heads",
                f"{self.heads} query heads cannot be shared among {self.kv_heads} key/value heads; choose a divisor")
        require(self.head_dim % 2 == 0, "head_dim", "must be even: rotary positions turn pairs of channels")
        require(self.rope_theta > 0, "rope_theta", "must be positive")
        require(self.norm_eps > 0, "norm_eps", "must be positive")

    @property
    def matmul_parameters(self) -> int:
        """Parameters that take part in a matrix product for every token, the head included, the lookup not."""
        attention = self.dim * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.dim * self.mlp_dim) + self.dim * self.vocab_size

    def flops_per_token(self, context: int) -> float:
        """Training FLOPs for one token: 6 per matmul parameter, and the causal half of attention."""
        return 6 * self.matmul_parameters + 6 * self.layers * self.heads * self.head_dim * context
