"""From verified pairs to clusters, and to the documents that go.

A document goes only if it was itself compared with a document that stays and found as similar as the threshold asks:
two documents that merely share a neighbour (A ~ B ~ C) both stay. Clusters are for splits: they join A, B and C.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """Two documents (by number) and their true Jaccard similarity."""

    first: int
    second: int
    similarity: float


@dataclass(frozen=True)
class Removal:
    """A document that goes, the one that stays for it, and how similar they are."""

    document: int
    kept: int
    similarity: float


def connected(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `count` items, the smallest member of its connected component."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for a, b in pairs:
        a, b = root(a), root(b)
        if a != b:
            parent[max(a, b)] = min(a, b)
    return [root(item) for item in range(count)]


def removals(order: Sequence[int], pairs: Iterable[Pair]) -> list[Removal]:
    """Go through the documents from the best to the worst; one goes if it is similar to one that already stays.

    order: document numbers, the best first. pairs: verified pairs at or above the threshold.
    """
    neighbours: dict[int, list[tuple[int, float]]] = {}
    for pair in pairs:
        neighbours.setdefault(pair.first, []).append((pair.second, pair.similarity))
        neighbours.setdefault(pair.second, []).append((pair.first, pair.similarity))
    rank = {document: place for place, document in enumerate(order)}
    kept: set[int] = set()
    gone = []
    for document in order:
        staying = [(similarity, -rank[other]) for other, similarity in neighbours.get(document, ()) if other in kept]
        if staying:
            similarity, place = max(staying)
            other = order[-place]
            gone.append(Removal(document, other, similarity))
        else:
            kept.add(document)
    return gone
