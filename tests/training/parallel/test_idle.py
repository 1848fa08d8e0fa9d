"""What stages of a pipeline wait: measured, told in the report, and written beside the trace."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gristmill.core.files import read_jsonl
from gristmill.objectives import CausalLM
from gristmill.training.loop import Trainer
from gristmill.training.parallel import Layout
from gristmill.training.parallel.apply import parallelise
from gristmill.training.parallel.idle import Idle
from gristmill.training.report import Report
from tests.training.parallel.parity import COMPUTE, made, rows, tiny
from tests.training.parallel.ranks import Collectives, run_ranks, world_of


class _Passed:
    """An event of a GPU that is passed as soon as the test says so."""

    passed, clock = 0.0, 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = _Passed.clock

    def query(self) -> bool:
        return self.at <= _Passed.passed

    def elapsed_time(self, later: _Passed) -> float:
        assert later.query(), "nobody waits"
        return later.at - self.at


def test_on_a_gpu_what_is_not_over_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", _Passed)
    idle = Idle(torch.device("cuda"))

    def update(*passes: float) -> None:
        with idle.update():
            for seconds in passes:
                with idle.work():
                    _Passed.clock += seconds
                _Passed.clock += 1.0

    update(2.0, 5.0)
    assert math.isnan(idle.read())
    update(1.0)
    _Passed.passed = 9.0
    assert idle.read() == pytest.approx(2 / 9)
    assert idle.read() == pytest.approx(2 / 9)
    _Passed.passed = 11.0
    assert idle.read() == pytest.approx(1 / 2)


def _told(rank: int, text: str, known: bool) -> dict[str, float]:
    """What a report tells of all stages, of which each waited so much."""
    world = world_of(Layout.parse(text))
    own = 0.1 * (1 + world.place("pipeline")) + 0.02 * world.data_rank
    report = Report(step=1, values={"loss": torch.tensor(1.0)}, measured={}, norm=torch.tensor(1.0), counted=1,
                    tokens=1, rows=1, context=1, known={}, began=0.0, waited=0.0,
                    telemetry={"pipeline_bubble": 0.2, "pipeline_idle": own if known or rank else math.nan})
    with Collectives() as seen:
        report.share(world, stop=False, save=False)
    assert seen.counts == {"allreduce": 1}, "what is told costs a message of its own"
    assert report.read()["loss"] == world.size
    return dict(report.telemetry)


@pytest.mark.parametrize(("size", "text", "more"), [(2, "pipeline=2", 0.0), (4, "pipeline=2,shard=2", 0.01)])
def test_the_report_tells_how_long_every_stage_waited(size, text, more):
    for told in run_ranks(_told, size, text, True):
        assert told == pytest.approx({"pipeline_bubble": 0.2, "pipeline_idle": 0.15 + more,
                                      "pipeline_idle_0": 0.1 + more, "pipeline_idle_1": 0.2 + more})
    assert run_ranks(_told, size, text, False) == [{"pipeline_bubble": 0.2}] * size


class _Windows:
    """The same four micro-batches in every update."""

    def window(self, step: int) -> list[dict[str, Tensor]]:
        return [rows(tiny(), 1, seed=number) for number in range(4)]


def _trained(rank: int, folder: str) -> None:
    Trainer(model=made(tiny(layers=4)), objective=CausalLM(), source=_Windows(), steps=3, compute=COMPUTE,
            folder=Path(folder), checkpoints=Path(folder) / "checkpoints",
            world=world_of(Layout.parse("pipeline=2"))).fit()


def test_a_run_writes_how_long_its_stages_waited_and_no_trace_of_it(tmp_path):
    run_ranks(_trained, 2, str(tmp_path))
    speed, trace = (read_jsonl(tmp_path / name) for name in ("telemetry/speed.jsonl", "trace.jsonl"))
    assert [line["step"] for line in speed] == [1, 2, 3]
    for line in speed:
        places = [line["pipeline_idle_0"], line["pipeline_idle_1"]]
        assert all(0 <= share < 1 for share in places)
        assert line["pipeline_idle"] == pytest.approx(sum(places) / 2)
        assert line["pipeline_bubble"] == pytest.approx(1 / 5)
    assert not any(name.startswith("pipeline") for line in trace for name in line)


def _slow(rank: int) -> dict[str, float]:
    """One of two stages takes much longer than the other."""
    config, world = tiny(layers=4), world_of(Layout.parse("pipeline=2"))
    model = made(config)
    passes = parallelise(model, CausalLM(), None, world, COMPUTE)
    if rank:
        next(iter(model.blocks)).register_forward_pre_hook(lambda *_: time.sleep(0.25))
    passes.run([rows(config, 2, seed=number) for number in range(4)], {"loss": 1.0})
    return passes.telemetry()


def test_the_stage_before_a_slow_one_waits():
    first, second = (told["pipeline_idle"] for told in run_ranks(_slow, 2))
    assert first > 0.5  # what it computes itself takes milliseconds, on a busy computer many of them
    assert second < first
