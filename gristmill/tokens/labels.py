"""What documents are called and how difficult they are: one label or number a document, in the order of the shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gristmill.core.artifact import Artifact
from gristmill.core.errors import UserError
from gristmill.tokens.shards import LABELS, TokenShards
from gristmill.tokens.stored import stored

READ_AT_ONCE = 1 << 22
"""Tokens that are looked at in one go."""


def component_labels(shards: TokenShards, over: str, corpus: Artifact, split: str, cache: Path | None
                     ) -> tuple[list[str], np.ndarray]:
    """The values of source, domain, language or metadata.NAME, sorted, and the number of each document's, (documents,).

    A document whose metadata lack the field has the value "". Raises UserError where all of them lack it.
    """
    if over in LABELS:
        return shards.label_names(over), shards.labels(over)

    def make() -> dict[str, np.ndarray]:
        numbers: dict[str, int] = {}
        own = np.fromiter((numbers.setdefault(_text(value), len(numbers))
                           for value in _metadata(corpus, split, over, shards.documents)), dtype=np.int32)
        known = sorted(numbers)
        place = np.empty(len(known), dtype=np.int32)
        place[[numbers[value] for value in known]] = np.arange(len(known))
        return {"numbers": place[own], "names": np.frombuffer(json.dumps(known).encode(), dtype=np.uint8)}

    found = stored(cache, "labels", _about(shards, corpus, split, over), make)
    return json.loads(found["names"].tobytes()), found["numbers"]


def text_sizes(corpus: Artifact, split: str, over: str) -> tuple[list[str], list[int], list[int]]:
    """The values of source, domain, language or metadata.NAME in a corpus, sorted; documents and bytes of each."""
    import pyarrow.compute as pc

    from gristmill.data.documents import read_documents

    found: dict[str, list[int]] = {}
    column = over if over in LABELS else "metadata"
    labels = iter(_metadata(corpus, split, over, 1 << 62)) if column == "metadata" else None
    for batch in read_documents(corpus.path, split, columns=["text", column]):
        own = batch.column(column).to_pylist() if labels is None else [_text(next(labels)) for _ in range(len(batch))]
        for name, size in zip(own, pc.binary_length(batch.column("text")).to_pylist(), strict=True):
            counts = found.setdefault(name, [0, 0])
            counts[0], counts[1] = counts[0] + 1, counts[1] + size
    if labels is not None:
        next(labels, None)  # at its end it says that no document has the field
    names = sorted(found)
    return names, [found[name][0] for name in names], [found[name][1] for name in names]


def difficulties(shards: TokenShards, by: str, corpus: Artifact, split: str, cache: Path | None) -> np.ndarray:
    """length, rarity or metadata.NAME of each document, (documents,) float64; what has no number counts as the largest.

    rarity: the mean of -log2 of its tokens' frequencies in these documents (Platanios et al. 2019, by token).
    Raises UserError where no document has the number.
    """
    if by == "length":
        return np.diff(shards.offsets).astype(np.float64)

    def make() -> dict[str, np.ndarray]:
        if by == "rarity":
            return {"values": _rarity(shards)}
        values = np.fromiter((_number(value) for value in _metadata(corpus, split, by, shards.documents)),
                             dtype=np.float64)
        if np.isnan(values).all():
            raise UserError(f"no document has a number called {by}", where="curriculum.by",
                            fix="name a field of the documents' metadata that holds a number, or use length or rarity")
        return {"values": np.where(np.isnan(values), np.inf, values)}

    return stored(cache, "difficulty", _about(shards, corpus, split, by), make)["values"]


def _rarity(shards: TokenShards) -> np.ndarray:
    counts = np.zeros(shards.vocab_size, dtype=np.int64)
    for start in range(0, shards.total_tokens, READ_AT_ONCE):
        part = shards.slice(start, min(start + READ_AT_ONCE, shards.total_tokens))
        counts += np.bincount(part, minlength=shards.vocab_size)
    bits = -np.log2(np.maximum(counts, 1) / max(1, shards.total_tokens))
    values, first = np.empty(shards.documents), 0
    while first < shards.documents:
        stop = int(np.searchsorted(shards.offsets, shards.offsets[first] + READ_AT_ONCE, side="right")) - 1
        stop = max(first + 1, stop)
        begins = np.asarray(shards.offsets[first:stop + 1])
        sums = np.concatenate([[0.0], np.cumsum(bits[shards.slice(int(begins[0]), int(begins[-1]))])])
        places = begins - begins[0]
        values[first:stop] = np.diff(sums[places]) / np.maximum(np.diff(places), 1)
        first = stop
    return values


def _metadata(corpus: Artifact, split: str, name: str, documents: int) -> Any:
    """The value of a metadata field of each document, None where there is none."""
    from gristmill.data.documents import read_documents

    field = name.removeprefix("metadata.")
    quoted, read, found = json.dumps(field, ensure_ascii=False), 0, False
    seen: set[str] = set()
    for batch in read_documents(corpus.path, split, columns=["metadata"]):
        for text in batch.column("metadata").to_pylist()[:documents - read]:
            own = json.loads(text) if quoted in text else {}
            found |= field in own
            if len(seen) < 20:
                seen |= set(own or json.loads(text or "{}"))
            read += 1
            yield own.get(field)
    if not found:
        raise UserError(f"no document's metadata has a field {field!r}", where=name,
                        fix=f"the first documents have {', '.join(sorted(seen)) or 'none'}")


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _number(value: Any) -> float:
    try:
        return float("nan") if value is None or isinstance(value, (list, dict)) else float(value)
    except ValueError:
        return float("nan")


def _about(shards: TokenShards, corpus: Artifact, split: str, name: str) -> dict[str, Any]:
    return {"tokens": shards.digest, "corpus": corpus.digest, "split": split, "name": name}
