"""What deduplication removed from each source, with examples and alarms, as JSON-ready values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

LARGEST_CLUSTER = 1000
"""Members beyond which a cluster raises an alarm: so many copies are rare, look-alikes of a template are not."""
LARGEST_SHARE = 0.5
"""Share of a source's documents beyond which what it loses raises an alarm."""
STEPS = ("url", "exact", "near")
_CONTEXT = 20


def dedup_report(
    names: Sequence[str], source: np.ndarray, sizes: np.ndarray, step: np.ndarray, kept_for: np.ndarray,
    similarity: np.ndarray, cluster: np.ndarray, describe: Callable[[list[int]], dict[int, tuple[str, str]]], *,
    examples: int = 3, largest_cluster: int = LARGEST_CLUSTER, largest_share: float = LARGEST_SHARE,
) -> dict[str, Any]:
    """`sources` by name (documents, bytes, removed by step, examples) and `alarms`.

    All arrays are over documents. source: number in `names`. sizes: bytes. step: 0 for what stays, else 1 + the index
    in `STEPS`. kept_for: the document that each goes for. similarity: their similarity. cluster: for each document the
    number of one that stands for its cluster. describe: gives (id, text) for some numbers. examples: pairs a source and
    step; those of least similarity come first, for they show best whether the threshold is right.
    """
    chosen: dict[tuple[int, str], list[int]] = {}
    for number in np.unique(source).tolist():
        for at, name in enumerate(STEPS, 1):
            gone = np.flatnonzero((source == number) & (step == at))
            chosen[number, name] = gone[np.lexsort((sizes[gone], similarity[gone]))][:examples].tolist()
    wanted = sorted({n for listed in chosen.values() for gone in listed for n in (gone, int(kept_for[gone]))})
    known = describe(wanted) if wanted else {}
    counts = np.bincount(cluster) if len(cluster) else np.zeros(0, np.int64)
    sources: dict[str, Any] = {}
    alarms: list[dict[str, Any]] = []
    for number in np.unique(source).tolist():
        own = source == number
        removed = {
            name: {
                "documents": int((own & (step == at)).sum()), "bytes": int(sizes[own & (step == at)].sum()),
                "examples": [_example(known, gone, int(kept_for[gone]), float(similarity[gone]))
                             for gone in chosen[number, name]],
            }
            for at, name in enumerate(STEPS, 1)
        }
        lost = int((own & (step > 0)).sum())
        largest = int(counts[cluster[own]].max())
        sources[names[number]] = {
            "documents": int(own.sum()), "bytes": int(sizes[own].sum()), "removed": removed,
            "share_removed": lost / int(own.sum()), "largest_cluster": largest,
        }
        if lost > largest_share * int(own.sum()):
            alarms.append(_alarm(
                names[number], "large_share", lost / int(own.sum()), largest_share,
                f"deduplication takes {lost / int(own.sum()):.0%} of {names[number]}",
                "look at its examples; if they are no copies, raise the threshold (`dedup: {near: 0.9}`)",
            ))
        if largest > largest_cluster:
            alarms.append(_alarm(
                names[number], "large_cluster", largest, largest_cluster,
                f"a cluster of {largest} documents reaches into {names[number]}",
                "look at its examples: a template filled with different facts needs a higher threshold",
            ))
    return {"sources": {name: sources[name] for name in sorted(sources)}, "alarms": alarms}


def _alarm(source: str, kind: str, value: float, limit: float, what: str, fix: str) -> dict[str, Any]:
    return {"source": source, "kind": kind, "value": value, "limit": limit, "what": what, "fix": fix}


def _example(known: dict[int, tuple[str, str]], gone: int, kept: int, similarity: float) -> dict[str, Any]:
    (gone_id, gone_text), (kept_id, kept_text) = known[gone], known[kept]
    gone_part, kept_part = first_difference(gone_text, kept_text)
    return {"gone": gone_id, "kept": kept_id, "similarity": round(similarity, 4), "gone_text": gone_part,
            "kept_text": kept_part}


def first_difference(a: str, b: str) -> tuple[str, str]:
    """About `_CONTEXT` words before and after the first word in which two texts differ, of either text."""
    first, second = a.split(), b.split()
    least = min(len(first), len(second))
    at = next((n for n in range(least) if first[n] != second[n]), least)
    begin = max(0, at - _CONTEXT)
    parts = []
    for words in (first, second):
        stretch = " ".join(words[begin : at + _CONTEXT])[:600]
        parts.append(("... " if begin else "") + stretch + (" ..." if at + _CONTEXT < len(words) else ""))
    return parts[0], parts[1]
