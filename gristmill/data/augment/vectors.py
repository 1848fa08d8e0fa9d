"""Word vectors: reading the text formats of word2vec and GloVe, and each word's nearest neighbours."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gristmill.core.errors import UserError

_BLOCK = 512
"""Words whose similarities to all others are in memory at once."""


def read_vectors(path: Path, wanted: Callable[[str], bool], most: int) -> tuple[list[str], np.ndarray]:
    """The first `most` words of a file for which `wanted` says yes, and their vectors, float32 (words, dim).

    A line is a word and its numbers, parted by spaces; the first line may be word2vec's header of two counts. Also
    .gz. Words whose lines are broken are passed by. UserError for a file without vectors.
    """
    if not path.is_file():
        raise UserError("this file is missing", where=str(path), fix="name a file of word vectors as text")
    words: list[str] = []
    rows: list[np.ndarray] = []
    dim = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file):
                fields = line.rstrip().split(b" ")
                if number == 0 and len(fields) == 2:
                    continue
                dim = dim or len(fields) - 1
                if len(fields) != dim + 1 or dim < 2:
                    continue
                word = fields[0].decode("utf-8", "replace")
                if not wanted(word):
                    continue
                try:
                    row = np.array(fields[1:], dtype=np.float32)
                except ValueError:
                    continue
                if np.isfinite(row).all():
                    words.append(word)
                    rows.append(row)
                if len(words) >= most:
                    break
    except (OSError, EOFError) as error:
        raise UserError(f"this file is damaged ({error})", where=str(path), fix="copy it again") from error
    if not words:
        raise UserError("not one vector of a word of the corpus could be read", where=str(path),
                        fix="a line should be a word and its numbers, parted by spaces, in the language of the corpus")
    return words, np.stack(rows)


def neighbours(words: Sequence[str], vectors: np.ndarray, most: int, least: float) -> dict[str, list[str]]:
    """Each word's nearest words: at most `most`, of at least the cosine similarity `least`, the nearest first.

    vectors: (words, dim). Their mean is taken off first (Mu and Viswanath 2018, "All-but-the-Top"): what all vectors
    share says nothing. Time grows with the square of the number of words.
    """
    centred = vectors - vectors.mean(axis=0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    most = min(most, len(words) - 1)
    found: dict[str, list[str]] = {}
    for begin in range(0, len(words) if most > 0 else 0, _BLOCK):
        similar = centred[begin : begin + _BLOCK] @ centred.T
        similar[np.arange(len(similar)), np.arange(begin, begin + len(similar))] = -2.0
        near = np.argpartition(-similar, most - 1, axis=1)[:, :most]
        for row, columns in enumerate(near):
            ranked = sorted(columns.tolist(), key=lambda column: (-similar[row, column], column))
            kept = [words[column] for column in ranked if similar[row, column] >= least]
            if kept:
                found[words[begin + row]] = kept
    return found
