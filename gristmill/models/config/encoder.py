"""What an encoder is made of: plain numbers and choices, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gristmill.core.config import require

Activation = Literal["gelu", "gelu_tanh", "relu"]
"""gelu is exact (erf), gelu_tanh its approximation (arXiv:1606.08415)."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """A bidirectional transformer with norms after each sum: the defaults are BERT's (arXiv:1810.04805)."""

    family: str = "bert"
    """Whose public format this model is written in."""
    vocab_size: int
    """Rows of the embedding; at least as many as the tokenizer has tokens."""
    dim: int
    """Width of the residual stream."""
    layers: int
    heads: int
    head_dim: int
    """dim / heads."""
    mlp_dim: int
    """Inner width of the feed-forward layers."""
    context: int
    """Longest sequence; there are no positions beyond it."""
    positions: Literal["learned", "sinusoidal"] = "learned"
    """A learned vector a position, or fixed sines and cosines (Vaswani et al. 2017, section 3.5)."""
    pad_id: int = 0
    """The token that pads. RoBERTa counts positions from pad_id + 1; public code of RoBERTa and XLM knows padding by
    it, so it has to be the tokenizer's."""
    offset_positions: bool = False
    """Positions count from pad_id + 1 in place of 0 (RoBERTa)."""
    segments: int = 2
    """Rows of the segment embedding (first and second text of a pair); 0 for none."""
    languages: tuple[str, ...] = ()
    """Names of the languages that have an embedding of their own (XLM), in the order of their numbers."""
    mlp: Activation = "gelu"
    transform: Activation | None = "gelu"
    """Activation of the layer between the last block and the output matrix; None where there is no such layer (XLM)."""
    norm_eps: float = 1e-12
    tied_head: bool = True
    """The output matrix is the embedding; its bias is always its own."""
    next_sentence: bool = False
    """Whether there is a pooled first state and a head that judges pairs of texts."""
    dropout: float = 0.0
    """Of the embedding and of what each block adds."""
    attention_dropout: float = 0.0
    """Of the attention weights."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "languages", tuple(self.languages))
        for name in ("dim", "layers", "heads", "mlp_dim", "context"):
            require(getattr(self, name) >= 1, name, "must be at least 1")
        require(self.vocab_size >= 2, "vocab_size", "must be at least 2: a token, and the one that pads")
        require(self.dim % self.heads == 0, "heads", f"{self.heads} heads do not divide the width of {self.dim}")
        require(self.head_dim == self.dim // self.heads, "head_dim", f"must be dim / heads = {self.dim // self.heads}")
        require(0 <= self.pad_id < self.vocab_size, "pad_id", f"must be a token, from 0 to {self.vocab_size - 1}")
        require(self.segments >= 0, "segments", "must not be negative")
        require(len(set(self.languages)) == len(self.languages), "languages", "each can be named once")
        require(len(self.languages) != 1, "languages", "one language needs no embedding: name none, or two and more")
        require(self.mlp in get_args(Activation), "mlp", f"choose one of {', '.join(get_args(Activation))}")
        require(self.positions in ("learned", "sinusoidal"), "positions", "choose one of learned, sinusoidal")
        require(self.norm_eps > 0, "norm_eps", "must be positive")
        for name in ("dropout", "attention_dropout"):
            require(0 <= getattr(self, name) < 1, name, "must be in [0, 1)")
        self._check_family()

    def _check_family(self) -> None:
        """What the public format of the family has no place for."""
        xlm, roberta = self.family == "xlm", self.family in ("roberta", "xlm-roberta")
        wanted = None if xlm else "gelu" if roberta else self.mlp
        require(self.transform == wanted, "transform", f"must be {wanted} in {self.family}")
        require(self.offset_positions == roberta, "offset_positions",
                f"must be {str(roberta).lower()} in {self.family}")
        require(not self.next_sentence or self.family == "bert", "next_sentence", f"{self.family} has no such head")
        require((self.segments == 0) == xlm, "segments", "must be 0 in xlm" if xlm else "must be at least 1")
        require(xlm or not self.languages, "languages", f"{self.family} has no language embeddings, xlm has")
        require(xlm or self.positions == "learned", "positions", f"must be learned in {self.family}")
        require(not xlm or self.mlp_dim == 4 * self.dim, "mlp_dim", f"must be 4 x dim = {4 * self.dim} in xlm")
        require(not xlm or self.mlp != "gelu_tanh", "mlp", "xlm knows gelu and relu")

    @property
    def first_position(self) -> int:
        """Number of the first position of a text."""
        return self.pad_id + 1 if self.offset_positions else 0

    @property
    def matmul_parameters(self) -> int:
        """Parameters that take part in a matrix product for every token, the head included, lookups and pooler not."""
        block = 4 * self.dim * self.dim + 2 * self.dim * self.mlp_dim
        transform = 0 if self.transform is None else self.dim * self.dim
        return self.layers * block + transform + self.dim * self.vocab_size

    def flops_per_token(self, context: int) -> float:
        """Training FLOPs for one token: 6 per matmul parameter, and attention to all of the row."""
        return 6 * self.matmul_parameters + 12 * self.layers * self.dim * context
