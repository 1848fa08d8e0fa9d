"""Rows of text for encoders: windows over a stream of documents, and batches of rows whose tokens are hidden.

A source of rows gives row `i` as a pure function of (seed, epoch, i); a batch mixes sources in fixed shares
and in an order that is a pure function of (seed, step). Any step can be made alone, by any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.core.seeds import derive_seed
from gristmill.objectives.cross_entropy import IGNORED
from gristmill.objectives.masking import Masking, Vocabulary, hide
from gristmill.tokenizer import Tokenizer
from gristmill.tokens import TokenShards, permuted
from gristmill.tokens.batches import PADDING
from gristmill.tokens.length_buckets import BucketedOrder

ROUND = 1024
"""Places in which the shares of several sources are kept exactly."""


@dataclass
class Row:
    """The tokens of a row before any are hidden, without padding."""

    ids: np.ndarray
    """(length,) int64."""
    documents: np.ndarray
    """(length,): attention stays within equal numbers."""
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    """Further arrays of a batch by name, each (length,): token_type_ids, langs, positions."""
    label: int | None = None
    """Of a pair of texts: 0 in order, 1 not."""


class RowSource(Protocol):
    """Where rows come from."""

    rows: int
    """Rows of an epoch."""
    label: bool
    """Whether rows are pairs with a label."""

    def row(self, index: int, version: int) -> Row:
        """Row `index` in one of its versions (the epoch, with dynamic masking): a pure function of both."""


@dataclass(frozen=True)
class Frame:
    """The tokens around a text, as the tokenizer's documents have them."""

    start: int | None
    end: int
    pad: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Frame:
        end = tokenizer.document_end_id
        return cls(tokenizer.document_start_id, end, end if tokenizer.pad_id is None else tokenizer.pad_id)

    @property
    def size(self) -> int:
        """How many they are."""
        return 1 if self.start is None else 2

    def around(self, body: np.ndarray) -> np.ndarray:
        """start, body, end; neither is put there twice."""
        before = [] if self.start is None or (len(body) and body[0] == self.start) else [self.start]
        after = [] if len(body) and body[-1] == self.end else [self.end]
        return np.concatenate([np.array(before, dtype=np.int64), body.astype(np.int64),
                               np.array(after, dtype=np.int64)])

    def body(self, document: np.ndarray) -> np.ndarray:
        """A document of the shards without its start and end tokens."""
        return document[self.size - 1:-1]


def first_documents(shards: TokenShards, limit_tokens: int | None) -> int:
    """How many whole documents from the first on fit into `limit_tokens`, at least one."""
    if limit_tokens is None:
        return shards.documents
    return min(shards.documents, max(1, int(np.searchsorted(shards.offsets, limit_tokens, side="right")) - 1))


class TextRows:
    """Rows filled with text across documents (RoBERTa's full sentences, arXiv:1907.11692, section 4.2).

    The documents laid end to end are cut into windows; a row is a window between a start and an end token. Where
    `cross` is false a token sees only its own document and positions begin anew in each; where it is true the row is
    one text.
    """

    label = False

    def __init__(
        self, shards: TokenShards, frame: Frame, context: int, documents: np.ndarray | None = None, *,
        cross: bool = False, language: int | None = None, positions: bool = False,
    ) -> None:
        """documents: numbers of those to read, ascending; default all. language: its number, for `langs`. positions:
        say them, for batches that hold other rows whose positions do not follow from their documents."""
        self.shards, self.frame, self.cross, self.language = shards, frame, cross, language
        self.positions = positions
        self.window = context - frame.size
        if self.window < 1:
            raise UserError(f"a context of {context} has no room for text between the start and end tokens",
                            where="context", fix=f"set at least {frame.size + 1}")
        self.documents = documents
        offsets = shards.offsets
        if documents is None:
            self.ends = offsets[1:]
        else:
            self.ends = np.cumsum(offsets[documents + 1] - offsets[documents])
        self.tokens = int(self.ends[-1]) if len(self.ends) else 0
        self.rows = -(-self.tokens // self.window)

    def row(self, index: int, version: int) -> Row:
        start = index * self.window
        stop = min(start + self.window, self.tokens)
        body, documents = self._read(start, stop)
        ids = self.frame.around(body)
        before = int(self.frame.start is not None and body[0] != self.frame.start)
        numbers = np.pad(documents - documents[0], (before, len(ids) - len(body) - before), mode="edge")
        row = Row(ids, np.zeros_like(numbers) if self.cross else numbers)
        if self.language is not None:
            row.extra["langs"] = np.full(len(ids), self.language)
        if self.positions:
            row.extra["positions"] = positions_in(row.documents)
        return row

    def _read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the stream, and the number of each one's document in it."""
        if self.documents is None:
            return self.shards.slice(start, stop), self.shards.document_index(start, stop)
        first, last = np.searchsorted(self.ends, [start, stop - 1], side="right").tolist()
        parts, numbers = [], []
        for number in range(first, last + 1):
            begin = int(self.ends[number - 1]) if number else 0
            own = self.shards.document(int(self.documents[number]))
            part = own[max(start - begin, 0):stop - begin]
            parts.append(part)
            numbers.append(np.full(len(part), number))
        return np.concatenate(parts), np.concatenate(numbers)


class SourceOrder:
    """Rows of several sources in fixed shares: of every 1,024 places each source has as many as its weight says, at
    least one, and every row of a source comes once before any comes again."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        """sizes: rows of each source, at least one. weights: any positive numbers."""
        self.sizes, self.seed = list(sizes), seed
        shares = np.array(weights, dtype=np.float64) / sum(weights) * ROUND
        counts = np.maximum(np.floor(shares).astype(np.int64), 1)
        while counts.sum() != ROUND:
            step = 1 if counts.sum() < ROUND else -1
            gaps = np.where((step < 0) & (counts == 1), -np.inf, (shares - counts) * step)
            counts[int(gaps.argmax())] += step
        self.counts = counts
        self.ends = np.cumsum(counts)

    def at(self, place: int) -> tuple[int, int, int]:
        """(source, row, epoch of that source) at the `place`-th row of training."""
        if len(self.sizes) == 1:
            source, drawn = 0, place
        else:
            rounds, within = divmod(place, ROUND)
            slot = int(permuted(np.array(within), ROUND, derive_seed(self.seed, "round", rounds)))
            source = int(np.searchsorted(self.ends, slot, side="right"))
            drawn = rounds * int(self.counts[source]) + slot - int(self.ends[source] - self.counts[source])
        epoch, index = divmod(drawn, self.sizes[source])
        order = derive_seed(self.seed, "source", source, "epoch", epoch)
        return source, int(permuted(np.array(index), self.sizes[source], order)), epoch


class MaskedBatches:
    """Training batches of rows with hidden tokens, without an end."""

    def __init__(
        self, sources: Sequence[RowSource], weights: Sequence[float], masking: Masking, vocabulary: Vocabulary,
        frame: Frame, *, context: int, batch: int, seed: int,
    ) -> None:
        self.sources, self.masking, self.vocabulary, self.frame = list(sources), masking, vocabulary, frame
        self.context, self.batch_size, self.seed = context, batch, seed
        self.order = SourceOrder([source.rows for source in sources], weights, seed)

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
        return sum(self.order.sizes)

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of `step`, a pure function of (seed, step)."""
        if step < 0:
            raise IndexError(f"step {step}")
        return self.rows(np.arange(step * self.batch_size, (step + 1) * self.batch_size))

    def rows(self, places: np.ndarray) -> dict[str, Tensor]:
        """The rows at these places of training: batch `step` has the places from step x batch on."""
        return self.assemble([self.order.at(place) for place in places.tolist()], len(places))

    def assemble(self, chosen: Sequence[tuple[int, int, int]], rows: int | None = None) -> dict[str, Tensor]:
        """These (source, row, epoch) as a batch, filled up with rows of padding to `rows`, by default a whole batch."""
        rows = self.batch_size if rows is None else rows
        shape = (rows, self.context)
        arrays: dict[str, np.ndarray] = {
            "input_ids": np.full(shape, self.frame.pad), "targets": np.full(shape, IGNORED),
            "document_ids": np.full(shape, PADDING, dtype=np.int32)}
        labels = np.full(rows, IGNORED)
        for place, (source, index, epoch) in enumerate(chosen):
            version = self.masking.version(epoch)
            row = self.sources[source].row(index, version)
            rng = generator(self.seed, "hide", source, index, version)
            inputs, targets = hide(self.masking, self.vocabulary, row.ids, row.documents, rng)
            length = len(inputs)
            arrays["input_ids"][place, :length], arrays["targets"][place, :length] = inputs, targets
            arrays["document_ids"][place, :length] = row.documents
            for name, values in row.extra.items():
                arrays.setdefault(name, np.zeros(shape, dtype=np.int64))[place, :length] = values
            labels[place] = IGNORED if row.label is None else row.label
        if any(source.label for source in self.sources):
            arrays["next_sentence_label"] = labels
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


class SimilarRows:
    """Training batches of rows of similar length, cut to the longest: as many as fit into the tokens of a batch."""

    def __init__(self, batches: MaskedBatches, lengths: np.ndarray) -> None:
        """batches: of one source. lengths: the most tokens that each of its rows can have, (rows,)."""
        self.batches = batches
        self.order = BucketedOrder(lengths, batches.tokens_per_batch, batches.seed)

    @property
    def tokens_per_batch(self) -> int:
        return self.batches.tokens_per_batch

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of `step`, a pure function of (seed, step); how many rows it has differs."""
        rows, length, epoch = self.order.at(step)
        whole = self.batches.assemble([(0, row, epoch) for row in rows.tolist()], len(rows))
        return {name: tensor[:, :length] if tensor.ndim > 1 else tensor for name, tensor in whole.items()}


class Assembling(Protocol):
    """Batches that are assembled from chosen rows of several sources."""

    batch_size: int

    @property
    def sources(self) -> Sequence[Any]:
        """Each says how many `rows` it has."""

    def assemble(self, chosen: Sequence[tuple[int, int, int]]) -> dict[str, Tensor]:
        """The batch of these (source, row, epoch)."""


class HeldOutRows:
    """Every row of the sources once, in order, always with the same tokens hidden or cut out."""

    total_bytes = None

    def __init__(self, batches: Assembling) -> None:
        self.batches = batches
        self.places = [(number, index, 0) for number, source in enumerate(batches.sources)
                       for index in range(source.rows)]

    def __len__(self) -> int:
        return -(-len(self.places) // self.batches.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        size = self.batches.batch_size
        return (self.batches.assemble(self.places[start:start + size]) for start in range(0, len(self.places), size))


def positions_in(documents: np.ndarray) -> np.ndarray:
    """The place of each token since its document began, (length,)."""
    places = np.arange(len(documents))
    begins = np.ones(len(documents), dtype=bool)
    begins[1:] = documents[1:] != documents[:-1]
    return places - np.maximum.accumulate(np.where(begins, places, 0))


def generator(*parts: int | str) -> np.random.Generator:
    """Random numbers that are a pure function of `parts`."""
    return np.random.Generator(np.random.Philox(key=derive_seed(*parts)))
