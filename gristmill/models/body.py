"""What every body offers, whatever it is: the seam to objectives, training, generation, saving and proofs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor, nn


class Config(Protocol):
    """What every config of a body says."""

    family: str
    vocab_size: int
    dim: int
    layers: int
    heads: int
    head_dim: int
    context: int

    @property
    def matmul_parameters(self) -> int:
        """Parameters that take part in a matrix product for every token, the head included, lookups not."""

    def flops_per_token(self, context: int) -> float:
        """Training FLOPs for one token of a row of `context` tokens."""


class Body(nn.Module):
    """A module that turns token ids into logits.

    Arguments of `forward` have the names of transformers, but for `document_ids` (batch, time), which takes the place
    of attention masks: -1 is padding, and attention stays within equal numbers.
    """

    config: Any

    @property
    def all_blocks(self) -> Iterable[nn.Module]:
        """All blocks in the order in which they run: what is compiled, and compared one by one in proofs."""
        return self.blocks  # type: ignore[return-value]

    @property
    def head_weight(self) -> Tensor:
        """The matrix that turns the states of `hidden` into logits, (vocab, dim)."""
        raise NotImplementedError

    def hidden(self, input_ids: Tensor, *, document_ids: Tensor | None = None) -> Tensor:
        """The states that the head reads, (batch, time, dim)."""
        raise NotImplementedError

    def initialise(self, seed: int) -> None:
        """Fresh weights in place, a pure function of the seed."""
        raise NotImplementedError
