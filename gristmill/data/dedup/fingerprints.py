"""What near-duplicate search needs to know of each document, and its file.

A document takes 8 bytes a band and `PERMUTATIONS` bytes of sketch: 272 bytes at threshold 0.8 (18 bands). They lie in a
file a unit and are mapped, not loaded; band by band, so that a search for equal numbers reads one stretch a file.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gristmill.core.errors import UserError
from gristmill.core.files import write_atomic
from gristmill.data.dedup.minhash import PERMUTATIONS, band_hashes, banding, signatures, sketches
from gristmill.data.dedup.texts import slices
from gristmill.data.dedup.words import Words, split_words


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """bands: (bands, documents) uint64; sketches: (documents, PERMUTATIONS) uint8."""

    bands: np.ndarray
    sketches: np.ndarray

    def __len__(self) -> int:
        return len(self.sketches)

    def save(self, path: Path) -> None:
        """Write both arrays into one file, atomically."""
        sink = io.BytesIO()
        for array in (self.bands, self.sketches):
            np.lib.format.write_array(sink, array, version=(1, 0), allow_pickle=False)
        write_atomic(path, sink.getvalue())

    @classmethod
    def load(cls, path: Path) -> FingerprintFile:
        """What `save` wrote, mapped when it is asked for; raises UserError if the file is not one of those."""
        arrays: list[tuple[tuple[int, ...], int]] = []
        try:
            with path.open("rb") as file:
                for kind in (np.uint64, np.uint8):
                    if np.lib.format.read_magic(file) != (1, 0):
                        raise ValueError("another version")
                    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
                    if len(shape) != 2 or dtype != kind or fortran:
                        raise ValueError(f"{dtype} {shape}")
                    arrays.append((shape, file.tell()))
                    file.seek(int(np.prod(shape)) * dtype.itemsize, 1)
                if file.tell() != path.stat().st_size or arrays[0][0][1] != arrays[1][0][0]:
                    raise ValueError("another size")
        except (OSError, ValueError) as error:
            fix = "delete the file and run the stage again"
            raise UserError(f"these are no fingerprints ({error})", where=str(path), fix=fix) from error
        return FingerprintFile(path, *arrays)


@dataclass(frozen=True, slots=True)
class FingerprintFile:
    """Fingerprints that lie in a file: the shape and the place of each array. No file stays open in between."""

    path: Path
    _bands: tuple[tuple[int, ...], int]
    _sketches: tuple[tuple[int, ...], int]

    def __len__(self) -> int:
        return self._sketches[0][0]

    @property
    def bands(self) -> np.ndarray:
        """(bands, documents) uint64."""
        return self._map(np.uint64, *self._bands)

    @property
    def sketches(self) -> np.ndarray:
        """(documents, PERMUTATIONS) uint8."""
        return self._map(np.uint8, *self._sketches)

    def _map(self, kind: type, shape: tuple[int, ...], offset: int) -> np.ndarray:
        return np.memmap(self.path, kind, "r", offset, shape) if np.prod(shape) else np.empty(shape, kind)


def fingerprints(texts: Sequence[str], threshold: float) -> Fingerprints:
    """The fingerprints of some texts for a search at this threshold."""
    return joined([fingerprints_of_words(split_words(texts[part]), threshold) for part in slices(texts)], threshold)


def fingerprints_of_words(words: Words, threshold: float) -> Fingerprints:
    """The fingerprints of texts that are split into words already; memory: 50 bytes a word, all at once."""
    bands, rows = banding(threshold)
    minima = signatures(words)
    return Fingerprints(band_hashes(minima, bands, rows), sketches(minima))


def joined(parts: Sequence[Fingerprints], threshold: float) -> Fingerprints:
    """Fingerprints for this threshold, one after the other; of no text, if there are none."""
    bands, _ = banding(threshold)
    return Fingerprints(
        np.concatenate([np.empty((bands, 0), np.uint64), *(part.bands for part in parts)], axis=1),
        np.concatenate([np.empty((0, PERMUTATIONS), np.uint8), *(part.sketches for part in parts)]))
