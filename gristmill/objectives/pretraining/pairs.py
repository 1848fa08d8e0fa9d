"""Rows that are pairs of texts: does the second follow the first? Cut from the real documents of the shards."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gristmill.core.errors import UserError
from gristmill.objectives.masking import Vocabulary
from gristmill.objectives.pretraining.rows import Frame, Row, generator
from gristmill.tokens import TokenShards

Negatives = Literal["another_document", "swapped"]
IN_ORDER, NOT_IN_ORDER = 0, 1


class PairRows:
    """start A end B end, with segment 0 for A and 1 for B.

    A document is cut into pieces that fit a row, a piece into A and B where a sentence or line ends in it. In half of
    the rows B is something else: the beginning of a sentence of another document, as long as the true one
    (`another_document`, Devlin et al. 2019), or A and B change places (`swapped`, Lan et al. 2020).
    """

    label = True

    def __init__(
        self, shards: TokenShards, frame: Frame, vocabulary: Vocabulary, context: int, documents: int, seed: int, *,
        negatives: Negatives, short: float,
    ) -> None:
        """documents: the first so many are used. short: share of the pieces that are cut to a random length, so that
        the model sees short texts too."""
        self.shards, self.frame, self.vocabulary, self.seed = shards, frame, vocabulary, seed
        self.negatives, self.short = negatives, short
        self.room = context - 3
        lengths = np.diff(shards.offsets[:documents + 1]) - frame.size
        usable = lengths >= 2
        self.documents = np.flatnonzero(usable)
        if self.room < 2 or not usable.any():
            raise UserError(
                f"no pair of texts fits a context of {context} tokens" if self.room < 2
                else "no document has the two tokens that a pair needs", where="objective",
                fix="use longer texts and rows")
        if negatives == "another_document" and len(self.documents) < 2:
            raise UserError("there is one document only, so no other to take a second text from",
                            where=str(shards.folder), fix="use more documents, or `negatives: swapped`")
        self.pieces = -(-lengths[usable] // self.room)
        self.ends = np.cumsum(self.pieces)
        self.rows = int(self.ends[-1])

    def lengths(self) -> np.ndarray:
        """The most tokens that each row can have, (rows,)."""
        bodies = np.repeat(np.diff(self.shards.offsets)[self.documents] - self.frame.size, self.pieces)
        pieces = np.repeat(self.pieces, self.pieces)
        part = np.arange(self.rows) - np.repeat(self.ends - self.pieces, self.pieces)
        return (part + 1) * bodies // pieces - part * bodies // pieces + self.frame.size + 1

    def row(self, index: int, version: int) -> Row:
        rng = generator(self.seed, "pair", index, version)
        number = int(np.searchsorted(self.ends, index, side="right"))
        part = index - int(self.ends[number] - self.pieces[number])
        body = self._body(number)
        cuts = [part * len(body) // int(self.pieces[number]), (part + 1) * len(body) // int(self.pieces[number])]
        piece = body[cuts[0]:cuts[1]]
        if rng.random() < self.short:
            piece = piece[:int(rng.integers(2, len(piece) + 1))]
        cut = int(rng.choice(self._borders(piece)))
        first, second = piece[:cut], piece[cut:]
        label = NOT_IN_ORDER if rng.random() < 0.5 else IN_ORDER
        if label == NOT_IN_ORDER and self.negatives == "swapped":
            first, second = second, first
        elif label == NOT_IN_ORDER:
            second = self._elsewhere(number, len(second), rng)
        return self._framed(first, second, label)

    def _framed(self, first: np.ndarray, second: np.ndarray, label: int) -> Row:
        before = [] if self.frame.start is None else [self.frame.start]
        ids = np.concatenate([before, first, [self.frame.end], second, [self.frame.end]]).astype(np.int64)
        segments = np.zeros(len(ids), dtype=np.int64)
        segments[len(before) + len(first) + 1:] = 1
        return Row(ids, np.zeros(len(ids), dtype=np.int64), {"token_type_ids": segments}, label)

    def _body(self, number: int) -> np.ndarray:
        return self.frame.body(self.shards.document(int(self.documents[number])))

    def _borders(self, piece: np.ndarray) -> np.ndarray:
        """Where a piece may be cut: after a sentence, else before a word, else anywhere; never at its ends."""
        for borders in (np.flatnonzero(self.vocabulary.ends_sentence[piece[:-1]]) + 1,
                        np.flatnonzero(self.vocabulary.word_starts(piece)[1:]) + 1):
            if len(borders):
                return borders
        return np.arange(1, len(piece))

    def _elsewhere(self, number: int, length: int, rng: np.random.Generator) -> np.ndarray:
        """At most `length` tokens of another document, from the beginning of a sentence."""
        other = int(rng.integers(len(self.documents) - 1))
        body = self._body(other + (other >= number))
        latest = max(len(body) - length, 0)
        starts = np.concatenate([[0], self._borders(body)])
        return body[int(rng.choice(starts[starts <= latest])):][:length]
