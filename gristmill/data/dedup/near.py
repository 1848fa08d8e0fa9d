"""Near-duplicates, from fingerprints to the documents that go.

Candidates come from MinHash bands (`candidates.py`); each is verified by the true similarity of the two texts
(`verify.py`); a document goes only for a better one that stays and that it was compared with (`clusters.py`). Rounds of
these three go on until every document that stays was compared with the better ones that stay in its buckets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gristmill.data.dedup.candidates import Buckets
from gristmill.data.dedup.clusters import components, keep_best, reasons
from gristmill.data.dedup.fingerprints import FingerprintFile, Fingerprints
from gristmill.data.dedup.grouping import MEMORY
from gristmill.data.dedup.texts import Texts
from gristmill.data.dedup.verify import ShingleSets


@dataclass(frozen=True, slots=True)
class Near:
    """What near-duplicate search found; documents by number.

    kept_for: (documents,) int64, the document that stays for this one, or -1 if it stays itself or took no part.
    similarity: (documents,) float32, its true Jaccard similarity (or containment) with that one; 0 if it stays.
    cluster: (documents,) int64, the best document of its group of linked near-duplicates; itself if it has none.
    pairs: (pairs, 2) int64, better and worse, all that were verified; similarities: (pairs,) float32.
    refused, refused_similarities: the candidates that turned out to be less similar than the threshold.
    examined: pairs that shared a bucket. rounds: rounds of comparisons.
    """

    kept_for: np.ndarray
    similarity: np.ndarray
    cluster: np.ndarray
    pairs: np.ndarray
    similarities: np.ndarray
    refused: np.ndarray
    refused_similarities: np.ndarray
    examined: int
    rounds: int

    @property
    def gone(self) -> np.ndarray:
        """Numbers of the documents that go, ascending."""
        return np.flatnonzero(self.kept_for >= 0)


def near_duplicates(
    parts: Sequence[Fingerprints | FingerprintFile], texts: Texts, order: np.ndarray, threshold: float, *,
    containment: float | None = None, folder: Path | None = None, memory: int = MEMORY,
    advance: Callable[[int], None] | None = None,
) -> Near:
    """Which documents are near-duplicates of which better ones.

    parts: the fingerprints of each file, in the order of the documents' numbers, made for this threshold. texts: the
    same documents. order: numbers of the documents that take part, the best first: of documents that are alike the
    first stays. threshold: least Jaccard similarity of word 5-grams. containment: if set, a document also goes if at
    least this share of its 5-grams is in the one that stays; such pairs are only met as often as their Jaccard
    similarity lets them share a bucket. folder: where temporary files lie. memory: bytes that grouping may use.
    advance: is called with the number of pairs after each comparison.
    """
    order = np.asarray(order, np.int64)
    place = np.full(len(texts), -1, np.int64)
    place[order] = np.arange(len(order))
    # A pair that qualifies by containment alone may be of any Jaccard similarity, so sketches cannot rule it out.
    buckets = Buckets(parts, place, threshold if containment is None else None, memory=memory)
    found, values, refused, refused_values = [_PAIRS], [_VALUES], [_PAIRS], [_VALUES]
    stays, rounds = np.ones(len(order), bool), 0
    with ShingleSets(texts, folder) as sets:
        while True:
            before = buckets.examined
            pairs = buckets.pairs(stays)
            if rounds and buckets.examined == before:
                break
            rounds += 1
            jaccard, contained = sets.compare(order[pairs])
            similar = jaccard >= threshold
            if containment is not None:
                jaccard = np.where(similar, jaccard, contained)
                similar |= contained >= containment
            found.append(pairs[similar])
            values.append(jaccard[similar].astype(np.float32))
            refused.append(pairs[~similar])
            refused_values.append(jaccard[~similar].astype(np.float32))
            stays = keep_best(len(order), *np.concatenate(found).T)
            if advance:
                advance(len(pairs))
    pairs, similarities = np.concatenate(found), np.concatenate(values)
    kept_for, similarity = np.full(len(texts), -1, np.int64), np.zeros(len(texts), np.float32)
    gone, kept, value = reasons(stays, pairs[:, 0], pairs[:, 1], similarities)
    kept_for[order[gone]], similarity[order[gone]] = order[kept], value
    cluster = np.arange(len(texts))
    cluster[order] = order[components(len(order), pairs)]
    return Near(
        kept_for, similarity, cluster, order[pairs], similarities, order[np.concatenate(refused)],
        np.concatenate(refused_values), buckets.examined, rounds,
    )


_PAIRS = np.empty((0, 2), np.int64)
_VALUES = np.empty(0, np.float32)
