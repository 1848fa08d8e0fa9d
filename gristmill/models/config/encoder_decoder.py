"""What an encoder-decoder is made of: plain numbers and choices, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gristmill.core.config import require

Activation = Literal["relu", "gelu", "gelu_tanh", "geglu", "swiglu"]
"""Feed-forward: geglu and swiglu have a gate (arXiv:2002.05202), the others have none; gelu is exact, gelu_tanh its
approximation, which geglu uses as well."""

TARGETS_PER_INPUT = 114 / 512
"""Tokens of the decoder for each of the encoder in T5's pretraining (arXiv:1910.10683, section 3.1.4)."""


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig:
    """An encoder that reads one text and a decoder that writes another: T5 (arXiv:1910.10683) and its versions."""

    family: str = "t5"
    """Whose public format this model is written in."""
    vocab_size: int
    """Rows of the embedding, which both sides share; at least as many as the tokenizer has tokens."""
    dim: int
    """Width of the residual stream."""
    layers: int
    """Blocks of the encoder."""
    decoder_layers: int = 0
    """Blocks of the decoder; 0 stands for as many as the encoder has."""
    heads: int
    head_dim: int
    """Width of a head; heads x head_dim need not be dim."""
    mlp_dim: int
    """Inner width of the feed-forward layers."""
    context: int
    """Longest text that the model is meant for, on either side."""
    buckets: int = 32
    """Buckets of relative positions."""
    furthest: int = 128
    """Distance from which on all share the last bucket."""
    mlp: Activation = "relu"
    norm_eps: float = 1e-6
    tied_head: bool = True
    """The output head is the embedding; states are then scaled by 1/sqrt(dim) before it."""
    pad_id: int = 0
    """The token that pads, and that stands for targets that are not scored."""
    start_id: int = 0
    """The token with which every output begins."""
    dropout: float = 0.0
    """Of embeddings, attention weights, the inner feed-forward, what each block adds, and the last states."""

    def __post_init__(self) -> None:
        require(self.decoder_layers >= 0, "decoder_layers", "must be 0 (as many as layers) or more")
        if self.decoder_layers == 0:
            object.__setattr__(self, "decoder_layers", self.layers)
        for name in ("vocab_size", "dim", "layers", "heads", "head_dim", "mlp_dim", "context"):
            require(getattr(self, name) >= 1, name, "must be at least 1")
        require(self.buckets >= 4, "buckets", "must be at least 4: near and far, before and after")
        require(self.furthest > self.buckets // 2, "furthest",
                f"must be more than {self.buckets // 2}, the distances that have a bucket each")
        require(self.mlp in get_args(Activation), "mlp", f"choose one of {', '.join(get_args(Activation))}")
        require(self.norm_eps > 0, "norm_eps", "must be positive")
        for name in ("pad_id", "start_id"):
            require(0 <= getattr(self, name) < self.vocab_size, name,
                    f"must be a token, from 0 to {self.vocab_size - 1}")
        require(0 <= self.dropout < 1, "dropout", "must be in [0, 1)")
        require(self.family != "mt5" or not self.tied_head, "tied_head", "must be false in mt5; t5 has tied heads")

    @property
    def gated(self) -> bool:
        """Whether the feed-forward has a gate."""
        return self.mlp in ("geglu", "swiglu")

    @property
    def head_scale(self) -> float:
        """Factor of the states that the head reads."""
        return self.dim**-0.5 if self.tied_head else 1.0

    @property
    def matmul_parameters(self) -> int:
        """Parameters that take part in a matrix product: all blocks of both sides, and the head; the lookup not. A
        token meets either the encoder's or the decoder's."""
        attention, mlp = self._parts
        blocks = self.layers * (attention + mlp) + self.decoder_layers * (2 * attention + mlp)
        return blocks + self.dim * self.vocab_size

    @property
    def _parts(self) -> tuple[int, int]:
        """Parameters of an attention and of a feed-forward layer."""
        return 4 * self.dim * self.heads * self.head_dim, (3 if self.gated else 2) * self.dim * self.mlp_dim

    def flops(self, inputs: int, targets: int) -> float:
        """Training FLOPs of one row of `inputs` tokens for the encoder and `targets` for the decoder.

        6 for each parameter and each token that meets it, and 12 per channel of attention for every key seen.
        """
        attention, mlp = self._parts
        encoder = inputs * self.layers * (attention + mlp)
        # Keys and values of the cross-attention are made of the encoder's states, its queries of the decoder's.
        decoder = self.decoder_layers * (targets * (1.5 * attention + mlp) + inputs * attention / 2)
        keys = self.layers * inputs**2 + self.decoder_layers * targets * (targets / 2 + inputs)
        head = targets * self.dim * self.vocab_size
        return 6 * (encoder + decoder + head) + 12 * self.heads * self.head_dim * keys

    def flops_per_token(self, context: int) -> float:
        """Training FLOPs for one token of a row of `context` input tokens, with the targets that T5's span corruption
        makes of them."""
        return self.flops(context, round(context * TARGETS_PER_INPUT)) / context
