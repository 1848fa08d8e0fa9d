"""Batches of token shards: training windows in an order that is a pure function of (seed, step), and evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypedDict

import numpy as np
import torch

from gristmill.core.errors import UserError
from gristmill.core.seeds import derive_seed
from gristmill.tokens.shards import TokenShards

IGNORED = -100
"""A target that is not scored."""
PADDING = -1
"""The document number of padding."""


class Batch(TypedDict):
    """One batch. Position t of a row reads input_ids[t] and predicts targets[t]."""

    input_ids: torch.Tensor
    """(batch, time) int64."""
    targets: torch.Tensor
    """(batch, time) int64, the next token; -100 where nothing is scored."""
    document_ids: torch.Tensor
    """(batch, time) int32, numbered from 0 within a row, -1 on padding; attention stays within equal numbers."""


def permuted(index: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Where a pseudo-random permutation of range(size), chosen by `seed`, sends each of `index` (int64, any shape).

    A four-round Feistel network on the next even number of bits, walked until it lands below `size` (Black and
    Rogaway 2002, "Ciphers with arbitrary finite domains"): no table, and no dependence on a library's generator.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    shift = np.uint64(half)
    keys = [np.uint64(derive_seed(seed, "feistel", i)) for i in range(4)]
    value = np.asarray(index, dtype=np.uint64).copy()
    pending = np.ones(value.shape, dtype=bool)
    while pending.any():
        left, right = value[pending] >> shift, value[pending] & mask
        for key in keys:
            left, right = right, left ^ (_scramble(right ^ key) & mask)
        value[pending] = (left << shift) | right
        pending &= value >= np.uint64(size)
    return value.astype(np.int64)


def _scramble(value: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014): every output bit depends on every input bit."""
    with np.errstate(over="ignore"):
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


class ShuffledOrder:
    """Row numbers of each step: all `rows` once an epoch, in an order drawn anew for every epoch."""

    def __init__(self, rows: int, batch: int, seed: int, epochs: float | None) -> None:
        self.rows, self.batch, self.seed, self.epochs = rows, batch, seed, epochs
        self.total = None if epochs is None else max(1, round(rows * epochs))
        self.steps = None if self.total is None else math.ceil(self.total / batch)

    def at(self, step: int) -> np.ndarray:
        """Rows (<= batch,) of `step`; fewer than `batch` only in the last step of a limited number of epochs."""
        if step < 0 or (self.steps is not None and step >= self.steps):
            raise IndexError(f"step {step} of {self.steps}")
        stop = (step + 1) * self.batch if self.total is None else min((step + 1) * self.batch, self.total)
        return self.rows_at(np.arange(step * self.batch, stop))

    def rows_at(self, places: np.ndarray) -> np.ndarray:
        """Rows at these places of training, int64 (places,)."""
        epochs, within = np.divmod(np.asarray(places, dtype=np.int64), self.rows)
        rows = np.empty_like(within)
        for epoch in np.unique(epochs).tolist():
            now = epochs == epoch
            rows[now] = permuted(within[now], self.rows, derive_seed(self.seed, "epoch", epoch))
        return rows

    def state(self, step: int) -> dict[str, int]:
        """Where the data stand before `step`: all that a resume needs is the step itself."""
        seen = step * self.batch
        return {"step": step, "epoch": seen // self.rows, "row": seen % self.rows, "seed": self.seed}


class PackedBatches:
    """Training batches: windows of context + 1 tokens over all documents laid end to end.

    Windows overlap by one token, so that an epoch predicts every token once, but for the first of each document and
    the last, incomplete window (`unused_tokens`). The start of a document is never a target: the end of the one
    before says nothing about it. Raises UserError where there are fewer windows than rows in a batch.
    """

    def __init__(self, shards: TokenShards, *, context: int, batch: int, seed: int,
                 epochs: float | None = None) -> None:
        """context, batch: tokens a row, rows a batch. epochs: None goes on for ever."""
        self.shards, self.context, self.batch_size, self.seed = shards, context, batch, seed
        self.windows = max(0, (shards.total_tokens - 1) // context)
        if self.windows < batch:
            raise UserError(
                f"the text has {shards.total_tokens} tokens, which make {self.windows} windows of {context} tokens, "
                f"fewer than the {batch} rows of one batch",
                where=str(shards.folder),
                fix=f"use more text, a batch of at most {self.windows}, or a context shorter than {context}"
                if self.windows else f"use more text, or a context of at most {max(1, shards.total_tokens - 1)}")
        self.order = ShuffledOrder(self.windows, batch, seed, epochs)
        self.unused_tokens = shards.total_tokens - 1 - self.windows * context

    @property
    def steps(self) -> int | None:
        """Batches in all, or None without an end. The last may hold rows of padding."""
        return self.order.steps

    @property
    def tokens_per_batch(self) -> int:
        return self.batch_size * self.context

    @property
    def epoch_rows(self) -> int:
        """Rows after which each has come once."""
        return self.windows

    def batch(self, step: int) -> Batch:
        """The batch of `step`, a pure function of (seed, step)."""
        return self._read(self.order.at(step), self.batch_size)

    def rows(self, places: np.ndarray) -> Batch:
        """The rows at these places of training: batch `step` has the places from step x batch on."""
        return self._read(self.order.rows_at(places), len(places))

    def documents(self, place: int) -> list[str]:
        """The documents that the row at this place of training holds, `id (source)` each, in order."""
        start = int(self.order.rows_at(np.array([place]))[0]) * self.context
        return documents_in(self.shards, [(start, start + self.context + 1)])

    def _read(self, windows: np.ndarray, rows: int) -> Batch:
        starts = (windows * self.context).tolist()
        return read_rows(self.shards, [[(s, s + self.context + 1)] for s in starts], rows, self.context)

    def state(self, step: int) -> dict[str, int]:
        """Epoch and place before `step`, for the record; to resume, call `batch(step)`."""
        return self.order.state(step)


class EvaluationBatches:
    """Every token of the shards scored exactly once, in order; the first token of a document is context only.

    A row continues where the one before stopped, without its context: the loss is that of `context` tokens at most.
    For bits per byte divide the summed loss by ln(2) * `total_bytes`; the end tokens' loss is part of the sum.
    """

    def __init__(self, shards: TokenShards, context: int, batch: int, *, limit_tokens: int | None = None) -> None:
        """limit_tokens: score only the first whole documents that fit, but at least one."""
        self.shards, self.context, self.batch_size = shards, context, batch
        documents = shards.documents
        if limit_tokens is not None:
            documents = max(1, int(np.searchsorted(shards.offsets, limit_tokens, side="right")) - 1)
        self.documents = min(documents, shards.documents)
        self.stop = int(shards.offsets[self.documents])
        self.rows = max(0, math.ceil((self.stop - 1) / context))
        if not self.rows:
            raise UserError(f"the text has {self.stop} tokens, so there is nothing to score", where=str(shards.folder),
                            fix="use more text")
        self.total_bytes = int(shards.document_bytes[:self.documents].sum())
        """UTF-8 bytes of the text that is scored."""
        lengths = np.diff(shards.offsets[:self.documents + 1])
        self.scored_tokens = int(np.maximum(lengths - 1, 0).sum())
        """Targets in all batches together."""

    @property
    def steps(self) -> int:
        return math.ceil(self.rows / self.batch_size)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(step) for step in range(self.steps))

    def batch(self, step: int) -> Batch:
        """The batch of `step`; rows and tails after the last token are padding."""
        return read_rows(self.shards, [[span] for span in self._spans(step)], self.batch_size, self.context)

    def document_numbers(self, step: int) -> np.ndarray:
        """The document in the shards of each target of `step`, int64 (batch, time), -1 where nothing is scored."""
        numbers = np.full((self.batch_size, self.context), -1, dtype=np.int64)
        for row, (start, stop) in enumerate(self._spans(step)):
            index = self.shards.document_index(start, stop)
            numbers[row, :len(index) - 1] = np.where(index[1:] == index[:-1], index[1:], -1)
        return numbers

    def _spans(self, step: int) -> list[tuple[int, int]]:
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        rows = range(step * self.batch_size, min((step + 1) * self.batch_size, self.rows))
        return [(r * self.context, min(r * self.context + self.context + 1, self.stop)) for r in rows]


def documents_in(shards: TokenShards, spans: list[tuple[int, int]]) -> list[str]:
    """The documents whose tokens lie in these spans (start, stop), `id (source)` each, in order."""
    found = []
    for start, stop in spans:
        index = shards.document_index(start, stop)
        for number in np.unique(index[:-1]).tolist():
            origin = shards.locate(int(shards.offsets[number]))
            found.append(f"{origin.document} ({origin.source})" if origin.source else origin.document)
    return found


def empty_batch(rows: int, context: int, pad_id: int = 0) -> Batch:
    """A batch (rows, context) of nothing but padding."""
    return {
        "input_ids": torch.full((rows, context), pad_id, dtype=torch.int64),
        "targets": torch.full((rows, context), IGNORED, dtype=torch.int64),
        "document_ids": torch.full((rows, context), PADDING, dtype=torch.int32),
    }


def read_rows(shards: TokenShards, spans: list[list[tuple[int, int]]], rows: int, context: int) -> Batch:
    """Rows of spans (start, stop) of tokens, one behind the other: a span of n tokens takes n - 1 places, for its last
    token is only a target. What is missing of `rows` x `context` is padding."""
    result = empty_batch(rows, context)
    inputs, targets, documents = (result[key].numpy() for key in ("input_ids", "targets", "document_ids"))  # type: ignore[literal-required]
    for row, parts in enumerate(spans):
        at = number = 0
        for start, stop in parts:
            tokens = shards.slice(start, stop)
            index = shards.document_index(start, stop)
            here = slice(at, at + stop - start - 1)
            inputs[row, here] = tokens[:-1]
            targets[row, here] = np.where(index[1:] == index[:-1], tokens[1:].astype(np.int64), IGNORED)
            documents[row, here] = index[:-1] - index[0] + number
            at, number = here.stop, number + int(index[-1] - index[0]) + 1
    return result
