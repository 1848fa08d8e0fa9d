"""What a two-stream model is made of: plain numbers and choices, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gristmill.core.config import require

Activation = Literal["gelu", "gelu_tanh", "relu"]
"""gelu is exact (erf), gelu_tanh its approximation (arXiv:1606.08415)."""

PREDICTED = 6
"""One token in so many is predicted in pretraining (K of arXiv:1906.08237, section 2.3)."""


@dataclass(frozen=True, kw_only=True)
class TwoStreamConfig:
    """A transformer with a content and a query stream and relative positions: the defaults are XLNet's."""

    family: str = "xlnet"
    """Whose public format this model is written in."""
    vocab_size: int
    """Rows of the embedding; at least as many as the tokenizer has tokens."""
    dim: int
    """Width of the residual stream; even, because relative positions are pairs of a sine and a cosine."""
    layers: int
    heads: int
    head_dim: int
    mlp_dim: int
    """Inner width of the feed-forward layers."""
    context: int = 512
    """Tokens of a training row. Positions are relative, so that longer rows are computed all the same."""
    causal: bool = False
    """Every token sees the ones before it only (Transformer-XL), in place of all (XLNet)."""
    same_length: bool = False
    """Where `causal`: every token sees as many others, itself and as many before it as there is memory."""
    clamp: int | None = None
    """Distances beyond this many tokens count as this many; None for no limit."""
    memory: int | None = None
    """Most tokens that are remembered from earlier segments; None for all."""
    reuse: int | None = None
    """Of each segment only the first so many tokens are remembered; None for all."""
    mlp: Activation = "gelu"
    norm_eps: float = 1e-12
    tied_head: bool = True
    """The output matrix is the embedding; its bias is always its own."""
    dropout: float = 0.0
    """Of embeddings, positions, attention weights, and all that a block adds."""

    def __post_init__(self) -> None:
        for name in ("dim", "layers", "heads", "head_dim", "mlp_dim", "context"):
            require(getattr(self, name) >= 1, name, "must be at least 1")
        require(self.vocab_size >= 2, "vocab_size", "must be at least 2")
        require(self.dim % 2 == 0, "dim", f"must be even, {self.dim} is odd")
        for name in ("clamp", "memory", "reuse"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, "must be at least 1, or null for no limit")
        require(self.causal or not self.same_length, "same_length", "says something of causal models only")
        require(self.mlp in get_args(Activation), "mlp", f"choose one of {', '.join(get_args(Activation))}")
        require(self.norm_eps > 0, "norm_eps", "must be positive")
        require(0 <= self.dropout < 1, "dropout", "must be in [0, 1)")

    @property
    def inner(self) -> int:
        """Channels of all heads together; need not be `dim`."""
        return self.heads * self.head_dim

    @property
    def matmul_parameters(self) -> int:
        """Parameters that take part in a matrix product for every token, the head included; the projection of
        positions works once a distance, not once a token, and does not count."""
        return self.layers * self._block + self.dim * self.vocab_size

    @property
    def _block(self) -> int:
        return 4 * self.dim * self.inner + 2 * self.dim * self.mlp_dim

    def flops_per_token(self, context: int) -> float:
        """Training FLOPs for one token of a row of `context` tokens, one in `PREDICTED` of which is predicted.

        The content stream runs over every token, but only up to the keys and values of the last block; the query
        stream and the head run over the predicted ones. Attention has three products where others have two: content
        scores, position scores (over twice the keys: distances go both ways), and values. The position keys of a
        block are made once a batch and are left out.
        """
        attention = 24 * self.inner * context
        keys = 12 * self.dim * self.inner
        content = (self.layers - 1) * (6 * self._block + attention) + keys
        query = self.layers * (6 * self._block - keys + attention) + 6 * self.dim * self.vocab_size
        return content + query / PREDICTED
