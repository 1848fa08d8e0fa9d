"""Texts by number, read in batches from where they lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow.parquet as pq

BATCH = 256
"""Documents whose texts are in memory at once."""


CHARACTERS = 1 << 20
"""Characters that are worked on at once, or one text if it is longer: arrays take some 50 bytes a word."""


def slices(texts: Sequence[str]) -> Iterator[slice]:
    """Stretches of at most `BATCH` texts and `CHARACTERS` characters (or one text)."""
    start = size = 0
    for number, text in enumerate(texts):
        if number > start and (size + len(text) > CHARACTERS or number - start == BATCH):
            yield slice(start, number)
            start, size = number, 0
        size += len(text)
    if texts:
        yield slice(start, len(texts))


class Texts(Protocol):
    """Documents numbered 0, 1, ... whose texts can be read again."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def read(self, wanted: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, list[str]]]:
        """(numbers, texts) of the documents of `wanted` (ascending numbers; None: all), a batch at a time."""
        ...


class ListedTexts:
    """Texts that are in memory."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def read(self, wanted: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, list[str]]]:
        """(numbers, texts), `BATCH` at a time."""
        chosen = np.arange(len(self)) if wanted is None else wanted
        for start in range(0, len(chosen), BATCH):
            numbers = chosen[start : start + BATCH]
            yield numbers, [self.texts[number] for number in numbers.tolist()]


class ParquetTexts:
    """The text column of Parquet files, one file after the other."""

    def __init__(self, paths: Sequence[Path], column: str = "text") -> None:
        self.paths, self.column = list(paths), column
        counts = [pq.read_metadata(path).num_rows for path in self.paths]
        self.starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, wanted: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, list[str]]]:
        """(numbers, texts), at most `BATCH` rows and some MB at a time; files without a wanted one are not opened."""
        for path, start, stop in zip(self.paths, self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True):
            here = None if wanted is None else wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, stop)]
            if start == stop or (here is not None and not len(here)):
                continue
            with pq.ParquetFile(path) as file:
                size = sum(file.metadata.row_group(n).total_byte_size for n in range(file.metadata.num_row_groups))
                rows_at_once = max(1, min(BATCH, 4 * CHARACTERS * (stop - start) // max(1, size)))
                for batch in file.iter_batches(batch_size=rows_at_once, columns=[self.column]):
                    rows = np.arange(start, start + batch.num_rows)
                    if here is not None:
                        rows = here[np.searchsorted(here, start) : np.searchsorted(here, start + batch.num_rows)]
                    if len(rows):
                        yield rows, batch.column(0).take(rows - start).to_pylist()
                    start += batch.num_rows
