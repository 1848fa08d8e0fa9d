"""`plan train --calibrate` against what happens: steps and whole runs, at 4 times the calibrated size and more.

    python benchmarks/plan_calibration.py [--shared] [--steps 30] [--rounds 5] [--threads 1] [--out FILE] [--json]

For each model: calibrate (20 updates of the same blocks, but few of them), predict, then train it for real and compare.
`--shared` is for machines that others use at the same time, whose speed drifts: it counts the processor time of this
process (one thread) in place of what the clock on the wall says, and calibrates during the run, between its updates.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from gristmill.cli.plan_calibrate import measuring_for
from gristmill.core.files import write_json
from gristmill.core.stage import Runtime
from gristmill.models.families import FAMILIES
from gristmill.planning.anatomy import anatomy
from gristmill.planning.calibration import STEPS, calibrate, depths
from gristmill.planning.depth import shallow
from gristmill.planning.train import Request
from gristmill.training.device import prepare

ROWS, CONTEXT = 4, 128


def models() -> list[tuple[str, Any]]:
    """Deep, narrow models of several families, most of whose parameters are in their blocks."""
    llama = dataclasses.replace(FAMILIES["llama"].presets["tiny"], vocab_size=512, dim=256, heads=4, kv_heads=4,
                                head_dim=64, mlp_dim=704, context=CONTEXT)
    gpt2 = dataclasses.replace(FAMILIES["gpt2"].presets["tiny"], vocab_size=512, dim=256, heads=4, kv_heads=4,
                               head_dim=64, mlp_dim=1024, context=CONTEXT)
    bert = dataclasses.replace(FAMILIES["bert"].presets["tiny"], vocab_size=512, dim=256, heads=4, mlp_dim=1024,
                               context=CONTEXT)
    return [("llama, 13 blocks", dataclasses.replace(llama, layers=13)),
            ("llama, 20 blocks", dataclasses.replace(llama, layers=20)),
            ("gpt2, 16 blocks", dataclasses.replace(gpt2, layers=16)),
            ("bert, 14 blocks", dataclasses.replace(bert, layers=14))]


def compare(name: str, config: Any, steps: int, shared: bool, threads: int) -> dict[str, Any]:
    """Predicted and measured, of one model."""
    compute = prepare(Runtime(device="cpu", threads=threads))
    request = Request(name=name, config=config, tokens=steps * ROWS * CONTEXT, context=CONTEXT,
                      batch_tokens=ROWS * CONTEXT, micro_batch=ROWS)
    measuring = measuring_for(request, None, compute)
    measuring.clock = time.process_time if shared else time.monotonic
    blocks = len(anatomy(config).per_block)
    seconds = None if shared else calibrate(config, measuring).step(blocks).expected
    between = {depth: measuring(shallow(config, depth)) for depth in depths(config)} if shared else {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = measuring.trainer(config, Path(folder), steps)
        trainer.source = watched = Watched(trainer.source, measuring.clock, between)
        began = measuring.clock()
        trainer.fit()
        total = measuring.clock() - began - watched.elsewhere
    if seconds is None:
        # The same fit, on what was measured between the updates.
        # Its ten steps of each depth are evenly taken from the whole run.
        seconds = calibrate(config, lambda few: itertools.cycle(
            watched.found[few.layers][::max(1, steps // STEPS)]).__next__).step(blocks).expected
    measured = median(watched.steps[1:])
    calibrated = anatomy(shallow(config, max(depths(config)))).total
    return {"name": name, "parameters": anatomy(config).total,
            "size_over_calibrated": anatomy(config).total / calibrated, "steps": steps,
            "predicted_step_s": seconds, "measured_step_s": measured, "step_ratio": seconds / measured,
            "predicted_total_s": seconds * steps, "measured_total_s": total, "total_ratio": seconds * steps / total}


@dataclasses.dataclass
class Watched:
    """Batches that note when they are asked for: between two askings lies an update. What is measured in the meantime
    does not count."""

    source: Any
    clock: Callable[[], float]
    between: dict[int, Callable[[], float]]
    steps: list[float] = dataclasses.field(default_factory=list)
    found: dict[int, list[float]] = dataclasses.field(default_factory=dict)
    elsewhere: float = 0.0
    left: float | None = None

    def window(self, step: int) -> Any:
        """The micro-batches of an update."""
        came = self.clock()
        if self.left is not None:
            self.steps.append(came - self.left)
        for depth, update in self.between.items():
            self.found.setdefault(depth, []).append(update())
        self.elsewhere += self.clock() - came
        self.left = self.clock()
        return self.source.window(step)


def middle(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of every figure; the ratios of the single rounds are kept beside."""
    row = {key: median(one[key] for one in rounds) if isinstance(value, float) else value
           for key, value in rounds[0].items()}
    return row | {"step_ratios": [one["step_ratio"] for one in rounds],
                  "total_ratios": [one["total_ratio"] for one in rounds]}


def said(row: dict[str, Any]) -> None:
    print(f"{row['name']:18} {row['size_over_calibrated']:4.1f} x the calibrated size: step {row['step_ratio']:.3f}, "
          f"total {row['total_ratio']:.3f} of what was measured", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", action="store_true")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=1, help="the median of so many of each, taken in turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "plan_calibration.json")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    if chosen.shared and chosen.threads != 1:
        parser.error("--shared counts one thread")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name, _ in models()}
    for _ in range(chosen.rounds):
        for name, config in models():
            found[name].append(compare(name, config, chosen.steps, chosen.shared, chosen.threads))
            if not chosen.json:
                said(found[name][-1])
    rows = [middle(of_one) for of_one in found.values()]
    if not chosen.json and chosen.rounds > 1:
        print(f"medians of {chosen.rounds}")
        for row in rows:
            said(row)
    result = {"name": "plan_calibration", "shared": chosen.shared, "threads": chosen.threads,
              "rounds": chosen.rounds, "torch": torch.__version__, "machine": platform.machine(),
              "date": time.strftime("%Y-%m-%d"), "models": rows}
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(chosen.out, result)
    if chosen.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
