"""Some documents of token shards, read as if they were all: the components of a mixture."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from gristmill.tokens.best_fit import stable_order
from gristmill.tokens.shards import TokenShards
from gristmill.tokens.stored import stored


class Selection(TokenShards):
    """Documents of token shards laid end to end in their order, the others left out; nothing is copied."""

    def __init__(self, whole: TokenShards, chosen: np.ndarray, offsets: np.ndarray) -> None:
        """chosen: (documents,) numbers of documents, ascending. offsets: (documents + 1,) where each begins when they
        are laid end to end, and the end."""
        self.whole, self.chosen, self.offsets = whole, chosen, offsets
        self.folder, self.manifest, self.dtype = whole.folder, whole.manifest, whole.dtype
        self.vocab_size, self.documents, self.total_tokens = whole.vocab_size, len(chosen), int(offsets[-1])
        self.layout = None

    @property
    def document_bytes(self) -> np.ndarray:  # type: ignore[override]
        return self.whole.document_bytes[self.chosen]

    @property
    def total_bytes(self) -> int:  # type: ignore[override]
        return int(self.document_bytes.sum())

    def document_id(self, i: int) -> str:
        return self.whole.document_id(int(self.chosen[i]))

    def label_names(self, label: str) -> list[str]:
        return self.whole.label_names(label)

    def labels(self, label: str) -> np.ndarray:
        return self.whole.labels(label)[self.chosen]

    @property
    def document_pairs(self) -> np.ndarray:
        return self.whole.document_pairs[self.chosen]

    def slice(self, start: int, stop: int) -> np.ndarray:
        """Token ids (stop - start,) at these positions of the chosen documents laid end to end."""
        if not 0 <= start <= stop <= self.total_tokens:
            raise IndexError(f"tokens {start}:{stop} of {self.total_tokens}")
        if start == stop:
            return np.empty(0, dtype=self.dtype)
        first, last = (np.searchsorted(self.offsets, [start, stop - 1], side="right") - 1).tolist()
        own = np.asarray(self.chosen[first:last + 1], dtype=np.int64)
        # Documents that follow each other in the shards too are read at once.
        ends = [*(np.flatnonzero(np.diff(own) != 1) + 1).tolist(), len(own)]
        parts, begin = [], 0
        for end in ends:
            low, high = int(self.whole.offsets[own[begin]]), int(self.whole.offsets[own[end - 1] + 1])
            low += start - int(self.offsets[first]) if begin == 0 else 0
            high -= int(self.offsets[last + 1]) - stop if end == len(own) else 0
            parts.append(self.whole.slice(low, high))
            begin = end
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def grouped(shards: TokenShards, groups: np.ndarray, count: int, cache: Path | None = None,
            about: dict[str, object] | None = None) -> list[Selection]:
    """The documents of each of `count` groups. groups: (documents,) the group of each, -1 for none.

    12 bytes a document are kept in the cache, or in memory without one, and 40 are needed to make them. about: what the
    groups follow from besides the shards, for the cache.
    """
    def make() -> dict[str, np.ndarray]:
        order = stable_order(np.where(groups < 0, count, groups))
        sizes = np.bincount(groups[groups >= 0], minlength=count)
        order = order[:int(sizes.sum())]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        lengths = np.diff(shards.offsets)[order]
        offsets = np.concatenate([[0], *(np.concatenate([np.cumsum(part), [0]])
                                         for part in np.split(lengths, starts[1:-1]))])[:-1]
        return {"chosen": order.astype(np.uint32 if shards.documents < 1 << 32 else np.int64),
                "offsets": offsets.astype(np.int64), "starts": starts.astype(np.int64)}

    found = stored(cache if about else None, "groups", {"tokens": shards.digest, "groups": about}, make)
    borders = found["starts"].tolist()
    return [Selection(shards, found["chosen"][first:last], found["offsets"][first + number:last + number + 1])
            for number, (first, last) in enumerate(itertools.pairwise(borders))]
