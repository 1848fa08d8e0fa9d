"""Pretraining on one GPU beside a loop of plain PyTorch: tokens/s, share of the matmul rate (MFU), peak memory.

    python -m benchmarks.pretrain_gpu [--sizes 30m 124m 350m 760m 1.3b] [--numerics bf16 float8] [--rounds 5]
        [--steps 4] [--context 2048] [--device cuda] [--json] [--save]

Ours is the loop that recipes run (`training.loop.Trainer`): compiled blocks, its own cross-entropy, clipping, AdamW.
The plain loop is what one writes in a page: scaled_dot_product_attention, the whole model compiled, bf16 autocast,
fused AdamW. Both have the same shapes, an untied head over 50,304 tokens, and the micro-batch that suits them best
among the powers of two that fit. They take turns, a block of `--steps` steps each; medians over `--rounds` blocks. MFU
is (6 x matmul parameters + the causal half of attention) FLOPs over the best large square bf16 matmul of the same run,
and, as `mfu_datasheet`, over the hardware table's rate where it knows the device. At the small sizes `graphs`, which is
ours with CUDA graphs, takes a turn too: 30m has a micro-batch of 8, where launching kernels takes longer than running
them. `--device cpu --sizes tiny` runs everything on a CPU (without graphs), to see that it works.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.training_steps import PlainModel
from benchmarks.training_steps import Shape as SmallShape
from gristmill.core.errors import GristmillError
from gristmill.core.files import write_json
from gristmill.core.stage import Runtime
from gristmill.models import Decoder, DecoderConfig
from gristmill.models.loading import count_parameters
from gristmill.objectives import CausalLM
from gristmill.training import OptimizerConfig, Trainer, TrainingConfig
from gristmill.training.device import prepare
from gristmill.training.fit_memory import OutOfMemory
from gristmill.training.hardware import Hardware
from gristmill.training.parallel.apply import Settings
from gristmill.training.report import Report

RESULTS = Path(__file__).parent / "results" / "pretrain_gpu.json"
CLIP, RATE = 1.0, 1e-4
WARM = 4
"""Steps before anything is measured: they compile, allocate, and record graphs at the third."""
KEPT = 16
"""Bytes a parameter between steps: weight, gradient and both averages of AdamW, in fp32."""


@dataclass(frozen=True)
class Shape(SmallShape):
    """Sizes with a vocabulary of their own."""

    vocabulary: int = 50_304
    largest: int = 64
    """Rows of the largest micro-batch that is tried."""
    graphs: bool = False
    """Whether CUDA graphs take a turn."""

    def config(self) -> DecoderConfig:
        return DecoderConfig(vocab_size=self.vocabulary, dim=self.dim, layers=self.layers, heads=self.heads,
                             kv_heads=self.heads, head_dim=self.dim // self.heads, mlp_dim=self.mlp_dim,
                             context=self.context)


def shapes(context: int) -> dict[str, Shape]:
    """Heads of 128 channels, which attention kernels like best; 30m has heads of 64."""
    return {
        "tiny": Shape(64, 2, 2, min(context, 64), 4, vocabulary=512, largest=4, graphs=True),
        "30m": Shape(384, 6, 6, min(context, 1024), 0, vocabulary=32_768, largest=8, graphs=True),
        "124m": Shape(768, 12, 6, context, 0, largest=64, graphs=True),
        "350m": Shape(1024, 24, 8, context, 0, largest=32),
        "760m": Shape(1536, 24, 12, context, 0, largest=32),
        "1.3b": Shape(2048, 24, 16, context, 0, largest=16),
    }


class Rows:
    """Random tokens, the same batch for everybody at a step, on the CPU as a training reads them."""

    static = True

    def __init__(self, shape: Shape, rows: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(0, shape.vocabulary, (rows, shape.context + 1), generator=generator)

    def window(self, step: int) -> list[dict[str, Tensor]]:
        return [{"input_ids": self.ids[:, :-1], "targets": self.ids[:, 1:].contiguous()}]


def ours(shape: Shape, rows: int, device: torch.device, numerics: str, compiled: bool,
         graphs: bool = False) -> Callable[[], Any]:
    """A step of the one training loop, whose numbers are read while the next one runs, as `fit` does."""
    model = Decoder(shape.config())
    model.initialise(0)
    folder = tempfile.TemporaryDirectory()
    graphed = "never" if not graphs else "always" if device.type == "cuda" else "auto"
    trainer = Trainer(
        model=model.to(device), objective=CausalLM(), source=Rows(shape, rows), steps=10**6,
        compute=prepare(Runtime(device=device.type, precision=numerics, cuda_graphs=graphed)), folder=Path(folder.name),
        checkpoints=Path(folder.name) / "checkpoints",
        config=TrainingConfig(optimizer=OptimizerConfig(kind="adamw", learning_rate=RATE), clip=CLIP),
        settings=Settings(compile=compiled))
    window = trainer.source.window(0)
    running: deque[Report] = deque()

    def step() -> Any:
        assert folder
        running.append(trainer.advance(window))
        if len(running) > trainer.lag:
            running.popleft().read()

    return step


def plain(shape: Shape, rows: int, device: torch.device, numerics: str, compiled: bool) -> Callable[[], Any]:
    """A page of PyTorch."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    model = PlainModel(shape)
    model.embedding = nn.Embedding(shape.vocabulary, shape.dim)
    model.head = nn.Linear(shape.dim, shape.vocabulary, bias=False)
    model.to(device)
    run: Any = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    batch = {name: tensor.to(device) for name, tensor in Rows(shape, rows).window(0)[0].items()}

    def step() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            loss = run(batch["input_ids"], batch["targets"])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


Contestant = Callable[[Shape, int, torch.device, str, bool], Callable[[], Any]]
CONTESTANTS: dict[str, Contestant] = {"ours": ours, "plain": plain, "graphs": partial(ours, graphs=True)}
OUT_OF_MEMORY = (torch.OutOfMemoryError, OutOfMemory)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def block(step: Callable[[], Any], steps: int, device: torch.device) -> float:
    """Seconds a step."""
    wait(device)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    return (time.perf_counter() - began) / steps


def forget(device: torch.device) -> None:
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def best_rows(name: str, shape: Shape, device: torch.device, numerics: str, compiled: bool, others: int) -> int:
    """The micro-batch with most tokens a second among the two largest powers of two that fit beside what so many other
    contestants keep between their steps."""
    rates: dict[int, float] = {}
    rows = shape.largest
    kept = others * KEPT * count_parameters(shape.config()) if device.type == "cuda" else 0
    while rows and len(rates) < 2:
        forget(device)
        try:
            room: Tensor | None = torch.empty(kept, dtype=torch.uint8, device=device)
            step = CONTESTANTS[name](shape, rows, device, numerics, compiled)
            block(step, WARM, device)
            rates[rows] = rows / block(step, 3, device)
        except OUT_OF_MEMORY:
            pass
        room = None  # noqa: F841  (free again)
        step = lambda: None  # noqa: E731  (lets go of the model before the next is made)
        rows //= 2
    if not rates:
        raise SystemExit(f"{name} of {shape} does not fit {device} with a single row")
    return max(rates, key=rates.__getitem__)


def matmul_rate(device: torch.device, side: int) -> float:
    """FLOP/s of the best of some large square bf16 products."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    times = [block(lambda: a @ b, 5, device) for _ in range(5)]
    return 2 * side**3 / min(times)


def datasheet(device: torch.device) -> float | None:
    """bf16 FLOP/s that the hardware table gives for this device."""
    known = Hardware.of(prepare(Runtime(device=device.type, precision="bf16"))).device
    return None if known is None else known.peak("bf16")


def compare(size: str, numerics: str, options: argparse.Namespace, device: torch.device,
            rate: float) -> dict[str, Any]:
    """One size in one precision: all contestants in turns."""
    shape, compiled = shapes(options.context)[size], not options.eager
    found: dict[str, dict[str, Any]] = {}
    refused: str | None = None
    names = [name for name in CONTESTANTS if name != "graphs" or shape.graphs]
    # The plain loop knows no float8: it stays bf16, and the ratio says what float8 brings over all that it has.
    for name in names:
        try:
            rows = best_rows(name, shape, device, numerics, compiled, len(names) - 1)
        except GristmillError as error:
            if name != "graphs":
                raise
            refused = str(error)
            continue
        forget(device)
        began = time.perf_counter()
        step = CONTESTANTS[name](shape, rows, device, numerics, compiled)
        block(step, WARM, device)
        found[name] = {"rows": rows, "first_steps_s": round(time.perf_counter() - began, 1)}
        if device.type == "cuda":
            found[name]["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        step = lambda: None  # noqa: E731
    steps = together(found, shape, device, numerics, compiled)
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            rates[name].append(found[name]["rows"] * shape.context / block(step, options.steps, device))
    flops = shape.config().flops_per_token(shape.context)
    sheet = datasheet(device)
    for name in steps:
        tokens = statistics.median(rates[name])
        found[name] |= {"tokens_per_s": round(tokens), "mfu": round(tokens * flops / rate, 4)}
        if sheet:
            found[name]["mfu_datasheet"] = round(tokens * flops / sheet, 4)
    def over(name: str, other: str) -> float:
        return round(statistics.median(a / b for a, b in zip(rates[name], rates[other], strict=True)), 3)

    of_graphs: dict[str, Any] = {}
    if "graphs" in found:
        of_graphs["graphs_over_ours"] = over("graphs", "ours")
    elif refused is not None:
        of_graphs["graphs_refused"] = refused
    return {"name": f"pretrain {size}, T={shape.context}, {numerics}", "peer": "plain PyTorch, bf16, compiled",
            "peer_version": torch.__version__, "ours": found["ours"]["tokens_per_s"],
            "theirs": found["plain"]["tokens_per_s"], "unit": "tokens/s", "ratio": over("ours", "plain"), **of_graphs,
            "runs": options.rounds, "flops_per_token": flops, "of": found}


def together(found: dict[str, dict[str, Any]], shape: Shape, device: torch.device, numerics: str,
             compiled: bool) -> dict[str, Callable[[], Any]]:
    """A warm step of everybody, side by side; with half the rows where that takes too much memory."""
    while True:
        forget(device)
        steps: dict[str, Callable[[], Any]] = {}
        try:
            for name, one in found.items():
                steps[name] = CONTESTANTS[name](shape, one["rows"], device, numerics, compiled)
                block(steps[name], WARM, device)
            return steps
        except OUT_OF_MEMORY:
            if all(one["rows"] == 1 for one in found.values()):
                raise
        steps.clear()
        for one in found.values():
            one["rows"] = max(1, one["rows"] // 2)
            one.pop("peak_gb", None)  # was that of more rows


def comparisons(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    device = torch.device(options.device)
    rate = matmul_rate(device, options.matmul)
    yield {"name": f"bf16 matmul of {options.matmul}", "ours": round(rate / 1e12, 3), "unit": "TFLOP/s"}
    ours_by: dict[tuple[str, str], float] = {}
    for size in options.sizes:
        for numerics in options.numerics:
            result = compare(size, numerics, options, device, rate)
            ours_by[size, numerics] = result["ours"]
            if (size, "bf16") in ours_by and numerics != "bf16":
                result["over_our_bf16"] = round(result["ours"] / ours_by[size, "bf16"], 3)
            yield result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["30m", "124m", "350m", "760m", "1.3b"], choices=list(shapes(64)))
    parser.add_argument("--numerics", nargs="+", default=["bf16", "float8"], choices=["bf16", "float8"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--matmul", type=int, default=8192, help="side of the square product that MFU is measured by")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--eager", action="store_true", help="compile neither")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", action="store_true", help=f"store the results in {RESULTS.name}")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu --sizes tiny shows that the benchmark runs")
    found = []
    for result in comparisons(options):
        found.append(result)
        if options.json:
            print(json.dumps(result), flush=True)
        elif "ratio" in result:
            both = result["of"]
            print(f"{result['name']}: ours {result['ours']:,} tokens/s, MFU {both['ours']['mfu']:.1%}; plain "
                  f"{result['theirs']:,}, {both['plain']['mfu']:.1%}; ratio {result['ratio']}" + (
                      f"; graphs {result['graphs_over_ours']} of ours" if "graphs_over_ours" in result else ""),
                  flush=True)
        else:
            print(f"{result['name']}: {result['ours']} {result['unit']}", flush=True)
    if options.save:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        device = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
        write_json(RESULTS, {"commit": commit.stdout.strip(), "torch": torch.__version__, "device": device,
                             "comparisons": found})


if __name__ == "__main__":
    main()
