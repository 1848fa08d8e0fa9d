"""The contract between a pretraining objective and the stage that runs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from gristmill.objectives.base import Batch, Objective
from gristmill.tokenizer import Tokenizer
from gristmill.tokens import TokenShards


class TrainingBatches(Protocol):
    """Batches for ever. Each holds at least `input_ids` (batch, time) and `targets`, -100 where nothing is scored; the
    first dimension of every tensor is the row, so that a batch can be cut into micro-batches."""

    @property
    def tokens_per_batch(self) -> int:
        """Tokens of text in a batch."""

    @property
    def epoch_rows(self) -> int:
        """Rows after which each has come once."""

    def batch(self, step: int) -> Any:
        """The batch of `step`: a pure function of (seed, step)."""

    def rows(self, places: np.ndarray) -> Any:
        """The rows at these places of training, a row each: `batch(step)` has the places from step x batch on."""


class HeldOutBatches(Protocol):
    """The same batches at every evaluation."""

    total_bytes: int | None
    """UTF-8 bytes of the text, where every token of it is scored exactly once (so that bits per byte exist)."""

    def __iter__(self) -> Iterator[Batch]: ...


class Pretraining(Protocol):
    """A config class: `kind` and options."""

    kind: str
    """A class with `best_fit = True` reads rows of whole documents (`tokens.text_batches`) as well as windows."""

    def check(self, model_config: Any, tokenizer: Tokenizer) -> None:
        """UserError where this model or tokenizer cannot be trained so (no mask token, another body)."""

    def loss(self, model_config: Any) -> Objective:
        """What the loop minimises."""

    def batches(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, seed: int
    ) -> TrainingBatches:
        """Training batches of `batch` rows of `context` tokens. UserError where the text is too short for one."""

    def held_out(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, limit_tokens: int, seed: int
    ) -> HeldOutBatches:
        """Evaluation batches over the first whole documents that fit into `limit_tokens`."""

    def guess(self, model: Any, tokenizer: Tokenizer, before: str, true: str) -> tuple[Tensor, int]:
        """What the model thinks stands after `before`: log-probabilities (vocab,), and the id of the true token, the
        first of `true`. For the prediction trace."""
