"""Counting n-grams with bounded memory: tokens on disk, keys sorted part by part, a part being a range of hashes.

Hashes are evenly spread, so parts are of equal size whatever the text, and their results joined are sorted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gristmill.core.files import disk_errors
from gristmill.data.ngram.tokens import BEGIN, END, UNKNOWN, Windows

PART = 1 << 23
"""N-grams that are sorted at a time, about 64 bytes each."""
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Grams:
    """The different n-grams of one order, by ascending key; arrays that lie on disk.

    keys, contexts (key without its last token), endings (key without its first): (grams,) uint64. raw: (grams,) int64,
    how often each occurs.
    """

    keys: np.ndarray
    contexts: np.ndarray
    endings: np.ndarray
    raw: np.ndarray


class TokenFile:
    """The tokens of the training text on disk: 9 bytes each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = folder / "tokens.bin", folder / "places.bin"
        self.files = [path.open("wb") for path in self.paths]
        self.count = 0

    def add(self, tokens: np.ndarray, places: np.ndarray) -> None:
        """Add rows of tokens, and their places within their rows."""
        with disk_errors(self.paths[0]):
            self.files[0].write(tokens.astype("<u8").tobytes())
            self.files[1].write(np.minimum(places, 255).astype(np.uint8).tobytes())
        self.count += len(tokens)

    def close(self) -> None:
        """No more comes."""
        for file in self.files:
            file.close()

    def arrays(self, mode: str = "r") -> tuple[np.ndarray, np.ndarray]:
        """(tokens, places), memory-mapped."""
        if not self.count:
            return np.empty(0, np.uint64), np.empty(0, np.uint8)
        return (np.memmap(self.paths[0], "<u8", mode), np.memmap(self.paths[1], np.uint8, mode))  # type: ignore

    def replace_rare(self, least: int) -> None:
        """Tokens that occur fewer than `least` times become UNKNOWN."""
        if least <= 1:
            return
        common = [part.keys[part.raw >= least] for part in self._parts(1)]
        known = np.concatenate([np.empty(0, np.uint64), *common])
        tokens, _ = self.arrays("r+")
        for start in range(0, len(tokens), _BLOCK):
            block = np.asarray(tokens[start : start + _BLOCK])
            place = np.minimum(np.searchsorted(known, block), max(len(known) - 1, 0))
            rare = known[place] != block if len(known) else np.ones(len(block), bool)
            tokens[start : start + _BLOCK] = np.where(rare & (block != BEGIN) & (block != END), UNKNOWN, block)
        if isinstance(tokens, np.memmap):
            tokens.flush()

    def grams(self, n: int) -> Grams:
        """The different n-grams of length n, counted."""
        names = ("keys", "contexts", "endings", "raw")
        paths = [self.folder / f"{n}-{name}.bin" for name in names]
        files = [path.open("wb") for path in paths]
        size = 0
        for part in self._parts(n):
            size += len(part.keys)
            for file, name in zip(files, names, strict=True):
                with disk_errors(self.folder):
                    file.write(getattr(part, name).tobytes())
        for file in files:
            file.close()
        kinds = (np.uint64, np.uint64, np.uint64, np.int64)
        return Grams(*(np.memmap(path, kind, "r") if size else np.empty(0, kind)
                       for path, kind in zip(paths, kinds, strict=True)))

    def _parts(self, n: int) -> Iterator[Grams]:
        parts = 1 << max(0, (max(self.count - 1, 0) // PART).bit_length())
        shift = np.uint64(64 - (parts.bit_length() - 1)) if parts > 1 else None
        for part in range(parts):
            yield self._part(n, None if shift is None else (np.uint64(part), shift))

    def _part(self, n: int, chosen: tuple[np.uint64, np.uint64] | None) -> Grams:
        tokens, places = self.arrays()
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for start in range(0, len(tokens), _BLOCK):
            before = min(start, n - 1)
            windows = Windows(np.asarray(tokens[start - before : start + _BLOCK]))
            at = before + np.flatnonzero(places[start : start + _BLOCK] >= n - 1)
            keys = windows.ending(at, n)
            if chosen:
                inside = keys >> chosen[1] == chosen[0]
                at, keys = at[inside], keys[inside]
            empty = np.zeros(len(at), np.uint64)
            contexts = windows.ending(at - 1, n - 1) if n > 1 else empty
            endings = windows.ending(at, n - 1) if n > 1 else empty
            found.append((keys, contexts, endings))
        keys, contexts, endings = (np.concatenate([np.empty(0, np.uint64), *(one[i] for one in found)])
                                   for i in range(3))
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        lead = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1]))) if len(keys) else np.empty(0, np.int64)
        return Grams(keys[lead], contexts[order[lead]], endings[order[lead]],
                     np.diff(np.append(lead, len(keys))).astype(np.int64))
