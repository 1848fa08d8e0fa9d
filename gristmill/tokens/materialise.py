"""From a corpus and a tokenizer to token shards, once: the result is cached by what it was made from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gristmill.core.artifact import Artifact
from gristmill.core.errors import UserError
from gristmill.core.hashing import digest
from gristmill.core.progress import Progress, Silent
from gristmill.tokens.shards import FORMAT, ShardWriter, TokenShards

if TYPE_CHECKING:
    from gristmill.tokenizer.tokenizer import Tokenizer

BATCH_BYTES = 1 << 21
"""Text, in bytes, that is encoded at once."""


def materialise(
    corpus: Artifact,
    tokenizer: Tokenizer,
    split: str,
    cache: Path,
    progress: Progress | None = None,
    limit_bytes: int | None = None,
) -> TokenShards:
    """The documents of `split` as token shards under `cache/tokens-<digest>`, made there if they are not there yet.

    A document is its start token, its text, and its end token (`<|bos|>` and `<|eos|>` for our tokenizers). Text never
    gives special tokens. limit_bytes: stop before the document that would exceed this many UTF-8 bytes of text.
    Raises UserError where the split holds no document, or where cached shards are damaged.
    """
    from gristmill.data.documents import read_documents

    about = {"corpus": corpus.digest, "tokenizer": tokenizer.digest, "split": split, "format": FORMAT,
             "limit_bytes": limit_bytes}
    folder = Path(cache) / f"tokens-{digest(about)[:32]}"
    if folder.exists():
        shards = TokenShards.open(folder)
        shards.verify()
        return shards
    start, end = tokenizer.document_start_id, tokenizer.document_end_id
    before = np.array([] if start is None else [start], dtype=np.uint32)
    after = np.array([end], dtype=np.uint32)
    progress = progress or Silent()
    with (
        ShardWriter(folder, tokenizer.vocab_size, about=about) as writer,
        progress.bar(f"tokens: {split}", _total_bytes(corpus, split, limit_bytes), "MB") as bar,
    ):
        documents = 0
        rows = read_documents(corpus.path, split, columns=["id", "text", "language", "metadata"])
        for batch in _batches(rows, limit_bytes):
            read = 0
            for row, ids in zip(batch, tokenizer.encode_arrays([row["text"] for row in batch]), strict=True):
                size = len(row["text"].encode())
                writer.add(np.concatenate([before, ids, after]), row["id"], size, language=row["language"],
                           pair=_pair(row["metadata"]))
                read += size
            documents += len(batch)
            bar.advance(read / 1e6)
        if not documents:
            reason = "holds no document" if limit_bytes is None else f"has no document within {limit_bytes} bytes"
            raise UserError(f"the split {split!r} of this corpus {reason}", where=corpus.name,
                            fix="look at the corpus's funnel.json, or give the split a larger share")
        return writer.finish()


def _batches(rows: Iterator, limit_bytes: int | None) -> Iterator[list[dict[str, str]]]:
    """Documents in the corpus's order, about BATCH_BYTES of text a batch."""
    batch: list[dict[str, str]] = []
    size = total = 0
    for table in rows:
        for row in table.to_pylist():
            length = len(row["text"].encode())
            total += length
            if limit_bytes is not None and total > limit_bytes:
                if batch:
                    yield batch
                return
            batch.append(row)
            size += length
            if size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _pair(metadata: str) -> str:
    """What the source calls the text that this document is one version of; most documents have none."""
    return str(json.loads(metadata).get("pair", "")) if '"pair"' in metadata else ""


def _total_bytes(corpus: Artifact, split: str, limit_bytes: int | None) -> float | None:
    """MB of text for the progress bar, from the Parquet footers; the bar only, nothing depends on it."""
    try:
        from pyarrow.parquet import read_metadata

        total = 0
        for path in sorted((corpus.path / "documents").glob(f"{split}-*.parquet")):
            footer = read_metadata(path)
            text = footer.schema.to_arrow_schema().get_field_index("text")
            total += sum(footer.row_group(g).column(text).total_uncompressed_size for g in range(footer.num_row_groups))
    except (OSError, ValueError, IndexError):
        return None
    return (total if limit_bytes is None else min(total, limit_bytes)) / 1e6 or None
