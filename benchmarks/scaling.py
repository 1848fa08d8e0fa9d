"""Weak scaling: updates of one process beside the same ones of two, each process with a thread and rows of its own.

    python -m benchmarks.scaling [--rounds 5] [--rows 4] [--micro 1 4] [--json] [--store FILE]

Forward, backward, norm, clipping and AdamW of a decoder, gloo on one computer; the layouts take turns, so that what
else the computer does hits all of them. While one process works alone the other one waits. `efficiency` is tokens per
second and process over those of the process alone. Stored: benchmarks/results/scaling.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from gristmill.core.files import write_json
from gristmill.models.config import DecoderConfig
from gristmill.models.decoder import Decoder
from gristmill.objectives.causal_lm import CausalLM
from gristmill.training.device import Compute, bf16_pays
from gristmill.training.optimizers import OptimizerConfig, build_optimizer
from gristmill.training.parallel import Layout, World
from gristmill.training.parallel.apply import parallelise
from gristmill.training.parallel.gradients import clip, total_norm

CONFIG = DecoderConfig(vocab_size=4096, dim=256, layers=6, heads=4, kv_heads=4, head_dim=64, mlp_dim=704, context=256)
LAYOUTS = ("none", "replicate=2", "shard=2", "tensor=2")


class Updates:
    """Repeated updates on one layout."""

    def __init__(self, text: str, compute: Compute, rows: int, micro: int) -> None:
        layout = Layout.parse(text)
        self.world = World.alone() if layout.processes == 1 else World.join(layout, compute.device)
        self.model = Decoder(CONFIG)
        self.model.initialise(1)
        self.objective = CausalLM()
        self.passes = parallelise(self.model, self.objective, None, self.world, compute)
        self.optimizer = build_optimizer(self.model, OptimizerConfig(kind="adamw"))
        # Weak scaling: each process brings its rows. Those that share them (tensor) bring theirs to the same update.
        each = rows * self.world.size // self.world.data_size
        generator = torch.Generator().manual_seed(self.world.data_rank)
        ids = [torch.randint(CONFIG.vocab_size, (each, CONFIG.context + 1), generator=generator) for _ in range(micro)]
        self.window = [{"input_ids": i[:, :-1].contiguous(), "targets": i[:, 1:].contiguous()} for i in ids]
        self.tokens = micro * rows * CONFIG.context
        """Of an update, over the processes."""

    def run(self) -> float:
        """Tokens a second and process."""
        began = time.perf_counter()
        self.passes.run(self.window, {"loss": 1 / (self.tokens * self.world.size)})
        parameters = list(self.model.parameters())
        clip(parameters, 1.0, total_norm(parameters, self.world))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.world.barrier()
        return self.tokens / (time.perf_counter() - began)


def measure(rank: int, store: str, options: Any, results: str) -> None:
    """What each process runs."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=dist.FileStore(store, 2))
    device = torch.device("cpu")
    compute = Compute(device, torch.bfloat16 if bf16_pays(device) else torch.float32, 1)
    rates: dict[str, list[float]] = {}
    for micro in options.micro:
        runs = {text: Updates(text, compute, options.rows, micro) for text in LAYOUTS if text != "none" or rank == 0}
        for at in range(options.rounds + 1):
            for text in LAYOUTS:
                dist.barrier()
                if text in runs:
                    rate = runs[text].run()
                    if at:  # the first one is for warming up
                        rates.setdefault(f"{text} x{micro}", []).append(rate)
                dist.barrier()
    if rank == 0:
        Path(results).write_text(json.dumps({"rates": rates, "dtype": str(compute.dtype).removeprefix("torch.")}))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4, help="of a process and micro-batch")
    parser.add_argument("--micro", type=int, nargs="+", default=[1, 4], help="micro-batches of an update")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--store", type=Path, help="file for the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        processes.spawn(measure, (str(Path(folder) / "store"), options, str(results)), nprocs=2)
        found = json.loads(results.read_text())
    table = []
    for name, rates in found["rates"].items():
        alone = statistics.median(found["rates"][f"none x{name.rsplit('x', 1)[1]}"])
        rate = statistics.median(rates)
        table.append({"layout": name.rsplit(" x", 1)[0], "micro_batches": int(name.rsplit("x", 1)[1]),
                      "tokens_per_second_and_process": rate, "efficiency": rate / alone, "runs": rates})
        print(json.dumps(table[-1]) if options.json else
              f"{name:16} {rate:9,.0f} tokens/s and process, efficiency {rate / alone:.2f}")
    if options.store:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        parameters = sum(p.numel() for p in Decoder(CONFIG).parameters())
        write_json(options.store, {
            "date": datetime.date.today().isoformat(), "commit": commit, "torch": torch.__version__,
            "machine": platform.machine(), "dtype": found["dtype"], "parameters": parameters,
            "rows": options.rows, "context": CONFIG.context, "results": table})


if __name__ == "__main__":
    main()
