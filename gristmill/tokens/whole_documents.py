"""Training rows of whole documents: what fits a row is never cut, and rows are filled by best fit."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gristmill.core.errors import UserError
from gristmill.tokens.batches import Batch, PackedBatches, ShuffledOrder, documents_in, read_rows
from gristmill.tokens.best_fit import Layout, best_fit
from gristmill.tokens.shards import TokenShards
from gristmill.tokens.stored import stored

AT_ONCE = 1 << 20
"""Documents whose lengths are looked at in one go."""


@dataclass(frozen=True)
class WholeDocuments:
    """Where pieces of documents lie in rows of `context` places.

    A document of n tokens takes n - 1 places, for its last token is only a target. Of one that needs more than a row,
    pieces fill rows of their own and its rest is packed like a short document. Consecutive pieces share a token, so
    that every token but a document's first is predicted once.
    """

    context: int
    long: np.ndarray
    """(long,): numbers of the documents that fill a row or more."""
    ends: np.ndarray
    """(long,) int64: full rows of these and of those before."""
    packed: Layout
    """Rows of the rests and of the short documents, by their documents' numbers."""
    tokens: int
    """Places that hold a token, in all rows."""

    @property
    def full(self) -> int:
        """Rows filled by one piece of a long document; they come first."""
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def rows(self) -> int:
        return self.full + len(self.packed)

    @property
    def padding(self) -> float:
        """Share of the places that hold nothing."""
        return 1 - self.tokens / max(1, self.rows * self.context)

    def spans(self, shards: TokenShards, row: int) -> list[tuple[int, int]]:
        """The stretches of tokens (start, stop) in a row, one behind the other."""
        if row < self.full:
            place = int(np.searchsorted(self.ends, row, side="right"))
            piece = row - (int(self.ends[place - 1]) if place else 0)
            start = int(shards.offsets[self.long[place]]) + piece * self.context
            return [(start, start + self.context + 1)]
        documents = self.packed.row(row - self.full).astype(np.int64)
        starts, stops = shards.offsets[documents], shards.offsets[documents + 1]
        starts = starts + (stops - starts - 1) // self.context * self.context
        return list(zip(starts.tolist(), stops.tolist(), strict=True))


def laid_out(shards: TokenShards, context: int, cache: Path | None = None, about: dict[str, Any] | None = None
             ) -> TokenShards:
    """The same text with a layout of whole documents for rows of `context`, kept in the cache.

    On disk: 4 bytes a document, 8 a row and 12 a long document; to make it, 28 bytes a document in memory and what
    `best_fit` needs for a group of pieces. about: which documents of the shards these are, for the
    cache. Raises UserError where no document has two tokens.
    """
    def make() -> dict[str, np.ndarray]:
        kind = np.uint32 if shards.documents < 1 << 32 else np.int64
        rest = np.empty(shards.documents, dtype=np.int32)
        long, full, tokens = [np.empty(0, dtype=kind)], [np.empty(0, dtype=np.int64)], 0
        for first in range(0, shards.documents, AT_ONCE):
            places = np.maximum(np.diff(shards.offsets[first:first + AT_ONCE + 1]) - 1, 0)
            own = np.flatnonzero(places >= context)
            long.append((first + own).astype(kind))
            full.append(places[own] // context)
            rest[first:first + AT_ONCE] = places % context
            tokens += int(places.sum())
        short = np.flatnonzero(rest).astype(kind)
        packed = best_fit(rest[short], context)
        return {"long": np.concatenate(long), "ends": np.cumsum(np.concatenate(full)), "starts": packed.starts,
                "pieces": short[packed.pieces], "tokens": np.array([tokens])}

    found = stored(cache, "rows", {"tokens": shards.digest, "context": context, "of": about}, make)
    result = copy.copy(shards)
    result.layout = WholeDocuments(context, found["long"], found["ends"], Layout(found["pieces"], found["starts"]),
                                   int(found["tokens"][0]))
    if not result.layout.rows:
        raise UserError("no document has the two tokens that one prediction needs", where=str(shards.folder),
                        fix="use more text")
    return result


class WholeBatches:
    """Training batches of rows of whole documents; every row once an epoch."""

    def __init__(self, shards: TokenShards, *, context: int, batch: int, seed: int) -> None:
        """shards: laid out for this context. Raises UserError where there are fewer rows than a batch has."""
        layout = shards.layout
        if layout.context != context:
            raise ValueError(f"laid out for rows of {layout.context}, asked for rows of {context}")
        if layout.rows < batch:
            raise UserError(f"the text makes {layout.rows} rows of {context} tokens, fewer than the {batch} rows of a "
                            "batch", where=str(shards.folder),
                            fix=f"use more text, a batch of at most {layout.rows}, or a shorter context")
        self.shards, self.layout, self.context, self.batch_size = shards, layout, context, batch
        self.order = ShuffledOrder(layout.rows, batch, seed, None)

    @property
    def steps(self) -> None:
        """There is no last batch."""
        return None

    @property
    def tokens_per_batch(self) -> int:
        return self.batch_size * self.context

    @property
    def epoch_rows(self) -> int:
        """Rows after which each has come once."""
        return self.layout.rows

    def batch(self, step: int) -> Batch:
        """The batch of `step`, a pure function of (seed, step)."""
        return self._read(self.order.at(step))

    def rows(self, places: np.ndarray) -> Batch:
        """The rows at these places of training: batch `step` has the places from step x batch on."""
        return self._read(self.order.rows_at(places))

    def documents(self, place: int) -> list[str]:
        """The documents that the row at this place of training holds, `id (source)` each, in order."""
        row = int(self.order.rows_at(np.array([place]))[0])
        return documents_in(self.shards, self.layout.spans(self.shards, row))

    def _read(self, rows: np.ndarray) -> Batch:
        spans = [self.layout.spans(self.shards, row) for row in rows.tolist()]
        return read_rows(self.shards, spans, len(rows), self.context)

    def state(self, step: int) -> dict[str, int]:
        """Epoch and place before `step`, for the record; to resume, call `batch(step)`."""
        return self.order.state(step)


def text_batches(shards: TokenShards, *, context: int, batch: int, seed: int) -> PackedBatches | WholeBatches:
    """Training batches of text, by its layout: whole documents, or windows over all of them end to end."""
    kind = PackedBatches if shards.layout is None else WholeBatches
    return kind(shards, context=context, batch=batch, seed=seed)
