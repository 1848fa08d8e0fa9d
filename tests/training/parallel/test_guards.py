"""What stands between gradients and the optimizer, where processes have unequal shares of an update."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import pytest
import torch

from gristmill.objectives import CausalLM
from gristmill.training import Trainer, TrainingConfig
from gristmill.training.guards import Guards
from gristmill.training.parallel import Layout, World
from gristmill.training.reading import Dealt
from tests.training.parallel.parity import COMPUTE, made, rows, tiny
from tests.training.parallel.ranks import run_ranks, world_of

CONFIG = tiny()


class _Rows:
    """So many rows an update."""

    static = True

    def __init__(self, count: int) -> None:
        self.count = count

    def window(self, step):
        return [rows(CONFIG, count=self.count, seed=step)]


def _noise(rank: int, count: int) -> tuple[int, list[float]]:
    """Rows of this process, and the averages after two updates."""
    world = world_of(Layout(replicate=2))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model=made(CONFIG), objective=CausalLM(), steps=2, compute=COMPUTE, world=world,
                          source=Dealt(_Rows(count), (world.data_rank, world.data_size)),
                          folder=Path(folder), checkpoints=Path(folder) / "checkpoints",
                          config=TrainingConfig(noise_scale=True))
        for step in range(2):
            trainer.update(trainer.source.window(step))
        own = trainer.source.window(0)
        assert trainer.guards.noise is not None
        return sum(len(batch["input_ids"]) for batch in own), trainer.guards.noise.sums.tolist()


def _unequal(rank: int, sizes: tuple[int, int]) -> tuple[float, float]:
    """What is found of a gradient of |G|² = 3, and of items with a covariance of trace 50, by first parts of so many
    targets whose norms are as long as they are on average."""
    world, size = world_of(Layout(replicate=2)), sizes[rank]
    guards = Guards(TrainingConfig(noise_scale=True), COMPUTE, world)
    guards.first = torch.tensor((3 + 50 / size) * (size / 100) ** 2 if size else 0.0)
    guards.compare(torch.tensor(3 + 50 / 100).sqrt(), size, 100)
    assert guards.noise is not None
    square, trace, weight = guards.noise.sums.tolist()
    return square / weight, trace / weight


@pytest.mark.parametrize("sizes", [(8, 8), (2, 30), (4, 0)])
def test_unequal_parts_find_the_same_noise(sizes):
    for found in run_ranks(_unequal, 2, sizes):
        assert found == pytest.approx((3, 50), rel=1e-4)


@pytest.mark.parametrize("count", [3, 7, 1001])
def test_a_part_that_is_everything_says_nothing(count):
    guards = Guards(TrainingConfig(noise_scale=True), COMPUTE, World.alone())
    guards.first = torch.tensor(0.7)
    guards.compare(torch.tensor(0.7).sqrt(), count, count)
    assert guards.noise is not None
    assert guards.noise.sums.tolist() == [0, 0, 0]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_process_with_a_single_row_has_no_part_to_compare_and_holds_nobody_up(count):
    (few, sums), (many, others) = run_ranks(_noise, 2, count)
    assert (few, many) == (count // 2, count - count // 2)
    assert sums == others
    assert all(map(math.isfinite, sums))
    assert (sums[2] > 0) == (many > 1)  # of two single rows there is nothing to add
