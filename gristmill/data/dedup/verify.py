"""The truth about candidates: shingle sets of the documents that have one, on disk, compared pair by pair.

Disk: 8 bytes a shingle of those documents, which is about as much as their texts. Memory: 12 bytes a document.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np

from gristmill.core.files import disk_errors
from gristmill.data.dedup.shingles import overlap, shingle_sets
from gristmill.data.dedup.texts import Texts, slices


class ShingleSets:
    """The shingle sets of documents that were asked for, in a file that goes when this closes."""

    def __init__(self, texts: Texts, folder: Path | None = None) -> None:
        """folder: where the file lies; None: where temporary files do."""
        self.texts = texts
        self._begins = np.full(len(texts), -1, np.int64)
        self._sizes = np.zeros(len(texts), np.uint32)
        self._folder = folder or Path(tempfile.gettempdir())
        self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        self._stored = 0
        self._values = np.empty(0, np.uint64)

    def __enter__(self) -> ShingleSets:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del self._values
        self._file.close()

    def add(self, numbers: np.ndarray) -> None:
        """Read the texts of these documents, unless that was done, and keep their sets."""
        with disk_errors(self._folder):
            for batch, texts in self.texts.read(numbers[self._begins[numbers] < 0]):
                for part in slices(texts):
                    values, offsets = shingle_sets(texts[part])
                    self._begins[batch[part]] = offsets[:-1] + self._stored
                    self._sizes[batch[part]] = np.diff(offsets)
                    self._file.write(values.data)
                    self._stored += len(values)
            self._file.flush()
        if self._stored:
            self._values = np.memmap(self._file, np.uint64, "r", shape=(self._stored,))  # type: ignore[call-overload]

    def __getitem__(self, number: int) -> np.ndarray:
        begin = int(self._begins[number])
        return np.asarray(self._values[begin : begin + int(self._sizes[number])])

    def compare(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Jaccard similarity, and containment of the second in the first, of pairs of documents (pairs, 2)."""
        self.add(np.unique(pairs))
        shared = np.zeros(len(pairs), np.int64)
        last, own = -1, np.empty(0, np.uint64)
        for place, (first, second) in enumerate(pairs.tolist()):
            if first != last:
                last, own = first, self[first]
            shared[place] = overlap(own, self[second])
        sizes = self._sizes[pairs].astype(np.int64)
        union = sizes.sum(axis=1) - shared
        return shared / np.maximum(union, 1), shared / np.maximum(sizes[:, 1], 1)
