"""Documents and their files: one fixed schema, batches of rows, shards whose bytes depend on nothing but the rows."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.core.errors import UserError
from gristmill.core.files import write_atomic

SPLITS = ("train", "valid", "test")

SCHEMA = pa.schema([
    pa.field(name, pa.string(), nullable=False)
    for name in ("id", "text", "source", "domain", "language", "metadata", "cluster", "split")
])
"""A document of a corpus. metadata is JSON text (path, license, ...); cluster names the group of near-duplicates."""

REJECTS_SCHEMA = SCHEMA.append(pa.field("reason", pa.string(), nullable=False)).append(
    pa.field("detail", pa.string(), nullable=False)
)
"""A row that was left out: reason is the rule's name, detail the value that caused it."""


@dataclass(slots=True)
class Document:
    """One piece of text and where it came from.

    id: unique within a corpus, the same whenever the same source is read again.
    language: an ISO 639-1 code, the name of a programming language, or "und" (undetermined).
    """

    id: str
    text: str
    source: str
    domain: str = ""
    language: str = "und"
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Reject:
    """A document (or what could be read of it) that was left out, and why."""

    document: Document
    reason: str
    detail: str = ""


def row(document: Document, *, cluster: str = "", split: str = "") -> dict[str, str]:
    """A document as a row of `SCHEMA`."""
    return {
        "id": document.id, "text": document.text, "source": document.source, "domain": document.domain,
        "language": document.language, "cluster": cluster or document.id, "split": split,
        "metadata": json.dumps(document.metadata, sort_keys=True, ensure_ascii=False),
    }


def reject_row(reject: Reject) -> dict[str, str]:
    """A reject as a row of `REJECTS_SCHEMA`."""
    return {**row(reject.document), "reason": reject.reason, "detail": reject.detail}


PARQUET: dict[str, Any] = {"compression": "zstd", "compression_level": 3, "use_dictionary": False,
                           "data_page_version": "1.0", "write_statistics": False}
"""Fixed settings: equal tables give equal bytes."""


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as Parquet."""
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=4096, **PARQUET)
    return sink.getvalue()


def write_shard(path: Path, rows: Iterable[dict[str, Any]] | pa.Table, schema: pa.Schema = SCHEMA) -> None:
    """Write one shard atomically."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=schema)
    write_atomic(path, parquet_bytes(table))


def read_table(path: Path | str, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file whole. (`pq.read_table` would import pandas where it is installed: a second in every worker.)"""
    with pq.ParquetFile(path) as file:
        return file.read(columns=None if columns is None else list(columns))


def shards(artifact_path: Path | str, split: str) -> list[Path]:
    """The shards of a split in order; an unknown split or a split without documents is a UserError."""
    folder = Path(artifact_path) / "documents"
    if split not in SPLITS:
        fix = f"choose from {', '.join(SPLITS)}"
        raise UserError(f"there is no split {split!r}", where=str(artifact_path), fix=fix)
    found = sorted(folder.glob(f"{split}-*.parquet"))
    if not found:
        raise UserError(
            f"this corpus has no {split} documents", where=str(folder),
            fix=f"give the data stage `split: {{{split}: 0.05}}` and enough documents",
        )
    return found


def read_documents(
    artifact_path: Path | str, split: str, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Stream the documents of a split as record batches of `SCHEMA` (or of `columns`, in the schema's order).

    Raises UserError for an unknown or empty split and for a shard that is damaged or lacks a column.
    """
    wanted = list(columns) if columns is not None else SCHEMA.names
    for path in shards(artifact_path, split):
        try:
            with pq.ParquetFile(path) as file:
                missing = [name for name in wanted if name not in file.schema_arrow.names]
                if missing:
                    fix = f"it has {', '.join(file.schema_arrow.names)}"
                    raise UserError(f"column {missing[0]!r} is missing", where=str(path), fix=fix)
                yield from file.iter_batches(batch_size=1024, columns=wanted)
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"this shard is damaged ({str(error).splitlines()[0]})", where=str(path),
                fix="delete this corpus version and run the data stage again",
            ) from error


def iterate_documents(artifact_path: Path | str, split: str) -> Iterator[dict[str, Any]]:
    """The documents of a split one by one, `metadata` parsed."""
    for batch in read_documents(artifact_path, split):
        for document in batch.to_pylist():
            document["metadata"] = json.loads(document["metadata"] or "{}")
            yield document
