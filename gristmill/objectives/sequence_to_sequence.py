"""Sequence to sequence: write one text while looking at another (Sutskever et al. 2014, arXiv:1409.3215)."""

from __future__ import annotations

from torch import Tensor, nn

from gristmill.objectives.base import Batch
from gristmill.objectives.causal_lm import CausalLM


class SequenceToSequence(CausalLM):
    """Mean negative log-likelihood of the written tokens, in nats a token.

    A batch holds `input_ids` and `document_ids` (batch, inputs): what is read; `decoder_input_ids`,
    `decoder_document_ids` and `targets` (batch, time): what is written, shifted to the right and not, -100 where
    nothing is scored. A written text looks at the read one of the same document number.
    """

    def states(self, model: nn.Module, batch: Batch) -> Tensor:
        """What the head reads, (batch, time, dim)."""
        return model.hidden(  # type: ignore[operator]
            batch["input_ids"], batch["decoder_input_ids"], document_ids=batch.get("document_ids"),
            decoder_document_ids=batch.get("decoder_document_ids"))
