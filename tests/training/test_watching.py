"""A watched training: meters, trackers, a recording and a target in the one loop, also across interruptions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gristmill.core.files import read_json, read_jsonl
from gristmill.core.stage import Runtime
from gristmill.models import Decoder, DecoderConfig
from gristmill.objectives import CausalLM
from gristmill.training import OptimizerConfig, Trainer, TrainingConfig, trackers
from gristmill.training.device import prepare
from gristmill.training.watching import hosts

TINY = DecoderConfig(vocab_size=50, dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp_dim=64, context=32)


class Counting:
    """A sequence that is soon learned by heart; stops at `cut`."""

    def __init__(self, cut=None):
        self.cut = cut

    def window(self, step):
        if step == self.cut:
            raise KeyboardInterrupt
        ids = (torch.arange(33)[None] + torch.arange(4)[:, None] + step) % 50
        return [{"input_ids": ids[:, :-1], "targets": ids[:, 1:]}]


def score(model, step):
    ids = (torch.arange(33)[None] + 7) % 50
    with torch.no_grad():
        terms = CausalLM().terms(model, {"input_ids": ids[:, :-1], "targets": ids[:, 1:]})
    loss = float(terms.sums["loss"]) / 32
    return {"valid_loss": loss, "score": loss}


def trainer(folder: Path, *, steps=40, cut=None, target=None, said=None, **runtime):
    model = Decoder(TINY)
    model.initialise(0)
    compute = prepare(Runtime(device="cpu", threads=1, precision="fp32", **runtime))
    one = Trainer(model=model, objective=CausalLM(), source=Counting(cut), steps=steps, compute=compute, folder=folder,
                  checkpoints=folder / "checkpoints", evaluate=score, label="recipe/base@1", target_loss=target,
                  config=TrainingConfig(optimizer=OptimizerConfig(learning_rate=0.03), evaluations=2,
                                        checkpoint_seconds=99.0 if cut is None else 0.0))
    if said is not None:
        one.progress.say = said.append  # type: ignore[method-assign]
    return one


def test_every_step_has_its_numbers_and_what_they_rest_on(tmp_path):
    trainer(tmp_path, steps=5).fit()
    speed = read_jsonl(tmp_path / "telemetry" / "speed.jsonl")
    assert [row["step"] for row in speed] == [1, 2, 3, 4, 5]
    meters = read_json(tmp_path / "telemetry" / "meters.json")
    assert (meters["hardware"], meters["processes"], meters["peak"]["kind"]) == ("cpu", 1, "measured")
    mark = "_estimated" if meters["power"] == "estimated" else ""
    for row in speed[1:]:
        assert row["tokens_per_second"] == pytest.approx(4 * 32 / row["seconds"])
        expected = row["tokens_per_second"] * TINY.flops_per_token(32) / meters["peak"]["flops"]
        assert row["mfu"] == pytest.approx(expected)
        assert 0 <= row["data_wait"] <= 1
        if f"watts{mark}" in row:  # a counter has none before its second reading
            assert row[f"joules{mark}"] == pytest.approx(row[f"watts{mark}"] * row["seconds"])


class Recorder:
    package = "recorder"
    runs: list[Recorder] = []

    def __init__(self, target):
        self.records, self.finished, self.opened = [], None, None
        Recorder.runs.append(self)

    def open(self, run, name, config, folder):
        self.opened = (run, name, config)
        return run or "first"

    def log(self, records):
        self.records += records

    def close(self, finished):
        self.finished = finished


def test_a_tracker_sees_the_same_run_across_an_interruption(tmp_path, monkeypatch):
    Recorder.runs = []
    monkeypatch.setitem(trackers.SERVICES, "json", Recorder)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, steps=8, cut=5, track=("json:here",)).fit()
    trainer(tmp_path, steps=8, track=("json:here",)).fit()
    first, second = Recorder.runs
    assert (first.finished, second.finished) == (False, True)
    assert first.opened[:2] == (None, "recipe/base@1")
    assert first.opened[2]["training"]["evaluations"] == 2
    assert second.opened[0] == "first"
    steps = [[step for step, values in one.records if "train/loss" in values] for one in (first, second)]
    assert steps == [[1, 2, 3, 4, 5], [6, 7, 8]]
    losses = {row["step"]: row["loss"] for row in read_jsonl(tmp_path / "trace.jsonl")}
    for one in (first, second):
        for step, values in one.records:
            assert values.get("train/loss", losses.get(step)) == losses.get(step)
    assert any("valid/valid_loss" in values for _, values in second.records)


def test_a_profile_of_a_training(tmp_path):
    said: list[str] = []
    trainer(tmp_path, steps=12, said=said, profile=True, memory_snapshot=True).fit()
    folder = tmp_path / "telemetry" / "profile"
    found = json.loads((folder / "operations.json").read_text())
    assert found["steps"] == 5
    assert found["shares"]["optimizer"] > 0
    assert found["shares"]["data"] > 0
    memory = json.loads((folder / "memory.json").read_text())
    assert {"weights", "optimizer"} <= {row["what"] for row in memory["held"]}
    assert any(row["name"] == "embedding.weight" for row in memory["held"])
    assert (folder / "trace.json.gz").exists()
    assert any(line.startswith("  profile: ") for line in said)


def test_it_changes_nothing_that_is_learned(tmp_path):
    trainer(tmp_path / "plain", steps=9).fit()
    watched = trainer(tmp_path / "watched", steps=9, profile=True, memory_snapshot=True, deterministic=True)
    watched.fit()
    prepare(Runtime(device="cpu", threads=1))  # not deterministic any more
    for name in ("trace.jsonl", "evaluations.jsonl"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "watched" / name).read_bytes()


def test_a_target_stops_between_the_planned_evaluations_also_when_resumed(tmp_path):
    whole = trainer(tmp_path / "whole", steps=100, target=1.0)
    result = whole.fit()
    assert result["stopped_early"]
    assert result["target_reached"]
    assert 16 <= result["steps"] < 50  # planned are 50 and 100
    evaluations = read_jsonl(tmp_path / "whole" / "evaluations.jsonl")
    assert evaluations[-1]["valid_loss"] <= 1.0 < evaluations[0]["valid_loss"]
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "cut", steps=100, target=1.0, cut=result["steps"] - 3).fit()
    assert trainer(tmp_path / "cut", steps=100, target=1.0).fit() == result
    assert trainer(tmp_path / "cut", steps=100, target=1.0).fit() == result  # it was over already
    for name in ("trace.jsonl", "evaluations.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_a_target_that_is_not_reached_says_so(tmp_path):
    result = trainer(tmp_path, steps=6, target=0.001).fit()
    assert (result["steps"], result["stopped_early"], result["target_reached"]) == (6, False, False)


def test_computers_are_counted_by_torchruns_word(monkeypatch):
    from gristmill.training.parallel.world import World

    world = World.alone()
    world.size = 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert hosts(world) == 2
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert hosts(world) == 1
