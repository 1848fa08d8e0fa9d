"""Masked language modelling: our BERT beside transformers'. Packed rows of ours are padded ones there, a row a text.

    python -m benchmarks.learning.masked_lm

Rows are short, tokens few and hidden often: encoders stay for long at the unigram entropy before they look at their
neighbours, and this is what gets them out of there in few steps (docs/models/bert.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.learning.compare import Batch, Contest, Losses, main
from gristmill.objectives.cross_entropy import IGNORED
from gristmill.objectives.masking import Masking
from gristmill.objectives.pretraining import MaskedLanguageModelling
from gristmill.tokenizer.train import MASK
from gristmill.training.optimizers import OptimizerConfig

MASKING = Masking(share=0.3)
"""Twice as much as BERT hides: more to learn from in every step, for models that see so few (arXiv:2202.08005)."""
SIZES = {"depth": 2, "dim": 64, "heads": 4}
# Norms after the sums want smaller steps than a decoder, as in the recipes of encoders.
OPTIMIZER = OptimizerConfig(learning_rate=0.004)


def unpacked(batch: Batch, config: Any) -> dict[str, Tensor]:
    """A batch of ours as keyword arguments of the public classes, a row a document.

    Values are (documents, longest); labels and next_sentence_label have their public names.
    """
    pieces, rows = [], []
    for row, documents in enumerate(batch["document_ids"]):
        for number in documents[documents >= 0].unique_consecutive().tolist():
            pieces.append((documents == number).nonzero()[:, 0])
            rows.append(row)
    places = nn.utils.rnn.pad_sequence(pieces, batch_first=True, padding_value=-1)
    real = places >= 0
    row = torch.tensor(rows)[:, None]

    def taken(name: str, padding: int) -> Tensor:
        return torch.where(real, batch[name].long()[row, places.clamp(min=0)], padding)

    made = {"input_ids": taken("input_ids", config.pad_id), "labels": taken("targets", IGNORED),
            "attention_mask": real.long()}
    if "positions" in batch:
        made["position_ids"] = taken("positions", 0) + config.first_position
    for name in ("token_type_ids", "langs"):
        if name in batch:
            made[name] = taken(name, 0)
    if "next_sentence_label" in batch:
        made["next_sentence_label"] = batch["next_sentence_label"][torch.tensor(rows)]
    return made


def their_loss(model: Any, batch: Batch, config: Any) -> Losses:
    """What the public class calls its loss."""
    value = model(**unpacked(batch, config)).loss
    return value, value


CONTEST = Contest(
    kind="masked_lm", objective=MaskedLanguageModelling(masking=MASKING), their_loss=their_loss, optimizer=OPTIMIZER,
    spec={"family": "bert", **SIZES, "options": {"next_sentence": False}},
    context=16, batch=128, vocabulary=288, special=[MASK])

if __name__ == "__main__":
    main(CONTEST)
