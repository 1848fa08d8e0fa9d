"""Pairs are verified, matched in length, and each answer is used once."""

import torch

from gristmill.alignment.preferences import Ask, SelfSampled, pair_up
from gristmill.alignment.stage import Row, collate


def record(prompt, tokens, good, trivial=False):
    return {"prompt": prompt, "tokens": list(range(tokens)), "finish": "stop", "accepted": good, "trivial": trivial,
            "reason": ""}


def test_pairs_are_matched_in_length_and_trivial_bodies_are_never_preferred():
    prompts = [Ask("def f():", [1, 2], False), Ask("def g():", [1, 3], True)]
    records = [
        record(0, 10, True), record(0, 50, False), record(0, 11, False), record(0, 48, True),
        record(1, 3, True, trivial=True), record(1, 20, False), record(1, 21, True), record(1, 5, False),
    ]
    train, valid = pair_up(SelfSampled(corpus="c"), prompts, records)
    assert [(len(p.chosen), len(p.rejected)) for p in train] == [(10, 11), (48, 50)]
    assert [(len(p.chosen), len(p.rejected)) for p in valid] == [(21, 20)]


def test_a_prompt_with_only_good_or_only_bad_answers_gives_no_pair():
    prompts = [Ask("def f():", [1], False), Ask("def g():", [1], False)]
    records = [record(0, 5, True), record(0, 6, True), record(1, 5, False), record(1, 6, False)]
    assert pair_up(SelfSampled(corpus="c"), prompts, records) == ([], [])


def test_rows_hold_targets_only_on_the_answer():
    batch = collate([Row([5, 6, 7, 8], 2, -1.5), Row([9, 10, 11], 1, -2.5)])
    assert batch["input_ids"].shape == (2, 32)
    assert batch["input_ids"][0, :4].tolist() == [5, 6, 7, 0]
    assert batch["targets"][0, :4].tolist() == [-100, 7, 8, -100]
    assert batch["targets"][1, :3].tolist() == [10, 11, -100]
    assert batch["document_ids"][0, :4].tolist() == [0, 0, 0, -1]
    torch.testing.assert_close(batch["reference_logps"], torch.tensor([-1.5, -2.5]))


def test_a_row_of_an_update_is_known_by_its_pair():
    from gristmill.alignment.stage import Pairs, Row
    from gristmill.tokens.batches import ShuffledOrder

    rows = [(Row([9, number, 1], 1, 0.0), Row([9, number, 2], 1, 0.0)) for number in range(5)]
    pairs = Pairs(rows, ShuffledOrder(5, 3, 0, None))
    for step in range(3):
        ids = pairs.window(step)[0]["input_ids"]
        for row in range(len(ids)):
            assert pairs.documents(step, row) == [f"pair {int(ids[row, 1]) + 1} of `train` in preferences.json"]
