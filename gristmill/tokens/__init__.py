"""The tokens room: documents as token ids on disk, and the batches that training and evaluation read.

In: a corpus and a tokenizer (`materialise`), or examples with a loss mask (`pack_examples`, `pad_examples`).
Out: `TokenShards` (memory-mapped, checksummed) and batches that are pure functions of (seed, step).
May call: core, tokenizer; data only inside `materialise`. Needs numpy and torch alone.
"""

from gristmill.tokens.batches import Batch, EvaluationBatches, PackedBatches, permuted
from gristmill.tokens.loader import Loader
from gristmill.tokens.materialise import materialise
from gristmill.tokens.packing import RowBatches, Rows, pack_examples, pad_examples
from gristmill.tokens.shards import ShardWriter, TokenShards

__all__ = [
    "Batch", "EvaluationBatches", "Loader", "PackedBatches", "RowBatches", "Rows", "ShardWriter", "TokenShards",
    "materialise", "pack_examples", "pad_examples", "permuted",
]
