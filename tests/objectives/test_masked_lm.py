"""The loss of masked models: only hidden tokens count, in any layout, and nothing looks where it must not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gristmill.objectives.masked_lm import MaskedLM
from tests.models.random_encoders import random_batch, random_encoder, tiny_config


def sums(model, batch, pairs=False):
    return {name: value.item() for name, value in MaskedLM(pairs=pairs).terms(model, batch).sums.items()}


def test_the_loss_is_the_cross_entropy_of_the_public_logits():
    config = tiny_config("bert", next_sentence=True)
    model = random_encoder(config)
    batch, _ = random_batch(config, 3)
    logits = model(batch["input_ids"], document_ids=batch["document_ids"], token_type_ids=batch["token_type_ids"])
    found = MaskedLM(pairs=True).terms(model, batch)
    expected = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), reduction="sum")
    torch.testing.assert_close(found.sums["loss"], expected, atol=1e-4, rtol=1e-6)
    right = (logits.argmax(-1) == batch["targets"]).sum()
    assert found.metrics["accuracy"] == (right, "loss")
    assert MaskedLM(pairs=True).counts(batch) == {"loss": int((batch["targets"] >= 0).sum()), "nsp": 3}
    assert set(MaskedLM().counts(batch)) == {"loss"}


@pytest.mark.parametrize("hidden", ["none", "all", "one"])
def test_no_target_every_target_and_one_target(hidden):
    config = tiny_config("bert", next_sentence=True)
    model = random_encoder(config)
    batch, _ = random_batch(config, 1)
    chosen = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    if hidden == "all":
        chosen = batch["document_ids"] >= 0
    if hidden == "one":
        chosen[0, 0] = True
    batch["targets"] = torch.where(chosen, 5, -100)
    terms = MaskedLM(pairs=True).terms(model, batch)
    sum(terms.sums.values()).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    assert (terms.sums["loss"].item() > 0) == (hidden != "none")
    assert MaskedLM().counts(batch)["loss"] == int(chosen.sum())


def test_an_empty_batch_costs_nothing():
    model = random_encoder(tiny_config("bert"))
    empty = {"input_ids": torch.zeros(0, 8, dtype=torch.int64), "targets": torch.zeros(0, 8, dtype=torch.int64),
             "document_ids": torch.zeros(0, 8, dtype=torch.int32)}
    assert MaskedLM().counts(empty) == {"loss": 0}
    assert sums(model, empty) == {"loss": 0.0}


def test_packed_equals_padded():
    config = tiny_config("roberta")
    model = random_encoder(config)
    generator = torch.Generator().manual_seed(4)
    texts = [torch.randint(3, 61, (n,), generator=generator) for n in (5, 9, 1, 14)]
    targets = [torch.where(torch.rand(len(t), generator=generator) < 0.5, t, -100) for t in texts]
    packed = {"input_ids": torch.cat(texts)[None], "targets": torch.cat(targets)[None],
              "document_ids": torch.cat([torch.full((len(t),), i) for i, t in enumerate(texts)])[None]}
    padded = {"input_ids": torch.nn.utils.rnn.pad_sequence(texts, True, 1),
              "targets": torch.nn.utils.rnn.pad_sequence(targets, True, -100),
              "document_ids": torch.nn.utils.rnn.pad_sequence([torch.zeros(len(t)).long() for t in texts], True, -1)}
    assert sums(model, packed)["loss"] == pytest.approx(sums(model, padded)["loss"], rel=1e-6)


def test_positions_that_begin_anew_inside_a_document():
    """A translation pair: both texts see each other, and the second begins at the first position again."""
    config = tiny_config("roberta")
    model = random_encoder(config)
    ids = torch.randint(3, 61, (1, 10), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "targets": ids, "document_ids": torch.zeros(1, 10).long(),
             "positions": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]])}
    rows = model(ids, document_ids=batch["document_ids"], position_ids=batch["positions"] + 2)
    expected = F.cross_entropy(rows[0], ids[0], reduction="sum")
    assert sums(model, batch)["loss"] == pytest.approx(expected.item(), rel=1e-5)
    del batch["positions"]
    assert sums(model, batch)["loss"] != pytest.approx(expected.item(), rel=1e-3)


def test_a_target_can_depend_on_its_own_document_only():
    config = tiny_config("bert")
    model = random_encoder(config)
    ids = torch.randint(1, 61, (1, 16), generator=torch.Generator().manual_seed(2))
    targets = torch.full_like(ids, -100)
    targets[0, 2] = 7
    batch = {"input_ids": ids, "targets": targets, "document_ids": torch.tensor([[0] * 6 + [1] * 7 + [-1] * 3])}
    before = sums(model, batch)["loss"]
    for place in range(16):
        changed = {**batch, "input_ids": ids.clone()}
        changed["input_ids"][0, place] = (ids[0, place] + 1) % 61
        assert (sums(model, changed)["loss"] != before) == (place < 6), place
