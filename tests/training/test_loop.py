"""The one loop: exact accumulation, exact resume, honest stopping."""

import contextlib
import dataclasses
import json
import math
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core import interrupt
from gristmill.core.errors import Interrupted, UserError
from gristmill.core.progress import Silent
from gristmill.core.stage import Runtime
from gristmill.models import Decoder, DecoderConfig
from gristmill.objectives import CausalLM
from gristmill.training import OptimizerConfig, ScheduleConfig, Trainer, TrainingConfig
from gristmill.training.checkpoints import Checkpoints, store
from gristmill.training.device import prepare
from gristmill.training.parallel import Layout, World
from gristmill.training.schedules import average_decay
from tests.processes import forkserver
from tests.shared import HANG, wait_for
from tests.training.parallel.ranks import run_ranks, world_of

TINY = DecoderConfig(vocab_size=50, dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp_dim=64, context=32)


class Repeating:
    """Windows of random tokens, a pure function of the step, cut into `pieces` micro-batches."""

    def __init__(self, pieces=1, rows=4, ignored=0.3):
        self.pieces, self.rows, self.ignored = pieces, rows, ignored

    def window(self, step):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(0, 50, (self.rows, 33), generator=generator)
        targets = ids[:, 1:].clone()
        drop = torch.rand(targets.shape, generator=generator) < self.ignored * torch.arange(self.rows)[:, None]
        targets[drop] = -100
        batch = {"input_ids": ids[:, :-1], "targets": targets}
        size = self.rows // self.pieces
        return [{n: t[i : i + size] for n, t in batch.items()} for i in range(0, self.rows, size)]


def trainer(folder: Path, *, steps=12, source=None, precision="fp32", evaluate=None, seed=0, **config):
    model = Decoder(TINY)
    model.initialise(seed)
    compute = prepare(Runtime(device="cpu", threads=1, precision=precision))
    settings = {"optimizer": OptimizerConfig(learning_rate=0.02), "schedule": ScheduleConfig(), "evaluations": 3,
                "checkpoint_seconds": 0.0, **config}
    return Trainer(model=model, objective=CausalLM(), source=source or Repeating(), steps=steps, compute=compute,
                   folder=folder, checkpoints=folder / "checkpoints", config=TrainingConfig(**settings),
                   evaluate=evaluate)


def weights(t: Trainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in t.model.named_parameters()}


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_one_window_is_the_same_however_it_is_cut(tmp_path, kind):
    """Unequal numbers of targets in the micro-batches are the case that averaging of averages gets wrong."""
    results = []
    for pieces in (1, 2, 4):
        t = trainer(tmp_path / str(pieces), source=Repeating(pieces), optimizer=OptimizerConfig(kind=kind))
        window = t.source.window(3)
        counts = sum(t.objective.counts(b)["loss"] for b in window)
        for batch in window:
            (t.objective.terms(t.model, batch).sums["loss"] / counts).backward()
        gradients = {n: p.grad.clone() for n, p in t.model.named_parameters()}
        t.optimizer.zero_grad()
        results.append((t.update(window)["loss"], gradients))
    for loss, gradients in results[1:]:
        assert loss == pytest.approx(results[0][0], abs=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, results[0][1][name], atol=1e-6, rtol=1e-5)


def test_the_average_moves_as_one_by_one(tmp_path):
    t = trainer(tmp_path, ema=0.9)
    expected = {name: tensor.clone() for name, tensor in t.average.items()}
    for step in range(3):
        t.update(t.source.window(step))
        for name, parameter in t.model.named_parameters():
            expected[name].lerp_(parameter.detach(), 1 - average_decay(0.9, step))
    assert expected.keys() == t.average.keys()
    assert all(torch.equal(t.average[name], tensor) for name, tensor in expected.items())


class Killed(Exception):
    pass


def score(model, step):
    return {"score": float(next(model.parameters()).abs().mean()) * math.sin(step + 1)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Runs without a cut, with and without the best weights kept: what they were given, the trainer, its result."""
    found = {}
    for keep in (False, True):
        options = {"precision": "bf16", "evaluate": score, "keep_best": keep, "ema": 0.0 if keep else 0.9}
        whole = trainer(tmp_path_factory.mktemp("whole"), **options)
        found[keep] = options, whole, whole.fit()
    return found


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(0, 11), min_size=1, max_size=3, unique=True), keep=st.booleans())
def test_interrupted_anywhere_it_ends_with_the_same_bits(tmp_path_factory, undisturbed, cuts, keep):
    options, whole, expected = undisturbed[keep]
    folder = tmp_path_factory.mktemp("cut")
    for cut in sorted(cuts):
        t = trainer(folder, **options)

        class Cutting(Repeating):
            def window(self, step, cut=cut):
                if step == cut:
                    raise Killed
                return super().window(step)

        t.source = Cutting()
        with pytest.raises(Killed):
            t.fit()
    t = trainer(folder, seed=99, **options)  # what it starts from must not matter: all is in the checkpoint
    if min(cuts) == 0 and len(cuts) == 1:
        t = trainer(folder, **options)
    assert t.fit() == expected
    for name in ("trace.jsonl", "evaluations.jsonl"):
        assert (folder / name).read_bytes() == (whole.folder / name).read_bytes()
    for name, value in weights(t).items():
        assert torch.equal(value, weights(whole)[name]), name


class Slow(Repeating):
    """So slow that a signal meets a step and not the end."""

    def window(self, step):
        time.sleep(0.02)
        return super().window(step)


def train_slowly(folder: str) -> None:
    with contextlib.suppress(Interrupted), interrupt.handlers():
        trainer(Path(folder), steps=40, source=Slow(), checkpoint_seconds=0.05).fit()


def start(folder: Path) -> BaseProcess:
    process = forkserver().Process(target=train_slowly, args=(str(folder),))
    process.start()
    return process


def ended(process: BaseProcess) -> int | None:
    process.join(HANG)
    return process.exitcode


@pytest.mark.slow
def test_kill_minus_nine_and_sigterm_lose_nothing(tmp_path):
    whole, trace = tmp_path / "whole", tmp_path / "cut" / "trace.jsonl"

    def done() -> int:
        return trace.read_bytes().count(b"\n") if trace.exists() else 0

    assert ended(start(whole)) == 0
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)):
        before = done()
        process = start(trace.parent)
        wait_for(lambda before=before: done() >= before + 8, going=process.is_alive)
        os.kill(process.pid, number)
        assert ended(process) == code
    assert done() < 40
    assert ended(start(trace.parent)) == 0
    assert (whole / "trace.jsonl").read_bytes() == trace.read_bytes()
    steps = [json.loads(line)["step"] for line in trace.read_text().splitlines()]
    assert steps == list(range(1, 41))


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    t = trainer(tmp_path, steps=6)
    t.fit()
    expected = weights(t)
    newest = sorted((tmp_path / "checkpoints").glob("step-*"))[-1]
    with next(newest.glob("*.safetensors")).open("r+b") as file:
        file.seek(-200, os.SEEK_END)
        file.write(b"\xff\xff\xff")
    found = Checkpoints(tmp_path / "checkpoints", World.alone()).newest()
    assert found is not None
    assert found.step < 6
    again = trainer(tmp_path, steps=6)
    again.progress = Said()
    again.fit()
    assert all(torch.equal(value, weights(again)[name]) for name, value in expected.items())
    assert any("passed over: " in line and "step-00000006" in line for line in again.progress.lines)


class Said(Silent):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def test_numbers_that_are_lost_are_told(tmp_path):
    trainer(tmp_path, steps=6).fit()
    path = tmp_path / "trace.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[-2:]))
    again = trainer(tmp_path, steps=6)
    again.progress = Said()
    again.fit()
    told = "  trace.jsonl has lost the numbers of 4 steps; their work is in the checkpoint, and training goes on"
    assert told in again.progress.lines


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    from gristmill.core.errors import MachineError

    t = trainer(tmp_path, steps=6)
    real = store.Disk.writing

    @contextlib.contextmanager
    def full(self, step, name):
        with real(self, step, name) as file:
            if step == 4:
                file.write(b"half a file")
                raise OSError(28, "No space left on device")
            yield file

    monkeypatch.setattr(store.Disk, "writing", full)
    with pytest.raises(MachineError, match="disk is full"):
        t.fit()
    found = Checkpoints(tmp_path / "checkpoints", World.alone()).newest()
    assert found is not None
    assert found.step == 3
    monkeypatch.setattr(store.Disk, "writing", real)
    again, whole = trainer(tmp_path, steps=6), trainer(tmp_path / "whole", steps=6)
    assert again.fit() == whole.fit()


def test_a_bad_loss_names_the_step_the_layer_and_the_mend(tmp_path):
    t = trainer(tmp_path)
    with torch.no_grad():
        t.model.blocks[1].mlp.down.weight.fill_(math.nan)
    with pytest.raises(UserError, match=r"step 1.*blocks\.") as caught:
        t.fit()
    assert "learning_rate" in str(caught.value)


def test_a_window_without_targets_is_refused(tmp_path):
    t = trainer(tmp_path)
    t.source = Repeating(ignored=9.0, rows=4)
    batch = t.source.window(0)[0]
    batch["targets"].fill_(-100)
    t.source.window = lambda step: [batch]
    with pytest.raises(UserError, match="nothing to learn"):
        t.fit()


def test_early_stopping_waits_and_keeps_the_best(tmp_path):
    scores = iter([5.0, 4.0, 3.0, 3.5, 3.6, 3.7, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0])
    seen = {}

    def score(model, step):
        value = next(scores)
        seen[step] = (value, next(model.parameters()).detach().clone())
        return {"score": value}

    t = trainer(tmp_path, evaluate=score, evaluations=12, patience=3, keep_best=True)
    result = t.fit()
    assert result["stopped_early"]
    assert result["steps"] == 5
    assert torch.equal(next(t.model.parameters()), seen[2][1])


def test_looks_for_a_target_do_not_use_up_patience(tmp_path):
    """Nor do they raise what a planned evaluation has to beat; one of them may still be the best."""
    seen = {}

    def scored(model, step):
        planned = step % 4 == 0
        seen[step] = planned
        return {"score": 9.0 - step / 10 if planned else (1.0 if step == 18 else 99.0), "valid_loss": 9.0}

    t = trainer(tmp_path, evaluate=scored, steps=24, evaluations=6, patience=1)
    t.target_loss = 5.0  # training loss lies below it all the time
    result = t.fit()
    assert not result["stopped_early"]
    assert result["steps"] == 24
    assert list(seen.values()).count(False) > 3
    assert t.selection.best == 1.0
    found = Checkpoints(tmp_path / "checkpoints", World.alone()).newest()
    assert found is not None
    assert (found.state["best"], found.state["planned_best"], found.state["waited"]) == (1.0, pytest.approx(6.6), 0)


class Bars(Silent):
    """Keeps what a bar says."""

    def __init__(self):
        self.said = []

    @contextlib.contextmanager
    def bar(self, *given, **named):
        yield SimpleNamespace(advance=lambda count=1, text="": self.said.append(text))


def test_the_bar_shows_held_out_loss_in_the_unit_of_the_training_loss_from_the_start(tmp_path):
    for steps, before in ((6, 4.5), (8, 4.506)):  # the second goes on with what the first has found
        t = trainer(tmp_path, steps=steps, evaluations=1,
                    evaluate=lambda model, step: {"valid_loss": 4.5 + step / 1000, "score": 1.25})
        t.progress = Bars()
        t.fit()
        *updates, evaluation = t.progress.said
        assert len(updates) == {6: 6, 8: 2}[steps]
        assert all(f"valid {before:.3f}" in said for said in updates)
        assert evaluation == updates[-1].replace(f"{before:.3f}", f"{4.5 + steps / 1000:.3f}")


def _stored(rank: int, folder: str, place: str) -> float | None:
    world = world_of(Layout(replicate=2))
    t = trainer(Path(folder), steps=2)
    t = dataclasses.replace(t, checkpoints=place, world=world)
    t.fit()
    model = t.whole()
    return None if model is None else float(sum(p.double().square().sum() for p in model.parameters()))


def test_the_result_of_two_processes_comes_from_storage(tmp_path):
    alone = trainer(tmp_path / "alone", steps=2)
    alone.fit()
    expected = float(sum(p.detach().double().square().sum() for p in alone.model.parameters()))
    found = run_ranks(_stored, 2, str(tmp_path / "run"), f"file://{tmp_path}/bucket/checkpoints")
    assert found == [pytest.approx(expected, rel=1e-5), None]
    assert {path.name for path in (tmp_path / "bucket").glob("*/*")} == {"step-00000001", "step-00000002"}


def test_a_run_goes_on_from_storage_and_keeps_as_many_as_it_is_told(tmp_path):
    def stored(source=None):
        t = trainer(tmp_path / "run", source=source, keep=3)
        return dataclasses.replace(t, checkpoints=f"memory://{tmp_path.name}/checkpoints")

    class Cut(Repeating):
        def window(self, step):
            if step == 7:
                raise Killed
            return super().window(step)

    whole = trainer(tmp_path / "whole")
    whole.fit()
    with pytest.raises(Killed):
        stored(Cut()).fit()
    t = stored()
    t.fit()
    assert (tmp_path / "run" / "trace.jsonl").read_bytes() == (tmp_path / "whole" / "trace.jsonl").read_bytes()
    assert t.saves.store.steps() == [10, 11, 12]
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_it_learns(tmp_path):
    """A repeating sequence is learned by heart."""

    class Counting:
        def window(self, step):
            ids = (torch.arange(33)[None] + torch.arange(4)[:, None] + step) % 50
            return [{"input_ids": ids[:, :-1], "targets": ids[:, 1:]}]

    for kind, rate in (("muon", 0.05), ("adamw", 0.01)):
        optimizer = OptimizerConfig(kind=kind, learning_rate=rate)
        t = trainer(tmp_path / kind, steps=40, source=Counting(), optimizer=optimizer)
        assert t.fit()["final_loss"] < 0.5


def test_averaged_weights_of_a_short_run_are_those_that_were_trained(tmp_path):
    """The average by hand; what training began with is gone from it."""
    t = trainer(tmp_path, ema=0.999)
    average = before = weights(t)
    for step in range(6):
        t.update(t.source.window(step))
        decay = (1 + step) / (10 + step)
        average = {name: decay * average[name] + (1 - decay) * now for name, now in weights(t).items()}
    for name, tensor in t.average.items():
        torch.testing.assert_close(tensor, average[name], atol=1e-6, rtol=1e-5)
    name = "blocks.0.mlp.up.weight"
    trained = weights(t)[name]
    assert (t.average[name] - trained).norm() < 0.5 * (before[name] - trained).norm()
