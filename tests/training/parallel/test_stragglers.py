"""Stragglers: the slow process and what it loses its time with are named; a fair race is not."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from gristmill.training.parallel import Layout, World
from gristmill.training.parallel import watch as watch_module
from gristmill.training.parallel.stragglers import OWN, Stragglers, slow
from gristmill.training.parallel.watch import PHASES, Watch
from tests.training.parallel.ranks import run_ranks, world_of


class Clock:
    """The time of one process; whoever waits for others comes to be where the last of them is."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def meet(self) -> None:
        latest = torch.tensor(self.now, dtype=torch.float64)
        dist.all_reduce(latest, dist.ReduceOp.MAX)
        self.now = float(latest)


def race(rank: int, folder: str, late: float) -> tuple[list[str], list[dict]]:
    world = world_of(Layout(replicate=2))
    said: list[str] = []
    notes: list[dict] = []
    clock = Clock()
    stragglers = Stragglers(world, every=4, excess=0.25, say=said.append, note=notes.append)
    assert stragglers.probe() > 0
    stragglers.probe = lambda: 0.001  # how fast this computer is just now is not asked here
    with patch.object(watch_module, "time", clock):
        watch = Watch(Path(folder), rank, 2, limit=0)
        for step in range(1, 14):
            watch("data", step)
            clock.now += 0.03 + (late if rank == 1 else 0.0)
            watch("collective")
            clock.meet()
            watch("forward")
            clock.now += 0.02
            stragglers(step, watch.take)
    return said, notes


def test_a_slow_reader_is_named_once_on_the_first_process(tmp_path):
    (said, notes), (silent, nothing) = run_ranks(race, 2, str(tmp_path), 0.12)
    assert (silent, nothing) == ([], [])
    assert said == ["  process 1 holds up the others: 120 ms more than they need in data, 71% of every step"]
    assert [note["step"] for note in notes] == [4, 8, 12]
    assert all(set(note["phases"]) == set(PHASES) and note["product"] == [0.001, 0.001] for note in notes)
    assert notes[1]["phases"]["data"] == pytest.approx([0.03, 0.15])
    assert notes[1]["phases"]["collective"] == pytest.approx([0.12, 0.0])
    assert notes[1]["slow"] == [{"process": 1, "phase": "data", "share": pytest.approx(0.12 / 0.17, abs=1e-3)}]


times = st.fixed_dictionaries({phase: st.floats(0.01, 1.0) for phase in PHASES})


@given(times, st.integers(2, 9), st.integers(0, 8), st.sampled_from(OWN), st.floats(0.2, 3.0))
def test_whoever_needs_longer_in_a_phase_of_its_own_is_found_and_nobody_else(usual, size, at, phase, more):
    step = sum(usual.values())
    rows = [dict(usual) for _ in range(size)]
    rows[at % size][phase] += more * step
    found = slow(rows, [1.0] * size, 0.1)
    assert [(each.rank, each.phase) for each in found] == [(at % size, phase)]
    assert found[0].seconds == pytest.approx(more * step)
    assert slow([dict(usual) for _ in range(size)], [1.0] * size, 0.1) == []


def test_waiting_is_nobody_s_fault_and_a_slow_processor_is():
    rows = [{"data": 0.1, "collective": 0.5}, {"data": 0.1, "collective": 0.0}]
    assert slow(rows, [1.0, 1.0], 0.1) == []
    found = slow([{"backward": 1.0}] * 3, [1.0, 1.9, 1.0], 0.1)
    assert [(each.rank, each.phase) for each in found] == [(1, "processor")]
    assert "process 1 computes 1.9 times slower" in str(found[0])


def test_one_process_alone_has_nothing_to_do():
    stragglers = Stragglers(World.alone(), every=1)
    assert stragglers(1, lambda: pytest.fail("nobody asks")) == []
