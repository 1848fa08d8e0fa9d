"""The head's loss that need not look at the device is the head's loss."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gristmill.objectives import cross_entropy
from gristmill.objectives.cross_entropy import IGNORED, head_loss
from gristmill.objectives.known_targets import Known, counted_rows, knows

LOOKS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::item", "aten::is_nonzero", "aten::equal"}
"""What asks a device for a number or for a shape."""


class Looked(TorchDispatchMode):
    """Notes every operation for which the host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.name().split(".")[0]
        masked = name == "aten::index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in LOOKS or masked:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def numbers(ignored: float, tokens: int = 30, dim: int = 8, vocab: int = 40):
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(tokens, dim, generator=generator, requires_grad=True)
    head = torch.randn(vocab, dim, generator=generator, requires_grad=True)
    targets = torch.randint(vocab, (3, tokens // 3), generator=generator)
    targets[torch.rand(targets.shape, generator=generator) < ignored] = IGNORED
    return hidden, head, targets


@pytest.mark.parametrize("ignored", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 1e-3}, {"soft_cap": 5.0}], ids=str)
def test_it_is_the_head_s_loss_with_its_gradients(ignored, weighed, options):
    found = []
    for knowing in (False, True):
        hidden, head, targets = numbers(ignored)
        known = Known(targets, None if weighed else counted_rows(targets), weighed)
        with knows(known if knowing else None):
            parts = head_loss(hidden, head, targets.flatten(), 7, **options)
        parts.total.backward()
        found.append([*parts, hidden.grad, head.grad])
    for plain, given in zip(*found, strict=True):
        torch.testing.assert_close(given, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weighed", [False, True])
def test_nothing_asks_the_device(weighed, monkeypatch):
    # As on a GPU: the way of a CPU to count hits looks at them.
    monkeypatch.setattr(cross_entropy, "_hits", lambda logits, wanted, weights: (logits.argmax(-1) == wanted).sum())
    hidden, head, targets = numbers(0.4)
    known = Known(targets, None if weighed else counted_rows(targets), weighed)
    with knows(known), Looked() as looked:
        head_loss(hidden, head, targets.flatten(), 7).total.backward()
    assert looked.found == []
    with knows(None), Looked() as looked:
        head_loss(hidden, head, targets.flatten(), 7).total.backward()
    assert looked.found, "the ordinary one does ask: else this test sees nothing"


def test_other_targets_are_looked_at():
    hidden, head, targets = numbers(0.4)
    others = targets.clone()
    others[:] = IGNORED
    with knows(Known(targets)):  # says that all count, but of others
        assert head_loss(hidden, head, others.flatten()).total.item() == 0.0


def test_a_batch_is_known_where_all_of_it_is_sent_from_the_cpu():
    _, _, targets = numbers(0.4)
    there = {"targets": targets.clone()}
    known = Known.of({"targets": targets}, there, lambda tensor: tensor)
    assert known is not None
    assert known.speaks_of(there["targets"].flatten())
    assert not known.speaks_of(targets.flatten())
    assert known.rows is not None
    assert (there["targets"].flatten()[known.rows] != IGNORED).all()
    assert len(known.rows) == int((targets != IGNORED).sum())
    assert Known.of({"targets": targets}, {"targets": targets[:, :4]}, lambda tensor: tensor) is None, "a part of it"
    assert Known.of({"targets": targets.to("meta")}, there, lambda tensor: tensor) is None, "on a device before"
