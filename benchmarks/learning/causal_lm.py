"""Causal language modelling: our Llama beside transformers'.

    python -m benchmarks.learning.causal_lm
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.learning.compare import Batch, Contest, Losses, loss_of_logits, main
from gristmill.objectives.pretraining import CausalLanguageModelling

LLAMA = {"family": "llama", "depth": 2, "dim": 128, "heads": 4}


def attention_mask(batch: Batch) -> Tensor:
    """What transformers calls a mask, (batch, 1, time, time) of fp32: 0 where a key is seen, else very low. Documents
    of a packed row see themselves alone, a prefix is seen by all of its document."""
    documents = batch["document_ids"]
    time = documents.shape[1]
    before = torch.ones(time, time, dtype=torch.bool).tril()[None]
    if "prefix" in batch:
        before = before | batch["prefix"][:, None]
    seen = before & (documents[:, :, None] == documents[:, None])
    return torch.zeros(seen.shape)[:, None].masked_fill(~seen[:, None], torch.finfo(torch.float32).min)


def their_loss(model: Any, batch: Batch, config: Any) -> Losses:
    """Of the public model's logits over packed rows."""
    return loss_of_logits(model(batch["input_ids"], attention_mask=attention_mask(batch)).logits, batch["targets"])


CONTEST = Contest(kind="causal_lm", objective=CausalLanguageModelling(), spec=LLAMA, their_loss=their_loss)

if __name__ == "__main__":
    main(CONTEST)
