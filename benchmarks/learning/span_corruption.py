"""Span corruption: our T5 beside transformers'. Packed rows of ours are padded ones there, a row a piece of a document.

    python -m benchmarks.learning.span_corruption
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.learning.compare import Batch, Contest, Losses, main
from gristmill.objectives.cross_entropy import IGNORED
from gristmill.objectives.pretraining import SpanCorruption

# Tied, as version 5 of transformers makes every model; the rest is version 1.1.
T5 = {"family": "t5", "depth": 2, "dim": 128, "heads": 4, "tied_head": True}


def unpacked(batch: Batch, pad: int) -> dict[str, Tensor]:
    """A batch of ours as arguments of the public class: a row a document, padded."""
    read, written = [], []
    for row, documents in enumerate(batch["document_ids"]):
        for number in range(int(documents.max()) + 1):
            read.append(batch["input_ids"][row][documents == number])
            written.append(batch["targets"][row][batch["decoder_document_ids"][row] == number])
    ids = nn.utils.rnn.pad_sequence(read, batch_first=True, padding_value=pad)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in read], batch_first=True, padding_value=0)
    labels = nn.utils.rnn.pad_sequence(written, batch_first=True, padding_value=IGNORED)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def their_loss(model: Any, batch: Batch, config: Any) -> Losses:
    """What the public class calls its loss."""
    value = model(**unpacked(batch, config.pad_id)).loss
    return value, value


CONTEST = Contest(kind="span_corruption", objective=SpanCorruption(), spec=T5, their_loss=their_loss)

if __name__ == "__main__":
    main(CONTEST)
