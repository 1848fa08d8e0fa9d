"""Who stands where: places, groups, sums and what the first process tells."""

from __future__ import annotations

import datetime
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from gristmill.core.errors import InternalError, MachineError, UserError
from gristmill.training.parallel import Layout, World
from gristmill.training.parallel import world as world_module
from tests.training.parallel.ranks import run_ranks, world_of


def _places(rank: int, text: str) -> dict[str, Any]:
    world = world_of(Layout.parse(text))
    groups = {name: dist.get_process_group_ranks(group) for name, group in (world.groups or {}).items()}
    mesh = {name: world.mesh[name].mesh.tolist() for name in world.mesh.mesh_dim_names}  # type: ignore
    return {"places": world.places, "data": (world.data_rank, world.data_size), "groups": groups, "mesh": mesh,
            "sum": float(world.sum(torch.tensor(float(10 ** rank)))), "told": world.tell({"rank": rank})}


def test_neighbours_along_the_last_axis_are_next_to_each_other():
    found = run_ranks(_places, 4, "shard=2,tensor=2")
    assert [f["data"] for f in found] == [(0, 2), (0, 2), (1, 2), (1, 2)]
    assert [f["places"]["tensor"] for f in found] == [0, 1, 0, 1]
    assert [f["groups"]["tensor"] for f in found] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [f["groups"]["tokens"] for f in found] == [[0, 2], [1, 3], [0, 2], [1, 3]]
    assert [f["sum"] for f in found] == [101.0, 1010.0, 101.0, 1010.0]
    assert all(f["told"] == {"rank": 0} for f in found)


def test_context_counts_as_shard_for_weights_but_not_for_rows():
    found = run_ranks(_places, 4, "shard=2,context=2")
    assert [f["data"] for f in found] == [(0, 2), (0, 2), (1, 2), (1, 2)]
    assert [f["mesh"]["shard"] for f in found] == [[0, 1, 2, 3]] * 4
    assert [f["groups"]["context"] for f in found] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [f["groups"]["tokens"] for f in found] == [[0, 1, 2, 3]] * 4


def test_updates_span_stages_and_tokens_do_not():
    found = run_ranks(_places, 4, "pipeline=2,replicate=2")
    assert [f["groups"]["tokens"] for f in found] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [f["groups"]["updates"] for f in found] == [[0, 1, 2, 3]] * 4
    assert [f["groups"]["pipeline"] for f in found] == [[0, 2], [1, 3], [0, 2], [1, 3]]


def _first(rank: int, folder: str) -> bool:
    file = Path(folder) / "made"
    with world_of(Layout(shard=2)).first():
        if rank == 0:
            time.sleep(0.1)
            file.touch()
        return file.exists()


def test_the_first_process_is_through_before_the_others_begin():
    with tempfile.TemporaryDirectory() as folder:
        assert run_ranks(_first, 2, folder) == [True, True]


def _long_first(rank: int, folder: str) -> bool:
    dist.destroy_process_group()
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2,
                            timeout=datetime.timedelta(seconds=1))
    world, file = World.join(Layout(shard=2), torch.device("cpu")), Path(folder) / "made"
    for _ in range(2):
        with world.first():
            if rank == 0:
                time.sleep(2)  # longer than any collective may take
                file.touch()
            assert file.exists()
    return float(world.sum(torch.tensor(1.0))) == 2


def test_the_others_wait_longer_for_the_first_process_than_for_a_collective():
    with tempfile.TemporaryDirectory() as folder:
        assert run_ranks(_long_first, 2, folder, fresh=True) == [True, True]


def _silent_first(rank: int) -> str:
    world = world_of(Layout(shard=2))
    pid = world.tell(os.getpid())
    world_module.BEAT, world_module.SILENCE = 0.01, 0.5
    try:
        with world.first():
            if rank == 0:
                os.kill(pid, signal.SIGSTOP)  # as good as dead
    except MachineError as error:
        os.kill(pid, signal.SIGCONT)
        return str(error)
    return ""


def test_a_first_process_that_gives_no_sign_of_life_is_given_up():
    first, other = run_ranks(_silent_first, 2, fresh=True)
    assert not first
    assert "no sign of life" in other


def _joined_too_large(rank: int) -> str:
    try:
        World.join(Layout(shard=3), torch.device("cpu"))
    except UserError as error:
        return str(error)
    return ""


def test_a_layout_for_another_number_of_processes_is_refused():
    for error in run_ranks(_joined_too_large, 2):
        assert "shard=3 is for 3 processes, and there are 2" in error


def test_one_process_needs_nobody():
    world = World.alone()
    assert (world.main, world.data_rank, world.data_size, world.place("tensor")) == (True, 0, 1, 0)
    assert world.sum(torch.tensor(2.0)) == 2
    assert world.tell("x") == "x"
    world.barrier()
    with world.first():
        pass
    with pytest.raises(InternalError):
        world.group("tokens")


def test_without_torchrun_a_world_of_one_is_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert World.join(Layout(), torch.device("cpu")).groups is None
    assert "RANK" not in os.environ
