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
from gristmill.tokens.shards import FORMAT, LABELS, ShardWriter, TokenShards

if TYPE_CHECKING:
    from pyarrow import RecordBatch

    from gristmill.tokenizer.tokenizer import Tokenizer

BATCH_BYTES = 1 << 23
"""Text, in bytes, that is encoded at once; a longer document is a batch of its own."""


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
    progress = progress or Silent()
    with (
        ShardWriter(folder, tokenizer.vocab_size, about=about) as writer,
        progress.bar(f"tokens: {split}", _total_bytes(corpus, split, limit_bytes), "MB") as bar,
    ):
        documents = 0
        rows = read_documents(corpus.path, split, columns=["id", "text", *LABELS, "metadata"])
        for batch, sizes in _batches(rows, limit_bytes):
            # As UTF-8 from Parquet to the encoder: no text is decoded on the way.
            ids, lengths = tokenizer.encode_flat(batch.column("text").cast("binary").to_pylist())
            framed, lengths = _framed(ids, lengths, start, end, writer.dtype)
            writer.extend(framed, lengths, batch.column("id").to_pylist(), sizes.tolist(),
                          [_pair(metadata) for metadata in batch.column("metadata").to_pylist()],
                          {label: batch.column(label).to_pylist() for label in LABELS})
            documents += batch.num_rows
            bar.advance(int(sizes.sum()) / 1e6)
        if not documents:
            reason = "holds no document" if limit_bytes is None else f"has no document within {limit_bytes} bytes"
            raise UserError(f"the split {split!r} of this corpus {reason}", where=corpus.name,
                            fix="look at the corpus's funnel.json, or give the split a larger share")
        return writer.finish()


def _framed(ids: np.ndarray, lengths: np.ndarray, start: int | None, end: int, dtype: np.dtype
            ) -> tuple[np.ndarray, np.ndarray]:
    """Documents' ids (tokens,) with their first and last special tokens, and the new lengths (documents,)."""
    whole = lengths + (1 if start is None else 2)
    ends = np.cumsum(whole)
    text = np.ones(int(ends[-1]) if len(ends) else 0, dtype=bool)
    text[ends - 1] = False
    if start is not None:
        text[ends - whole] = False
    framed = np.empty(len(text), dtype=dtype)
    framed[text] = ids
    framed[ends - 1] = end
    if start is not None:
        framed[ends - whole] = start
    return framed, whole


def _batches(rows: Iterator[RecordBatch], limit_bytes: int | None) -> Iterator[tuple[RecordBatch, np.ndarray]]:
    """Documents in the corpus's order, about BATCH_BYTES of text a batch, with the UTF-8 bytes of each text."""
    import pyarrow.compute as pc

    total = 0
    for table in rows:
        sizes = np.asarray(pc.binary_length(table.column("text")), dtype=np.int64)
        ends = np.cumsum(sizes)
        allowed = table.num_rows if limit_bytes is None else int(np.searchsorted(ends, limit_bytes - total, "right"))
        first = 0
        while first < allowed:
            before = int(ends[first - 1]) if first else 0
            last = min(allowed, max(first + 1, int(np.searchsorted(ends, before + BATCH_BYTES, "right"))))
            yield table.slice(first, last - first), sizes[first:last]
            first = last
        if allowed < table.num_rows:
            return
        total += int(sizes.sum())


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
