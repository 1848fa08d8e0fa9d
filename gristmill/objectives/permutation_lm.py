"""Permutation language modelling: predict some tokens of a row one after the other in a random order, each from its
place, the context and those before it (Yang et al. 2019, arXiv:1906.08237, eq. 3 and 5)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from gristmill.models.two_stream import permutation_mask
from gristmill.objectives.base import Batch, LossTerms
from gristmill.objectives.cross_entropy import IGNORED, linear_cross_entropy


class PermutationLM:
    """Mean negative log-likelihood of the predicted tokens, in nats a token.

    A batch holds `input_ids` and `document_ids` (batch, time); `ranks` (batch, time), when each token is predicted,
    counted from 0, and -1 for context; `target_positions` (batch, targets), their places, -1 for none; `targets`
    (batch, targets), what stands there, -100 where it is not scored. With segment recurrence also `memory_ids` and
    `memory_document_ids` (batch, remembered): the text right before the row. It is read first, without gradient, so
    that a batch alone says all that its loss hangs on, and a resumed run goes on exactly.
    """

    weights: Mapping[str, float] = {"loss": 1.0}

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"loss": int((batch["targets"] != IGNORED).sum())}

    def terms(self, model: nn.Module, batch: Batch) -> LossTerms:
        mems = None
        if "memory_ids" in batch:
            mems = model.remember(  # type: ignore[operator]
                batch["memory_ids"], document_ids=batch["memory_document_ids"])
        streams = model.encode(  # type: ignore[operator]
            batch["input_ids"], document_ids=batch.get("document_ids"), perm_mask=permutation_mask(batch["ranks"]),
            targets=batch["target_positions"], mems=mems, content=False)
        total, correct = linear_cross_entropy(
            streams.output.flatten(0, 1), model.head_weight, batch["targets"].flatten(),  # type: ignore[arg-type]
            bias=model.head_bias)  # type: ignore[arg-type]
        return LossTerms({"loss": total}, {"accuracy": (correct.detach(), "loss")})
