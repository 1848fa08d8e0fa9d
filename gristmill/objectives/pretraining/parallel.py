"""Rows of parallel text: translations beside each other (XLM, arXiv:1901.07291, section 3.4); languages by weight."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gristmill.core.errors import UserError
from gristmill.objectives.pretraining.rows import Frame, Row, TextRows, generator
from gristmill.tokens import TokenShards
from gristmill.tokens.shards import FIX


class ParallelRows:
    """Whole pairs, as many as fit one after another into a row; which of the two comes first is drawn anew each time.

    A pair is one document to attention: each text sees the other. Positions begin anew in each text. Where a
    pair is too long for a row, its texts lose their ends, the longer one first.
    """

    label = False

    def __init__(
        self, shards: TokenShards, frame: Frame, context: int, pairs: np.ndarray, seed: int,
        languages: Sequence[int | None],
    ) -> None:
        """pairs (pairs, 2): numbers of documents. languages: the model's number of each of the shards' languages."""
        self.shards, self.frame, self.pairs, self.seed, self.languages = shards, frame, pairs, seed, languages
        lengths = np.diff(shards.offsets)[pairs]
        rows, shorter = np.arange(len(pairs)), lengths.argmin(axis=1)
        self.limits = np.empty_like(lengths)
        """Most tokens of each text: together they fit a row."""
        self.limits[rows, shorter] = np.minimum(lengths[rows, shorter], context // 2)
        self.limits[rows, 1 - shorter] = np.minimum(
            lengths[rows, 1 - shorter], context - self.limits[rows, shorter])
        self.starts = filled(self.limits.sum(axis=1), context)
        self.rows = len(self.starts)

    def row(self, index: int, version: int) -> Row:
        rng = generator(self.seed, "sides", index, version)
        last = len(self.pairs) if index + 1 == self.rows else int(self.starts[index + 1])
        ids, documents, langs, positions = [], [], [], []
        for place, number in enumerate(range(int(self.starts[index]), last)):
            for side in (0, 1) if rng.random() < 0.5 else (1, 0):
                document = int(self.pairs[number, side])
                tokens = self._shortened(self.shards.document(document), int(self.limits[number, side]))
                ids.append(tokens)
                documents.append(np.full(len(tokens), place))
                positions.append(np.arange(len(tokens)))
                langs.append(np.full(len(tokens), self.languages[int(self.shards.document_languages[document])] or 0))
        row = Row(np.concatenate(ids), np.concatenate(documents), {"positions": np.concatenate(positions)})
        if self.languages[0] is not None:
            row.extra["langs"] = np.concatenate(langs)
        return row

    def _shortened(self, document: np.ndarray, limit: int) -> np.ndarray:
        """A document with its end token in the last of `limit` places."""
        kept = document[:limit].astype(np.int64)
        if limit < len(document):
            kept[-1] = self.frame.end
        return kept


def filled(sizes: np.ndarray, room: int) -> np.ndarray:
    """The first item of each row when items of these sizes are laid into rows of `room`, one after another."""
    starts, left = [], 0
    for number, size in enumerate(sizes.tolist()):
        if size > left:
            starts.append(number)
            left = room
        left -= size
    return np.array(starts, dtype=np.int64)


def translations(shards: TokenShards, documents: int) -> dict[tuple[int, int], np.ndarray]:
    """Pairs of languages -> the pairs of documents, (pairs, 2), that say the same in these two, the first so many
    documents only. A text that a language has twice is left out: nothing says which of them is meant."""
    numbers, languages = shards.document_pairs[:documents], shards.document_languages[:documents]
    named = np.flatnonzero(numbers >= 0)
    order = named[np.argsort(numbers[named], kind="stable")]
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    borders = np.flatnonzero(np.diff(numbers[order])) + 1
    for group in np.split(order, borders):
        for first, second in itertools.combinations(group[np.argsort(languages[group], kind="stable")].tolist(), 2):
            here = languages[group].tolist()
            if here.count(languages[first]) == 1 and here.count(languages[second]) == 1:
                found.setdefault((int(languages[first]), int(languages[second])), []).append((first, second))
    return {key: np.array(sorted(pairs)) for key, pairs in sorted(found.items())}


@dataclass(frozen=True)
class Languages:
    """The languages of the shards, and what the model calls them."""

    names: list[str]
    numbers: list[int | None]
    """The model's number of each; None where it has no language embeddings."""

    @classmethod
    def of(cls, shards: TokenShards, named: Sequence[str]) -> Languages:
        """named: the model's languages in its order, or none. UserError where a language of the text is not one."""
        if not shards.languages:
            raise UserError("these token shards do not say in which language a document is", where=str(shards.folder),
                            fix=FIX)
        unknown = [name for name in shards.languages if named and name not in named]
        if unknown:
            raise UserError(f"the text is in {', '.join(unknown)}, and the model knows {', '.join(named)}",
                            where="objective.languages",
                            fix="name all languages of the corpus in `objective: {languages: [...]}` and in the model")
        numbers = [named.index(name) if named else None for name in shards.languages]
        return cls(list(shards.languages), numbers)


def tempered(sizes: Sequence[int], alpha: float) -> list[float]:
    """Weights in proportion to size ** alpha: 1 as the text is, 0 all the same (XLM, section 3.1; XLM-R has 0.3)."""
    return [float(size) ** alpha for size in sizes]


def by_language(
    shards: TokenShards, frame: Frame, context: int, documents: int, languages: Languages, *, cross: bool = False,
    positions: bool = False,
) -> dict[str, TextRows]:
    """Rows of each language's own text, for the languages that have any."""
    own = shards.document_languages[:documents]
    found = {}
    for number, name in enumerate(languages.names):
        chosen = np.flatnonzero(own == number)
        if len(chosen):
            found[name] = TextRows(shards, frame, context, chosen, cross=cross, language=languages.numbers[number],
                                   positions=positions)
    return found
