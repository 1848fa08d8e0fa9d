"""Rows for encoder-decoders: pieces of documents side by side, each with its spans cut out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.objectives.cross_entropy import IGNORED
from gristmill.objectives.pretraining.rows import Frame, SourceOrder, first_documents, generator
from gristmill.objectives.span_corruption import Denoiser, cut_out, noise_mask
from gristmill.tokenizer import Tokenizer
from gristmill.tokens import TokenShards
from gristmill.tokens.batches import PADDING

SHORTEST = 16
"""A document is cut at the end of a row only where at least so many of its tokens still fit; otherwise it begins the
next row."""
LEAST = 4
"""A row must have room for a piece of this many tokens."""


@dataclass(frozen=True)
class Specials:
    """Ids of the tokens around and inside the texts."""

    sentinels: tuple[int, ...]
    end: int
    pad: int
    """Fills rows, and begins every written text, as in T5."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Specials:
        """UserError for a tokenizer without sentinels or without a padding token."""
        if not tokenizer.sentinel_ids:
            raise UserError("this tokenizer has no sentinel tokens <extra_id_0>, <extra_id_1>, ...", where="tokenizer",
                            fix="set `sentinels: 100` in the tokenizer stage")
        if tokenizer.pad_id is None:
            raise UserError("this tokenizer has no padding token, with which written texts begin", where="tokenizer",
                            fix="name one as pad_token in its tokenizer_config.json")
        return cls(tuple(tokenizer.sentinel_ids), tokenizer.document_end_id, tokenizer.pad_id)


class Lengths:
    """What fits where: the longest pieces of text for so much room on either side."""

    def __init__(self, denoiser: Denoiser, context: int, sentinels: int, mode: bool) -> None:
        """sentinels: how many there are; a piece never has more spans. mode: a token says which denoiser it is."""
        lengths = np.arange(2, 2 * LEAST + int((context + 2) / (1 - denoiser.density)) + 2)
        read, written = denoiser.sizes(lengths)
        read = read + mode
        self.natural = int(written[max(int(np.searchsorted(read, context, side="right")) - 1, 0)])
        """Tokens that are written where one long text fills all that is read: 114 for T5's 512."""
        allowed = int(np.searchsorted(denoiser.counts(lengths)[1], sentinels, side="right"))
        self.read, self.written = read[:allowed], written[:allowed]

    def longest(self, read: int, written: int) -> int:
        """Longest piece for so many free places on either side; below 2 for none."""
        return 1 + int(min(np.searchsorted(self.read, read, side="right"),
                           np.searchsorted(self.written, written, side="right")))

    def sizes(self, length: int) -> tuple[int, int]:
        """Places that a piece takes on either side."""
        return int(self.read[length - 2]), int(self.written[length - 2])


def lay_out(documents: np.ndarray, lengths: Lengths, context: int, targets: int) -> tuple[np.ndarray, np.ndarray]:
    """Pieces (pieces, 3) of document, start and stop, in the order of the text, and the first piece of each row.

    documents: tokens of each. A row takes pieces until either side is full; a document is cut where its row ends. A
    document of a single token has nothing that could be cut out of it and is left out.
    """
    pieces: list[tuple[int, int, int]] = []
    starts: list[int] = []
    free = (0, 0)
    fresh = lengths.longest(context, targets)
    for document, total in enumerate(documents.tolist()):
        at = 0
        while total - at >= 2:
            left = total - at
            size = min(left, lengths.longest(*free))
            size -= left - size == 1  # nobody could use the last token alone
            if size < min(left, SHORTEST, fresh - 1):
                starts.append(len(pieces))
                free = (context, targets)
                continue
            used = lengths.sizes(size)
            free = (free[0] - used[0], free[1] - used[1])
            pieces.append((document, at, at + size))
            at += size
    return np.array(pieces, dtype=np.int64).reshape(-1, 3), np.array(starts, dtype=np.int64)


class CorruptedRows:
    """Rows of one denoiser over the first documents of some shards."""

    def __init__(self, shards: TokenShards, frame: Frame, denoiser: Denoiser, specials: Specials, mode: int | None, *,
                 context: int, targets: int, documents: int) -> None:
        """mode: the token that begins every read text, if any. context, targets: places on either side."""
        self.shards, self.frame, self.denoiser, self.specials, self.mode = shards, frame, denoiser, specials, mode
        lengths = Lengths(denoiser, context, len(specials.sentinels), mode is not None)
        if lengths.longest(context, targets) < LEAST:
            raise UserError(f"rows of {context} tokens to read and {targets} to write have no room for text",
                            where="context", fix="make them longer, or cut out less")
        sizes = np.diff(shards.offsets[:documents + 1]) - frame.size
        self.pieces, self.starts = lay_out(sizes, lengths, context, targets)
        self.rows = len(self.starts)

    def row(self, index: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        """What is read and what is written of each piece of a row, end tokens included."""
        stop = self.starts[index + 1] if index + 1 < self.rows else len(self.pieces)
        made = []
        for document, begin, end in self.pieces[self.starts[index]:stop].tolist():
            body = self.frame.body(self.shards.document(document))[begin:end]
            read, written = cut_out(body, noise_mask(len(body), self.denoiser, rng), self.specials.sentinels)
            before = [] if self.mode is None else [self.mode]
            made.append((np.concatenate([before, read, [self.specials.end]]).astype(np.int64),
                         np.append(written, self.specials.end)))
        return made


class CorruptedBatches:
    """Training batches without an end: rows of the denoisers in their shares, spans drawn anew in every epoch."""

    def __init__(self, sources: Sequence[CorruptedRows], specials: Specials, *, context: int, targets: int, batch: int,
                 seed: int) -> None:
        self.sources, self.specials, self.seed = list(sources), specials, seed
        self.context, self.targets, self.batch_size = context, targets, batch
        if not all(source.rows for source in self.sources):
            raise UserError("the text has no document of two tokens or more", where="corpus", fix="use more text")
        self.order = SourceOrder([source.rows for source in self.sources],
                             [source.denoiser.share for source in self.sources], seed)

    @property
    def steps(self) -> None:
        """There is no last batch."""
        return None

    @property
    def tokens_per_batch(self) -> int:
        """Places of the encoder; what is written comes on top."""
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
        read, written = (rows, self.context), (rows, self.targets)
        inputs, given = np.full(read, self.specials.pad), np.full(written, self.specials.pad)
        targets = np.full(written, IGNORED)
        of_inputs, of_targets = np.full(read, PADDING, dtype=np.int32), np.full(written, PADDING, dtype=np.int32)
        for place, (source, index, epoch) in enumerate(chosen):
            rng = generator(self.seed, "spans", source, index, epoch)
            at = to = 0
            for number, (text, answer) in enumerate(self.sources[source].row(index, rng)):
                upto, end = at + len(text), to + len(answer)
                inputs[place, at:upto], of_inputs[place, at:upto] = text, number
                given[place, to + 1:end], targets[place, to:end] = answer[:-1], answer
                of_targets[place, to:end] = number
                at, to = upto, end
        arrays = {"input_ids": inputs, "document_ids": of_inputs, "decoder_input_ids": given,
                  "decoder_document_ids": of_targets, "targets": targets}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def corrupted(
    denoisers: Sequence[Denoiser], shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, seed: int,
    targets: int | None = None, modes: bool = False, limit_tokens: int | None = None,
) -> CorruptedBatches:
    """Batches of these denoisers over the first whole documents that fit into `limit_tokens`, by default all.

    targets: places to write on; default as many as the most talkative of them needs.
    """
    specials = Specials.of(tokenizer)
    targets = targets or max(Lengths(one, context, len(specials.sentinels), modes).natural for one in denoisers)
    sources = [CorruptedRows(shards, Frame.of(tokenizer), one, specials,
                             tokenizer.token_id(one.mode) if modes else None, context=context, targets=targets,
                             documents=first_documents(shards, limit_tokens)) for one in denoisers]
    return CorruptedBatches(sources, specials, context=context, targets=targets, batch=batch, seed=seed)
