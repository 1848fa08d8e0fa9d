"""What stands between gradients and the optimizer, where processes have unequal shares of an update."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import pytest

from gristmill.objectives import CausalLM
from gristmill.training import Trainer, TrainingConfig
from gristmill.training.parallel import Layout
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


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_process_with_a_single_row_has_no_part_to_compare_and_holds_nobody_up(count):
    (few, sums), (many, others) = run_ranks(_noise, 2, count)
    assert (few, many) == (count // 2, count - count // 2)
    assert sums == others
    assert all(map(math.isfinite, sums))
    assert (sums[2] > 0) == (many > 1)  # of two single rows there is nothing to add
