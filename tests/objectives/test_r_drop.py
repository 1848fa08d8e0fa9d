"""R-Drop: the divergence and its gradients against torch's own, and what the objective does around it."""

import pytest
import torch
import torch.nn.functional as F

from gristmill.core.errors import UserError
from gristmill.core.stage import Runtime
from gristmill.objectives import CausalLM
from gristmill.objectives.cross_entropy import HeadCall
from gristmill.objectives.r_drop import RDrop, has_dropout, symmetric_divergence
from gristmill.training.device import prepare
from gristmill.training.loop import Trainer, TrainingConfig
from tests.models.random_models import random_decoder
from tests.objectives.causal_text import random_rows


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("soft_cap", [None, 5.0])
def test_divergence_and_gradients_are_the_formula(bias, soft_cap):
    torch.manual_seed(0)
    states = [torch.randn(11, 6, requires_grad=True) for _ in range(2)]
    head = torch.randn(9, 6, requires_grad=True)
    shift = torch.randn(9, requires_grad=True) if bias else None
    leaves = [*states, head, *([shift] if bias else [])]

    def logs(x):
        logits = F.linear(x, head, shift)
        logits = logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap)
        return logits.log_softmax(-1)

    p, q = map(logs, states)
    wanted = 0.5 * (F.kl_div(q, p, log_target=True, reduction="sum") + F.kl_div(p, q, log_target=True, reduction="sum"))
    found = symmetric_divergence(*(HeadCall(x, head, shift, soft_cap) for x in states), chunk=4)
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(wanted, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_two_passes_differ_by_dropout_alone():
    batch = random_rows(0)
    still, noisy = RDrop(CausalLM(), 1.0), RDrop(CausalLM(), 1.0)
    plain = random_decoder().train()
    torch.testing.assert_close(float(still.terms(plain, batch).sums["r_drop"].detach()), 0.0, atol=1e-4, rtol=0)
    model = random_decoder(dropout=0.2).train()
    torch.manual_seed(0)
    terms = noisy.terms(model, batch)
    assert float(terms.sums["r_drop"].detach()) > 0.1
    assert noisy.counts(batch)["r_drop"] == noisy.counts(batch)["loss"]
    torch.manual_seed(0)
    both = [CausalLM().terms(model, batch).sums["loss"].detach() for _ in range(2)]
    torch.testing.assert_close(terms.sums["loss"].detach(), (both[0] + both[1]) / 2)


def test_evaluation_runs_once_and_adds_nothing():
    model, batch = random_decoder(dropout=0.2).eval(), random_rows(0)
    found = RDrop(CausalLM(), 1.0).terms(model, batch)
    assert found.sums.keys() == {"loss"}
    torch.testing.assert_close(found.sums["loss"], CausalLM().terms(model, batch).sums["loss"])


def test_a_model_without_dropout_is_refused(tmp_path):
    model = random_decoder()
    assert not has_dropout(model.config)
    assert has_dropout(random_decoder(stochastic_depth=0.1).config)
    with pytest.raises(UserError, match="dropout"):
        Trainer(model=model, objective=CausalLM(), source=None, steps=1, compute=prepare(Runtime(device="cpu")),
                folder=tmp_path, checkpoints=tmp_path / "c", config=TrainingConfig(r_drop=1.0))
