"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290, eq. 7)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.objectives.base import Batch, LossTerms
from gristmill.objectives.cross_entropy import sequence_log_probabilities


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log sigmoid(beta * margin), a value a pair; all arguments (pairs,) of summed log-probabilities in nats.

    margin = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected). `label_smoothing` is the
    chance that a label is wrong (conservative DPO).
    """
    margin = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
    return -(1 - label_smoothing) * F.logsigmoid(beta * margin) - label_smoothing * F.logsigmoid(-beta * margin)


class DPO:
    """Raises the chosen answer above the rejected one, relative to a frozen reference.

    The batch holds pairs as rows 0, 1, 0, 1, ... (chosen, rejected), and the reference's summed log-probabilities of
    each row (`reference_logps`, (batch,)), which were computed once before training. `anchor` adds the chosen
    answer's own negative log-likelihood a token (RPO, arXiv:2404.19733), which keeps it from becoming less likely.
    """

    rows_per_item = 2

    def __init__(self, beta: float = 0.1, anchor: float = 0.0, label_smoothing: float = 0.0) -> None:
        self.beta, self.anchor, self.label_smoothing = beta, anchor, label_smoothing
        self.weights: Mapping[str, float] = {"loss": 1.0} | ({"anchor": anchor} if anchor else {})

    def counts(self, batch: Batch) -> dict[str, int]:
        counts = {"loss": batch["targets"].shape[0] // 2}
        if self.anchor:
            counts["anchor"] = int((batch["targets"][0::2] >= 0).sum())
        return counts

    def terms(self, model: nn.Module, batch: Batch) -> LossTerms:
        states = model.hidden(batch["input_ids"], document_ids=batch.get("document_ids"))  # type: ignore[operator]
        logps = sequence_log_probabilities(states, model.head_weight, batch["targets"])  # type: ignore[arg-type]
        reference = batch["reference_logps"]
        losses = dpo_loss(logps[0::2], logps[1::2], reference[0::2], reference[1::2], self.beta, self.label_smoothing)
        rewards = self.beta * (logps.detach() - reference)
        margins = rewards[0::2] - rewards[1::2]
        sums = {"loss": losses.sum()}
        if self.anchor:
            sums["anchor"] = -logps[0::2].sum()
        return LossTerms(sums, {
            "preference_accuracy": ((margins > 0).float().sum(), "loss"),
            "reward_margin": (margins.sum(), "loss"),
            "reward_chosen": (rewards[0::2].sum(), "loss"),
            "reward_rejected": (rewards[1::2].sum(), "loss"),
        })


@torch.no_grad()
def reference_log_probabilities(model: nn.Module, batch: Batch) -> Tensor:
    """The reference's summed log-probability of each row's targets, (batch,) fp32."""
    states = model.hidden(batch["input_ids"], document_ids=batch.get("document_ids"))  # type: ignore[operator]
    return sequence_log_probabilities(states, model.head_weight, batch["targets"])  # type: ignore[arg-type]
