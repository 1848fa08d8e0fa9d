"""Masked language modelling: say what stood where tokens were hidden (Devlin et al. 2019, section 3.1), and with it the
judgement of pairs of texts (section 3.1, task 2; Lan et al. 2020, arXiv:1909.11942, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch.nn.functional as F

from gristmill.objectives.base import Batch, LossTerms
from gristmill.objectives.cross_entropy import IGNORED, linear_cross_entropy

if TYPE_CHECKING:
    from gristmill.models.encoder import Encoder


class MaskedLM:
    """Mean negative log-likelihood of the hidden tokens (`loss`), and of the right judgement of each pair (`nsp`).

    A batch holds `input_ids` with the hidden tokens replaced, `targets` (batch, time) with what stood there and -100
    elsewhere, and `document_ids`. Where they are there: `token_type_ids`, `langs`; `positions` (batch, time), the place
    of each token in its text, counted from 0, where a row's texts attend to each other but begin anew (translation
    pairs); `next_sentence_label` (batch,), 0 where the second text follows the first, 1 where it does not, -100 for no
    pair. Only hidden tokens go through the output layers.
    """

    def __init__(self, *, pairs: bool = False) -> None:
        """pairs: rows are pairs of texts, and the model has a head that judges them."""
        self.pairs = pairs
        self.weights: Mapping[str, float] = {"loss": 1.0, "nsp": 1.0} if pairs else {"loss": 1.0}

    def counts(self, batch: Batch) -> dict[str, int]:
        found = {"loss": int((batch["targets"] != IGNORED).sum())}
        if self.pairs:
            found["nsp"] = int((batch["next_sentence_label"] != IGNORED).sum())
        return found

    def terms(self, model: Encoder, batch: Batch) -> LossTerms:  # type: ignore[override]
        positions = batch.get("positions")
        states = model.encode(
            batch["input_ids"], document_ids=batch.get("document_ids"), token_type_ids=batch.get("token_type_ids"),
            langs=batch.get("langs"),
            position_ids=None if positions is None else positions + model.config.first_position)
        hidden = batch["targets"] != IGNORED
        total, correct = linear_cross_entropy(
            model.head(states[hidden]), model.head_weight, batch["targets"][hidden], bias=model.head_bias)
        terms = LossTerms({"loss": total}, {"accuracy": (correct.detach(), "loss")})
        if self.pairs:
            labels = batch["next_sentence_label"]
            logits = model.pair_logits(states).float()
            terms.sums["nsp"] = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
            terms.metrics["nsp_accuracy"] = ((logits.argmax(-1) == labels).sum().detach(), "nsp")
        return terms
