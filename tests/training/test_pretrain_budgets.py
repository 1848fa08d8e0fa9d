"""Budgets through the stage `pretrain`: what they become, what is written down, and what is refused."""

from __future__ import annotations

import dataclasses
import re
import sys

import pytest
import torch

from gristmill.core.errors import UserError
from gristmill.core.files import read_json, read_jsonl
from gristmill.tokens import BatchWarmup
from gristmill.training import pretrain
from gristmill.training.budget import Budget
from gristmill.training.config import TrainingConfig
from gristmill.training.loop import Trainer
from gristmill.training.schedules import ScheduleConfig
from tests.training.test_loop import trainer, weights
from tests.training.test_pretrain import CONTEXT, inputs, recipe, run

__all__ = ["inputs"]
MEASURE = pretrain.measure


@pytest.fixture(autouse=True)
def a_step_takes_fifty_seconds(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrain, "measure", lambda trainer, updates: 50.0)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_flops_become_tokens(inputs, tmp_path):
    _, by_steps = run(recipe(budget=Budget(steps=7)), inputs, tmp_path / "steps")
    flops = 7 * 8 * CONTEXT * by_steps["flops_per_token"]
    _, plan = run(recipe(budget=Budget(flops=flops)), inputs, tmp_path / "flops")
    assert plan["steps"] == 7
    assert plan["derivations"][-1].startswith("steps = 7: ")
    assert plan["derivations"][-1].endswith(f"a token = {7 * 8 * CONTEXT} tokens / {8 * CONTEXT} tokens a step")
    assert plan["budget"]["flops"] == flops


@pytest.mark.parametrize(("budget", "seconds", "line"), [
    (Budget(money=1.0, price_per_hour=3.0, currency="EUR"), 1200,
     "1 EUR pay for 1200 s: 1 computer at 3 EUR an hour (budget.price_per_hour)"),
    (Budget(energy_kwh=1.0, watts=3000), 1200, "1 kWh last for 1200 s at 3000 W (1 computer at budget.watts)"),
])
def test_money_and_energy_become_time_and_time_steps(inputs, tmp_path, budget, seconds, line):
    losses, plan = run(recipe(budget=budget), inputs, tmp_path)
    assert line in plan["derivations"]
    words = plan["derivations"][-1]
    assert words.startswith(f"steps = {plan['steps']}: ")
    left = int(words.split(": ")[1].split(" s are")[0])
    assert seconds - 100 <= left <= seconds - 20  # what was spent before, and what evaluation will take
    assert plan["steps"] == len(losses)
    assert abs(plan["steps"] - left / 50) <= 1
    assert read_json(tmp_path / "work" / "telemetry" / "compute.json")["seconds_per_step"] == 50


@pytest.mark.parametrize("lost", ["plan.json", "telemetry/compute.json"])
def test_a_training_that_loses_its_plan_keeps_its_steps(inputs, tmp_path, monkeypatch, lost):
    """On a machine that is slower by now: other steps would bend the schedule in the middle."""
    stage = recipe(budget=Budget(minutes=20), training=TrainingConfig(evaluations=2, checkpoint_seconds=0.0))
    monkeypatch.setattr(pretrain.time, "monotonic", lambda: 0.0)
    whole, plan = run(stage, inputs, tmp_path / "whole")
    advance = Trainer.advance

    def killed(trainer, *given):
        if trainer.step == 15:
            raise KeyboardInterrupt
        return advance(trainer, *given)

    monkeypatch.setattr(Trainer, "advance", killed)
    with pytest.raises(KeyboardInterrupt):
        run(stage, inputs, tmp_path / "cut")
    monkeypatch.setattr(Trainer, "advance", advance)
    monkeypatch.setattr(pretrain, "measure", lambda trainer, updates: 100.0)
    path = tmp_path / "cut" / "work" / lost
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"not valid JSON(?s:.*)delete this file and run the same command again"):
        run(stage, inputs, tmp_path / "cut")
    path.unlink()
    losses, again = run(stage, inputs, tmp_path / "cut")
    assert losses == whole
    assert again["steps"] == plan["steps"] == len(losses)
    if lost == "plan.json":
        assert again["derivations"][-1] == (f"steps = {len(losses)}: as at the checkpoint of step 15; "
                                            "plan.json was lost")
    else:
        assert again == plan


def test_updates_of_every_size_are_measured(inputs, tmp_path, monkeypatch):
    """Where updates grow, the first ones say nothing of the time that the others take."""
    measured = []

    def rows(trainer, updates):
        found = {sum(len(batch["input_ids"]) for batch in trainer.source.window(step)) for step in updates[:3]}
        measured.append((updates, found))
        return 5.0 * len(measured)

    monkeypatch.setattr(pretrain, "measure", rows)
    losses, plan = run(recipe(budget=Budget(minutes=10), batch_warmup=BatchWarmup(start=2, tokens=2 * 6 * CONTEXT)),
                       inputs, tmp_path)
    assert measured == [(range(3), {2}), (range(3, 5), {4}), (range(5, sys.maxsize), {8})]
    said = re.fullmatch(r"steps = (\d+): (\d+) s are left of 10 minutes, and a step takes 15.000 s, one of the first "
                        r"5.000 s", plan["derivations"][-1])
    assert int(said[1]) == plan["steps"] == len(losses)
    assert abs(plan["steps"] - 5 - (int(said[2]) - 3 * 5 - 2 * 10) / 15) <= 1
    assert read_json(tmp_path / "work" / "telemetry" / "compute.json")["seconds_per_step"] == 15


def test_measuring_repeats_the_updates_that_it_is_given_and_puts_everything_back(tmp_path):
    tried = trainer(tmp_path)
    seen, window = [], tried.source.window
    tried.source.window = lambda step: seen.append(step) or window(step)
    before = weights(tried)
    assert MEASURE(tried, range(3, 5)) > 0
    assert seen == [3, 4, 3, 4, 3]
    assert tried.step == 0
    for name, tensor in weights(tried).items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(("budget", "amount"), [
    (Budget(minutes=5), "minutes"), (Budget(money=1.0, price_per_hour=12.0), "money"),
    (Budget(energy_kwh=0.25, watts=3000), "energy_kwh")])
def test_a_time_without_room_for_ten_steps_is_refused_with_one_that_has_it(inputs, tmp_path, budget, amount):
    with pytest.raises(UserError, match=r"are too little(?s:.*)10 steps take 500 s") as caught:
        run(recipe(budget=budget), inputs, tmp_path)
    assert caught.value.where == f"r/base@1: budget.{amount}"
    assert not (tmp_path / "work" / "plan.json").exists()
    least = float(re.search(r"raise it to (\S+) at least", caught.value.fix)[1])
    _, plan = run(recipe(budget=dataclasses.replace(budget, **{amount: least})), inputs, tmp_path)
    assert 10 <= plan["steps"] <= 14


def test_a_warm_up_as_long_as_the_run_is_refused_or_said(inputs, tmp_path):
    training = TrainingConfig(evaluations=1, schedule=ScheduleConfig(warmup=12))
    with pytest.raises(ValueError, match=r"training\.schedule\.warmup: 12 steps, and the run has 12"):
        recipe(budget=Budget(steps=12), training=training)
    _, plan = run(recipe(budget=Budget(tokens=12 * 8 * CONTEXT), training=training), inputs, tmp_path)
    assert plan["derivations"][-2].startswith("steps = 12: ")
    assert plan["derivations"][-1].endswith("it warms up for 12 steps, and the run has 12")


def test_a_price_that_is_not_known_stops_before_training(inputs, tmp_path):
    with pytest.raises(UserError, match=r"no price for this computer's CPU(?s:.*)price_per_hour"):
        run(recipe(budget=Budget(money=1.0)), inputs, tmp_path)
    assert not (tmp_path / "work" / "trace.jsonl").exists()


def test_a_target_is_the_stages_as_well(inputs, tmp_path):
    losses, plan = run(recipe(budget=Budget(steps=30, target_loss=100.0)), inputs, tmp_path)
    assert plan["steps"] == 30
    assert len(losses) == 16  # as soon as the mean of the last ones is known
    assert read_jsonl(tmp_path / "work" / "evaluations.jsonl")[-1]["valid_loss"] < 100
