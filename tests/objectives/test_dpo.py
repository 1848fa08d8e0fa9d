"""DPO against the published golden values and by hand."""

import pytest
import torch

from gristmill.objectives.dpo import DPO, dpo_loss


def test_golden_values():
    """Two pairs, beta 0.1, worked out in plain Python from eq. 7 of the paper."""
    chosen, rejected = torch.tensor([-4.0, -6.5]), torch.tensor([-5.0, -6.4])
    reference_chosen, reference_rejected = torch.tensor([-4.5, -6.0]), torch.tensor([-4.8, -6.2])
    loss = dpo_loss(chosen, rejected, reference_chosen, reference_rejected, 0.1).mean()
    assert float(loss) == pytest.approx(0.6835096159450729, abs=1e-6)
    smoothed = dpo_loss(chosen, rejected, reference_chosen, reference_rejected, 0.1, label_smoothing=0.1).mean()
    assert float(smoothed) == pytest.approx(0.6855096159450729, abs=1e-6)


class Table(torch.nn.Module):
    """A 'model' whose hidden states are a table, so that everything can be computed by hand."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.states = torch.nn.Parameter(torch.randn(4, 6, 8))
        self.head_weight = torch.nn.Parameter(torch.randn(11, 8))

    def hidden(self, input_ids, document_ids=None):
        return self.states


def test_terms_are_sums_and_counts_are_known_before():
    model, objective = Table(), DPO(beta=0.5, anchor=0.3)
    targets = torch.randint(0, 11, (4, 6), generator=torch.Generator().manual_seed(1))
    targets[:, :2] = -100
    reference = torch.tensor([-9.0, -8.0, -10.0, -12.0])
    batch = {"input_ids": targets, "targets": targets, "reference_logps": reference}
    assert objective.counts(batch) == {"loss": 2, "anchor": 8}
    terms = objective.terms(model, batch)
    logs = (model.states @ model.head_weight.t()).log_softmax(-1)
    rows = torch.stack([sum(logs[b, t, targets[b, t]] for t in range(2, 6)) for b in range(4)])
    expected = dpo_loss(rows[0::2], rows[1::2], reference[0::2], reference[1::2], 0.5).sum()
    torch.testing.assert_close(terms.sums["loss"], expected)
    torch.testing.assert_close(terms.sums["anchor"], -rows[0::2].sum())
