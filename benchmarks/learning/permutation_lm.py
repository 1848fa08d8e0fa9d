"""Permutation language modelling: our XLNet beside transformers'.

    python -m benchmarks.learning.permutation_lm
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.learning.compare import Batch, Contest, Losses, loss_of_logits, main
from gristmill.models.two_stream import permutation_mask
from gristmill.objectives.pretraining import PermutationLanguageModelling


def public_inputs(batch: Batch) -> dict[str, Tensor]:
    """A batch of ours, without memory, as keyword arguments of the public class.

    It has no documents: perm_mask hides the others of a packed row. Targets that see nothing at all are left out:
    public code averages over everything there, their own word included.
    """
    documents, places = batch["document_ids"], batch["target_positions"]
    hidden = permutation_mask(batch["ranks"]) | (documents[:, :, None] != documents[:, None])
    blind = hidden.all(-1).gather(1, places.clamp(min=0)) | (places < 0)
    mapping = (torch.where(blind, -1, places)[..., None] == torch.arange(documents.shape[1])).float()
    return {"input_ids": batch["input_ids"], "perm_mask": hidden.float(), "target_mapping": mapping}


def their_loss(model: Any, batch: Batch, config: Any) -> Losses:
    """Of the logits of the public model's query stream over packed rows."""
    return loss_of_logits(model(**public_inputs(batch), use_mems=False).logits, batch["targets"])


CONTEST = Contest(
    kind="permutation_lm", objective=PermutationLanguageModelling(), their_loss=their_loss,
    spec={"family": "xlnet", "depth": 2, "dim": 128, "heads": 4})

if __name__ == "__main__":
    main(CONTEST)
