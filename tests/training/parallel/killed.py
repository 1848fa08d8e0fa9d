"""A small training that a test kills: `torchrun -m tests.training.parallel.killed FOLDER STEPS`.

Beside what every run leaves, each process notes which rows it read (`rows/`) and who it is (`processes/`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gristmill.core import interrupt
from gristmill.core.stage import Runtime
from gristmill.models.decoder import Decoder
from gristmill.objectives.causal_lm import CausalLM
from gristmill.tokens import Positions
from gristmill.training import OptimizerConfig, ScheduleConfig, Trainer, TrainingConfig
from gristmill.training.device import prepare
from gristmill.training.parallel import Layout, World
from gristmill.training.reading import Windows
from tests.training.parallel.parity import tiny

BATCH, CONTEXT = 8, 16
STEP_SECONDS = 0.03
"""So long that a kill meets every part of a step."""
SLOW_SECONDS = 0.2
"""Where the folder has a file `slowly`: other processes come meanwhile."""


class Rows:
    """Rows that count in steps of 1 to 5, each a pure function of its place; every reading is noted."""

    def __init__(self, notes: Path) -> None:
        notes.parent.mkdir(parents=True, exist_ok=True)
        self.notes, self.slowly = notes.open("a"), notes.parent.with_name("slowly")

    def rows(self, places: np.ndarray) -> dict[str, torch.Tensor]:
        self.notes.write(json.dumps([int(place) for place in places]) + "\n")
        self.notes.flush()
        time.sleep(SLOW_SECONDS if self.slowly.exists() else STEP_SECONDS)
        ids = (torch.from_numpy(places * 7)[:, None] + torch.arange(CONTEXT + 1) * torch.from_numpy(
            1 + places % 5)[:, None]) % 64
        targets = ids[:, 1:].clone()
        for row, place in zip(targets, places, strict=True):
            row[: int(place) % CONTEXT] = -100
        return {"input_ids": ids[:, :-1].contiguous(), "targets": targets}


def train(folder: str, steps: int) -> None:
    """On as many processes as there are, their weights shared out."""
    place, size = Path(folder), int(os.environ.get("WORLD_SIZE", 1))
    compute = prepare(Runtime(device="cpu", threads=1, precision="fp32"))
    world = World.join(Layout(shard=size), torch.device("cpu"))
    about = place / "processes" / f"{os.getpid()}.json"
    about.parent.mkdir(parents=True, exist_ok=True)
    about.write_text(json.dumps({"rank": world.rank, "size": world.size}))
    model = Decoder(tiny())
    model.initialise(0)
    notes = place / "rows" / f"{world.tell(time.time_ns())}-{world.size}-{world.data_rank}.jsonl"
    source = Windows(lambda: Rows(notes), Positions(BATCH, CONTEXT), micro_batch=BATCH // 4,
                     share=(world.data_rank, world.data_size))
    config: dict[str, Any] = {"optimizer": OptimizerConfig(kind="adamw", learning_rate=0.003),
                              "schedule": ScheduleConfig(), "evaluations": 1, "checkpoint_seconds": 0.1}
    Trainer(model=model, objective=CausalLM(), source=source, steps=steps, compute=compute, folder=place,
            checkpoints=place / "checkpoints", config=TrainingConfig(**config), world=world).fit()
    world.close()


if __name__ == "__main__":
    with interrupt.handlers(together=True):
        train(sys.argv[1], int(sys.argv[2]))
