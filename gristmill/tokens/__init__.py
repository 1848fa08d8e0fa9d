"""The tokens room: documents as token ids on disk, and the batches that training and evaluation read.

In: a corpus and a tokenizer (`materialise`), or examples with a loss mask (`pack_examples`, `pad_examples`).
Out: `TokenShards` (memory-mapped, checksummed) and rows that are pure functions of (seed, place), in the order that
a mixture and a curriculum ask for (`arrange`).
May call: core, tokenizer; data only inside `materialise`. Needs numpy and torch alone.
"""

from gristmill.tokens.arrangement import ArrangedRows, Arrangement, Packing, arrange
from gristmill.tokens.batches import Batch, EvaluationBatches, PackedBatches, permuted
from gristmill.tokens.curriculum import Curriculum, MixturePoint
from gristmill.tokens.loader import Loader
from gristmill.tokens.materialise import materialise
from gristmill.tokens.mixture import Mixture, MixturePlan, plan_mixture
from gristmill.tokens.packing import RowBatches, Rows, pack_examples, pad_examples
from gristmill.tokens.positions import BatchWarmup, Positions
from gristmill.tokens.shards import ShardWriter, TokenShards
from gristmill.tokens.whole_documents import WholeBatches, laid_out, text_batches

__all__ = [
    "ArrangedRows", "Arrangement", "Batch", "BatchWarmup", "Curriculum", "EvaluationBatches", "Loader", "Mixture",
    "MixturePlan", "MixturePoint", "PackedBatches", "Packing", "Positions", "RowBatches", "Rows",
    "ShardWriter", "TokenShards", "WholeBatches", "arrange", "laid_out", "materialise", "pack_examples", "pad_examples",
    "permuted", "plan_mixture", "text_batches",
]
