"""Numbers of an update are those of the moment at which they were sent."""

from __future__ import annotations

import math

import pytest
import torch

from gristmill.core.errors import UserError
from gristmill.training import OptimizerConfig, Trainer
from gristmill.training.device import Compute
from gristmill.training.parallel.world import World
from gristmill.training.report import Numbers, Report
from tests.training.test_loop import Repeating, trainer, weights


def report(**given):
    return Report(**{"step": 1, "values": {"loss": torch.tensor(1.1)}, "measured": {"accuracy": torch.tensor(0.25)},
                     "norm": torch.tensor(2.2), "counted": 7, "tokens": 9, "rows": 1, "context": 1,
                     "known": {"lr": 0.5}, "began": 0.0, "waited": 0.0, **given})


def test_what_changes_after_share_is_not_read():
    loss, skipped = torch.tensor(1.1), torch.tensor(2**40 + 1)
    sent = report(values={"loss": loss}, later={"load": 3.0},
                  same={"skipped": skipped, "scale": torch.tensor(math.inf)})
    sent.share(World.alone(), stop=True, save=False)
    loss.fill_(5.0)
    skipped.zero_()
    found = sent.read()
    assert found == {"loss": float(torch.tensor(1.1)), "lr": 0.5, "grad_norm": float(torch.tensor(2.2)),
                     "accuracy": 0.25, "skipped": 2**40 + 1, "load": 3.0}
    assert list(found) == ["loss", "lr", "grad_norm", "accuracy", "skipped", "load"], "the order of a trace"
    assert (sent.stop, sent.counted, sent.tokens) == (True, 7, 9)


def test_counts_may_be_tensors_and_losses_numbers():
    sent = report(counted=torch.tensor(2**31), tokens=torch.tensor(3), measured={"penalty": 0.5})
    assert sent.read()["penalty"] == 0.5
    assert (sent.counted, sent.tokens) == (2**31, 3)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_where_numbers_are_read_later_a_broken_update_leaves_the_weights(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(Trainer, "lag", 1)  # as on a GPU
    made, source = trainer(tmp_path, optimizer=OptimizerConfig(kind=kind, learning_rate=0.02)), Repeating()
    made.update(source.window(0))
    before, breaking = weights(made), [True]
    made.model.norm.weight.register_hook(lambda gradient: gradient * math.nan if breaking else gradient)
    broken = made.advance(source.window(1))
    for name, tensor in weights(made).items():
        assert torch.equal(tensor, before[name]), name
    breaking.clear()
    made.advance(source.window(2))
    assert all(tensor.isfinite().all() for tensor in weights(made).values())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(made).items())
    with pytest.raises(UserError, match="step 2 is not finite"):
        made._read(broken)


def test_lists_arrive_as_lists():
    assert Numbers.sent({"a": torch.tensor([1, 2]), "b": 3, "c": torch.tensor(0.5)}).read() == {
        "a": [1.0, 2.0], "b": [3.0], "c": [0.5]}


def test_what_goes_to_a_gpu_passes_pinned_memory(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: calls.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, non_blocking: calls.append((device, non_blocking)))
    Compute(torch.device("cuda"), torch.bfloat16, 1).moved(torch.ones(2))
    Compute(torch.device("cpu"), torch.bfloat16, 1).moved(torch.ones(2))
    assert calls == ["pinned", (torch.device("cuda"), True), (torch.device("cpu"), True)]
