"""The documents that a tokenizer is trained or measured on: a bounded sample, chosen by hash."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gristmill.core.artifact import Artifact
from gristmill.core.errors import UserError
from gristmill.core.seeds import derive_seed

BATCH_CHARACTERS = 1 << 19


@dataclass(frozen=True)
class Sample:
    """Documents of one split. kept: which of its documents, in the corpus's order; None for all."""

    corpus: Artifact
    split: str
    kept: np.ndarray | None
    count: int
    bytes: int

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """(text, language, domain) of each document, in the corpus's order."""
        from gristmill.data.documents import read_documents

        at = 0
        for rows in read_documents(self.corpus.path, self.split, columns=["text", "language", "domain"]):
            if self.kept is not None:
                wanted = np.flatnonzero(self.kept[at:at + rows.num_rows])
                at += rows.num_rows
                rows = rows.take(wanted) if len(wanted) else rows.slice(0, 0)
            columns = [rows.column(name).to_pylist() for name in ("text", "language", "domain")]
            yield from zip(*columns, strict=True)

    def batches(self) -> Iterator[list[str]]:
        """Texts in the corpus's order, a few hundred kilobytes at a time."""
        batch: list[str] = []
        size = 0
        for text, _, _ in self.rows():
            batch.append(text)
            size += len(text)
            if size > BATCH_CHARACTERS:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch


def choose_documents(
    corpus: Artifact, split: str, limit: float, seed: int, *, at_least_one: bool = True
) -> Sample:
    """All documents of a split, or as many as fit into `limit` bytes of UTF-8 in the order of hash(seed, id).

    The choice depends on ids and lengths only, never on shards or workers. Texts are not held; 17 bytes of memory a
    document of the corpus are. Raises UserError where there is no text.
    """
    import pyarrow.compute as pc

    from gristmill.data.documents import read_documents

    hashes, sizes = [], []
    for rows in read_documents(corpus.path, split, columns=["id", "text"]):
        sizes.append(np.asarray(pc.binary_length(rows.column("text")), dtype=np.int64))
        hashes.append(np.fromiter((derive_seed(seed, "tokenizer", name) for name in rows.column("id").to_pylist()),
                                  dtype=np.int64, count=rows.num_rows))
    size = np.concatenate(sizes) if sizes else np.empty(0, np.int64)
    total = int(size.sum())
    if at_least_one and not total:
        raise UserError(f"the corpus has no text in its {split} split", where=corpus.name,
                        fix="look at the corpus's funnel.json for where the documents went")
    if total <= limit:
        return Sample(corpus, split, None, len(size), total)
    kept = np.zeros(len(size), dtype=bool)
    used, smallest = 0, int(size.min())
    for i in np.argsort(np.concatenate(hashes), kind="stable").tolist():
        one = int(size[i])
        if used + one <= limit or (at_least_one and not used and not kept.any()):
            kept[i] = True
            used += one
        if used + smallest > limit:
            break
    return Sample(corpus, split, kept, int(kept.sum()), used)
