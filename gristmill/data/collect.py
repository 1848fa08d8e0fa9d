"""The first phase: read every source once, keep what was read in shards of about equal size."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gristmill.core.errors import UserError
from gristmill.core.files import read_json, write_json
from gristmill.core.hashing import digest
from gristmill.core.progress import Progress
from gristmill.core.seeds import fraction
from gristmill.data.documents import REJECTS_SCHEMA, SCHEMA, Document, Reject, reject_row, row, write_shard
from gristmill.data.sources import Source, source_names

SHARD_BYTES = 4 << 20
"""Text in a shard of work: small enough to share among workers, large enough to cost nothing."""


@dataclass(frozen=True)
class Sample:
    """Which part of the sources is taken: `share` of the documents by the hash of their id (of the name of their pair,
    where they are translations of each other), at most `limit` bytes."""

    share: float
    limit: int | None
    seed: int

    def takes(self, document: Document) -> bool:
        name = str(document.metadata.get("pair") or document.id)
        return self.share >= 1 or fraction(self.seed, "sample", name) < self.share


class Listing:
    """The files of all sources, before anything is read: missing ones are refused here."""

    def __init__(self, sources: Sequence[Source]) -> None:
        named = zip(source_names(sources), sources, strict=True)
        self.parts = [(name, source, source.files()) for name, source in named]
        self.bytes = sum(file.stat().st_size for _, _, files in self.parts for file in files)

    def marks(self) -> str:
        """Digest of names, sizes and times of change: an unfinished collection is only continued if it is the same."""
        return digest([
            [name, [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]]
            for name, _, files in self.parts
        ])


def collect(listing: Listing, folder: Path, sample: Sample, progress: Progress) -> dict[str, Any]:
    """Fill `folder` with document and reject shards; gives the counts. A finished collection is taken as it is."""
    done = folder / "collected.json"
    if done.exists():
        return read_json(done)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    documents, rejects = _Shards(folder, "documents", SCHEMA), _Shards(folder, "rejects", REJECTS_SCHEMA)
    sources: dict[str, Any] = {}
    expected = min(listing.bytes * min(sample.share, 1.0), sample.limit or float("inf")) / 1e6
    with progress.bar("collect", expected, "MB") as bar:
        for name, source, files in listing.parts:
            counts: Counter[str] = Counter(files=len(files))
            for item in source.read(files, name):
                document = item.document if isinstance(item, Reject) else item
                size = len(document.text.encode("utf-8", "replace"))
                if sample.limit is not None and documents.bytes + size > sample.limit:
                    counts["beyond_limit"] += 1
                    break
                if not sample.takes(document):
                    counts["not_sampled"] += 1
                    continue
                bar.advance(size / 1e6, note=f"{name}: {documents.rows} documents")
                if isinstance(item, Reject):
                    counts["unreadable"] += 1
                    counts[f"reason {item.reason}"] += 1
                    rejects.add(reject_row(item), size)
                else:
                    counts["documents"] += 1
                    counts["bytes"] += size
                    documents.add(row(item), size)
            sources[name] = dict(sorted(counts.items()))
    if not documents.rows:
        _refuse_empty(sources, sample)
    result = {"sources": sources, "shards": documents.close(), "reject_shards": rejects.close(),
              "documents": documents.rows, "bytes": documents.bytes}
    write_json(done, result)
    return result


def _refuse_empty(sources: dict[str, Any], sample: Sample) -> None:
    unreadable = Counter[str]()
    for counts in sources.values():
        unreadable.update({k.removeprefix("reason "): n for k, n in counts.items() if k.startswith("reason ")})
    listed = ", ".join(f"{n} x {reason}" for reason, n in unreadable.most_common())
    where = f"sources: {', '.join(sources)}"
    if listed:
        raise UserError(f"not one document could be read ({listed})", where=where,
                        fix="check the files' format and `column`")
    if any(counts.get("not_sampled") or counts.get("beyond_limit") for counts in sources.values()):
        raise UserError("the sample holds not one document", where=where, fix="raise `sample` or `limit_mb`")
    raise UserError("the sources hold no documents", where=where, fix="name files with text in them")


class _Shards:
    """Rows gathered into files of about `SHARD_BYTES`."""

    def __init__(self, folder: Path, name: str, schema: Any) -> None:
        self.folder, self.name, self.schema = folder, name, schema
        self.pending: list[dict[str, str]] = []
        self.pending_bytes = self.bytes = self.rows = self.written = 0

    def add(self, row: dict[str, str], size: int) -> None:
        self.pending.append(row)
        self.rows, self.bytes, self.pending_bytes = self.rows + 1, self.bytes + size, self.pending_bytes + size
        if self.pending_bytes >= SHARD_BYTES or len(self.pending) >= 20_000:
            self.flush()

    def flush(self) -> None:
        if self.pending:
            write_shard(self.folder / f"{self.name}-{self.written:05d}.parquet", self.pending, self.schema)
            self.pending, self.pending_bytes, self.written = [], 0, self.written + 1

    def close(self) -> int:
        """Write the rest; gives the number of shards."""
        self.flush()
        return self.written
