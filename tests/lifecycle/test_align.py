"""Preference training for real, on answers whose order is known."""

import dataclasses
import json

import pytest

from gristmill.alignment import Align
from gristmill.alignment import stage as align_stage
from gristmill.alignment.preferences import SelfSampled
from gristmill.core.artifact import Artifact
from gristmill.core.hashing import digest_folder
from gristmill.core.stage import Runtime, StageContext
from gristmill.training import TrainingConfig
from gristmill.training.optimizers import OptimizerConfig


def answers(context, engine, tokenizer, settings, prompts):
    """For every prompt one answer that parses and one as long that does not."""
    end = tokenizer.end_of_turn_id
    good = [*tokenizer.encode("    return self.value"), end]
    bad = [*tokenizer.encode("    return (self.valu"), end]
    return [{"prompt": n, "tokens": tokens, "finish": "stop", "accepted": accepted, "trivial": False, "reason": ""}
            for n in range(len(prompts)) for tokens, accepted in ((good, True), (bad, False))]


def context(run, work) -> StageContext:
    inputs = {name: Artifact.open(run / "artifacts" / f"{name}@1") for name in ("assistant", "corpus")}
    work.mkdir(parents=True, exist_ok=True)
    return StageContext(name="tiny/aligned@1", seed=3, work=work, cache=work.parent / "cache", inputs=inputs,
                        runtime=Runtime(device="cpu", threads=1, precision="fp32"))


STAGE = Align(
    model="assistant", data=SelfSampled(corpus="corpus", prompts=40, max_tokens=12, valid=0.3), steps=16, batch=8,
    training=TrainingConfig(optimizer=OptimizerConfig(kind="adamw", learning_rate=1e-3), evaluations=4,
                            checkpoint_seconds=0.0))


@pytest.mark.slow
def test_it_learns_the_preference_and_survives_being_stopped(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(align_stage, "sample", answers)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    metrics = STAGE.run(context(tiny_run, whole))
    lines = [json.loads(line) for line in (whole / "evaluations.jsonl").read_text().splitlines()]
    assert lines[0]["reward_margin"] == pytest.approx(0, abs=1e-4), "policy and reference are equal at the start"
    assert lines[-1]["preference_accuracy"] == 1.0
    assert lines[-1]["reward_margin"] > 0.1
    assert metrics["train_pairs"] + metrics["valid_pairs"] == 40

    class Stopped(Exception):
        pass

    original = align_stage.Trainer.advance

    def advance(self, window, *times):
        if self.step == 9:
            raise Stopped
        return original(self, window, *times)

    monkeypatch.setattr(align_stage.Trainer, "advance", advance)
    with pytest.raises(Stopped):
        STAGE.run(context(tiny_run, cut))
    monkeypatch.setattr(align_stage.Trainer, "advance", original)
    assert STAGE.run(context(tiny_run, cut)) == metrics
    assert digest_folder(cut) == digest_folder(whole)


@pytest.mark.slow
def test_without_a_pair_it_stops_or_keeps_the_model_as_told(tiny_run, tmp_path, monkeypatch):
    from gristmill.core.errors import UserError

    monkeypatch.setattr(align_stage, "sample", lambda c, e, t, s, prompts: [
        {"prompt": n, "tokens": [9, 9], "finish": "stop", "accepted": False, "trivial": False, "reason": ""}
        for n in range(len(prompts))])
    with pytest.raises(UserError, match="nothing to prefer"):
        STAGE.run(context(tiny_run, tmp_path / "error"))
    kept = dataclasses.replace(STAGE, without_pairs="keep")
    assert kept.run(context(tiny_run, tmp_path / "kept"))["steps"] == 0
    before = (tiny_run / "artifacts" / "assistant@1" / "model.safetensors").read_bytes()
    assert (tmp_path / "kept" / "model.safetensors").read_bytes() == before
