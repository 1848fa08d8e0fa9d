"""Texts by number, read in batches from where they lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow.parquet as pq

BATCH = 256
"""Documents whose texts are in memory at once."""


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
        """(numbers, texts), `BATCH` rows of a file at a time; files without a wanted document are not opened."""
        for path, start, stop in zip(self.paths, self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True):
            here = None if wanted is None else wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, stop)]
            if start == stop or (here is not None and not len(here)):
                continue
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=BATCH, columns=[self.column]):
                    rows = np.arange(start, start + batch.num_rows)
                    if here is not None:
                        rows = here[np.searchsorted(here, start) : np.searchsorted(here, start + batch.num_rows)]
                    if len(rows):
                        yield rows, batch.column(0).take(rows - start).to_pylist()
                    start += batch.num_rows
