"""Pretraining on one GPU beside a loop of plain PyTorch: tokens/s, MFU, peak memory.

    python -m benchmarks.pretrain_gpu [--sizes 30m 124m 350m 760m 1.3b] [--numerics bf16 float8]
        [--contestants ours plain documents graphs] [--rows ours=16,plain=8] [--rounds 5] [--seconds 1] [--minutes 9]
        [--context 2048] [--output PATH] [--save] [--json] [--device cuda]

Ours is the loop that recipes run (`training.loop.Trainer`): compiled blocks, its own cross-entropy, clipping, AdamW.
`documents` is the same on rows of several documents that do not see each other, as pretraining reads them, and `graphs`
the same with CUDA graphs, at the small sizes, where launching kernels takes longer than running them. `plain` is what
one writes in a page: scaled_dot_product_attention, the whole model compiled, bf16 autocast, fused AdamW. It knows no
float8: there the ratio is over its bf16, of the same run where that measured it. All have the same shapes and an untied
head over 50,304 tokens, and as many rows, a power of two, as the planner expects to fit beside what the others keep
between their steps; halved where they do not. They take turns: the allocator is emptied, one step is not timed, then
as many as take `--seconds`; medians over `--rounds` turns.

MFU is (6 x matmul parameters + the causal half of attention over whole rows) FLOPs a token over a rate of bf16
products, for float8 too: `mfu_datasheet` over that of the hardware table (989 TFLOP/s for an H200), by which targets
are judged, and `mfu_matmul` over the best large square product of the same run.

`--output` is written after every round and keeps what was measured before of other (size, numerics, contestant);
`--save` does so in benchmarks/results. What `--minutes` leave no time for is left out, and said. `--device cpu --sizes
tiny` runs everything on a CPU (without graphs), to see that it works.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_steps import CONTESTANTS, Shape, shapes
from gristmill.core.errors import GristmillError
from gristmill.core.files import read_json, write_json
from gristmill.core.stage import Runtime
from gristmill.models.loading import count_parameters
from gristmill.planning.memory import USABLE, Batch, memory
from gristmill.training.device import prepare
from gristmill.training.fit_memory import OutOfMemory, available_bytes
from gristmill.training.hardware import Hardware

RESULTS = Path(__file__).parent / "results" / "pretrain_gpu.json"
WARM = 4
"""Steps before anything is measured: they compile, allocate, and record graphs at the third."""
KEPT = 16
"""Bytes a parameter between steps: weight, gradient and both averages of AdamW, in fp32."""
PLAIN_LOGITS = 8
"""Bytes a logit of the plain loop, which makes all at once: in bf16, in fp32, and the gradient in bf16."""
FIRST = 60.0
"""Seconds that making and warming up a contestant is expected to take before one of its kind was seen."""


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


def free(device: torch.device) -> None:
    """Give back what nobody holds."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def fitting_rows(names: Sequence[str], shape: Shape, available: float, given: Mapping[str, int]) -> dict[str, int]:
    """Rows of each contestant: those given, else the largest power of two that should fit into so many bytes beside
    what the others keep between their steps: weights, states, and of graphs the activations."""
    config, rows = shape.config(), {name: given.get(name, shape.largest) for name in names}

    def planned(name: str) -> Any:
        return memory(config, Batch(context=shape.context, rows=rows[name], micro_batch=rows[name],
                                    documents=name == "documents"))

    def needs(name: str) -> float:
        logits = rows[name] * shape.context * shape.vocabulary * PLAIN_LOGITS if name == "plain" else 0
        return planned(name).total + logits

    def keeps(name: str) -> float:
        pool = planned(name).activations + planned(name).logits if name == "graphs" else 0
        return KEPT * count_parameters(config) + pool

    while True:
        kept = {name: keeps(name) for name in names}
        full = {name for name in names if needs(name) + sum(kept.values()) - kept[name] > USABLE * available}
        if full:
            full |= {"graphs"} & rows.keys()
        smaller = {name: rows[name] // 2 for name in full if name not in given and rows[name] > 1}
        if not smaller:
            return rows
        rows |= smaller


def matmul_rate(device: torch.device, side: int, seconds: float = 0.5) -> float:
    """FLOP/s of the best of some large square bf16 products."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    times, ends = [], time.perf_counter() + seconds
    while len(times) < 2 or time.perf_counter() < ends:
        times.append(block(lambda: a @ b, 5, device))
    return 2 * side**3 / min(times)


def datasheet(device: torch.device) -> float | None:
    """bf16 FLOP/s that the hardware table gives for this device."""
    known = Hardware.of(prepare(Runtime(device=device.type, precision="bf16"))).device
    return None if known is None else known.peak("bf16")


class Clock:
    """What time is left, and how long things take."""

    def __init__(self, minutes: float | None) -> None:
        self.ends = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.seen: dict[str, float] = {}
        """Most seconds a layer that it took to make a contestant and to warm it up."""

    @property
    def left(self) -> float:
        return self.ends - time.monotonic()

    def took(self, name: str, layers: int, seconds: float) -> None:
        self.seen[name] = max(self.seen.get(name, 0.0), seconds / layers)

    def expected(self, name: str, layers: int) -> float:
        """Seconds until it is warm."""
        return self.seen[name] * layers if name in self.seen else FIRST


class Store:
    """Results by (size, numerics, contestant), in a file where there is one."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.results = path, {}
        if path is not None and path.exists():
            for one in read_json(path)["results"]:
                self.results[self.key(one)] = one

    @staticmethod
    def key(one: Mapping[str, Any]) -> tuple[str, str, str]:
        return one["size"], one["numerics"], one["contestant"]

    def put(self, *found: dict[str, Any]) -> None:
        self.results |= {self.key(one): one for one in found}
        if self.path is not None:
            pairs = dict.fromkeys((size, numerics) for size, numerics, _ in self.results)
            compared = [one for pair in pairs if (one := self.comparison(*pair)) is not None]
            write_json(self.path, {"results": list(self.results.values()), "comparisons": compared})

    def find(self, size: str, numerics: str, contestant: str, like: Mapping[str, Any]) -> dict[str, Any] | None:
        """A result that may be compared with those that say the same of device, torch, compiling and context."""
        found = self.results.get((size, numerics, contestant))
        alike = ("device", "torch", "compiled", "context")
        return found if found is not None and all(found[name] == like[name] for name in alike) else None

    def comparison(self, size: str, numerics: str) -> dict[str, Any] | None:
        """Ours beside the others; None without ours."""
        mine = self.results.get((size, numerics, "ours"))
        if mine is None:
            return None
        result = {"name": f"pretrain {size}, T={mine['context']}, {numerics}", "ours": mine["tokens_per_s"],
                  "unit": "tokens/s", "runs": mine["turns"]}
        theirs = self.find(size, "bf16", "plain", mine)
        if theirs is not None:
            result |= {"peer": "plain PyTorch, bf16, compiled" if theirs["compiled"] else "plain PyTorch, bf16",
                       "peer_version": theirs["torch"], "theirs": theirs["tokens_per_s"],
                       "ratio": over(mine, theirs), "one_run": mine["run"] == theirs["run"]}
        for name in ("documents", "graphs"):
            if other := self.find(size, numerics, name, mine):
                result[f"{name}_over_ours"] = over(other, mine)
        if numerics != "bf16" and (other := self.find(size, "bf16", "ours", mine)):
            result["over_our_bf16"] = over(mine, other)
        return result


def over(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    return round(one["tokens_per_s"] / other["tokens_per_s"], 3)


def say(line: str) -> None:
    """For people, while it runs."""
    print(line, file=sys.stderr, flush=True)


@dataclass
class Contest:
    """One size in one precision: contestants that are made once and take turns."""

    shape: Shape
    numerics: str
    device: torch.device
    compiled: bool
    seconds: float
    """Of steps that a turn takes, at least."""
    clock: Clock
    steps: dict[str, Callable[[], Any]] = field(default_factory=dict)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)
    """Tokens a second of each turn."""
    left_out: dict[str, str] = field(default_factory=dict)
    failed: bool = False
    """Whether one was left out that should have run."""

    def enter(self, name: str, rows: int) -> None:
        """Make a contestant and warm it up, with half the rows as often as memory asks for it."""
        while rows:
            needed = self.clock.expected(name, self.shape.layers) + 3 * self.seconds * (len(self.steps) + 1)
            if self.clock.left < needed:
                return self.leave_out(name, f"about {needed:.0f} s are needed, {max(0, self.clock.left):.0f} s left")
            try:
                return self._make(name, rows)
            except OUT_OF_MEMORY:
                pass
            except GristmillError as error:
                return self.leave_out(name, str(error))
            except Exception as error:  # the others are worth measuring all the same
                traceback.print_exc()
                self.failed = True
                return self.leave_out(name, f"{type(error).__name__}: {error}")
            free(self.device)  # outside of `except`, whose traceback holds the model
            rows //= 2
        self.failed = True
        self.leave_out(name, "a single row does not fit")

    def _make(self, name: str, rows: int) -> None:
        held = self._held()
        began = time.perf_counter()
        step = CONTESTANTS[name](self.shape, rows, self.device, self.numerics, self.compiled)
        block(step, WARM, self.device)
        warm = time.perf_counter() - began
        self.clock.took(name, self.shape.layers, warm)
        each = block(step, 2, self.device)
        self.steps[name], self.rates[name] = step, []
        self.found[name] = {"rows": rows, "first_steps_s": round(warm, 1),
                            "steps": max(2, math.ceil(self.seconds / each))}
        if self.device.type == "cuda":
            self.found[name]["peak_gb"] = round((torch.cuda.max_memory_allocated() - held) / 1e9, 2)
        say(f"  {name}: {self.found[name]}")

    def leave_out(self, name: str, why: str) -> None:
        self.left_out[name] = why
        say(f"  {name} left out: {why}")

    def rounds(self, rounds: int) -> Iterator[int]:
        """Turns of all; the number of the round after each, until no more fit into the time."""
        for done in range(1, rounds + 1):
            began = time.monotonic()
            for name in list(self.steps):
                self._turn(name)
            yield done
            if self.clock.left < time.monotonic() - began:
                if done < rounds:
                    say(f"  {rounds - done} of {rounds} rounds left out: {max(0, self.clock.left):.0f} s left")
                return

    def _turn(self, name: str) -> None:
        free(self.device)
        try:
            self.steps[name]()
            each = block(self.steps[name], self.found[name]["steps"], self.device)
        except OUT_OF_MEMORY:
            each = None
        if each is not None:
            self.rates[name].append(self.found[name]["rows"] * self.shape.context / each)
            return
        # Beside all the others it does not fit after all.
        rows = self.found.pop(name)["rows"] // 2
        del self.steps[name], self.rates[name]
        self.enter(name, rows)
        if name in self.steps:
            self._turn(name)

    def _held(self) -> int:
        if self.device.type != "cuda":
            return 0
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()


def speed(rate: float, turns: int, about: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of so many tokens a second."""
    tflops = rate * about["flops_per_token"] / 1e12
    return {"turns": turns, "tokens_per_s": round(rate),
            **({"mfu_datasheet": round(tflops / about["datasheet_tflops"], 4)} if about["datasheet_tflops"] else {}),
            "mfu_matmul": round(tflops / about["matmul_tflops"], 4)}


def compare(size: str, numerics: str, options: argparse.Namespace, about: dict[str, Any], clock: Clock,
            store: Store) -> dict[str, Any]:
    """One size in one precision, all contestants in turns: what the store then says of it, and who was left out."""
    shape, device = shapes(options.context)[size], torch.device(options.device)
    about = about | {"context": shape.context, "flops_per_token": shape.config().flops_per_token(shape.context)}
    names = [name for name in options.contestants if name != "graphs" or (shape.graphs and numerics == "bf16")]
    if numerics != "bf16" and store.find(size, "bf16", "plain", about) and "plain" in names:
        names.remove("plain")
    say(f"{size}, {numerics}")
    torch.compiler.reset()
    free(device)
    available = available_bytes(device) if device.type == "cuda" else math.inf
    contest = Contest(shape, numerics, device, not options.eager, options.seconds, clock)
    rows = fitting_rows(names, shape, available, options.rows)
    for name in names:
        contest.enter(name, rows[name])
    done: dict[str, dict[str, Any]] = {}
    for _ in contest.rounds(options.rounds):
        done = {name: {
            "size": size, "numerics": "bf16" if name == "plain" else numerics, "contestant": name, **about,
            **contest.found[name], **speed(statistics.median(rates), len(rates), about),
        } for name, rates in contest.rates.items()}
        store.put(*done.values())
    result = (store.comparison(size, numerics) if "ours" in done else None) or {
        "name": f"pretrain {size}, T={shape.context}, {numerics}", "unit": "tokens/s"}
    contest.steps.clear()
    return {**result, "of": done, "left_out": contest.left_out, "failed": contest.failed}


def described(result: dict[str, Any]) -> str:
    """A comparison in a line."""
    def one(name: str, of: Mapping[str, Any]) -> str:
        sheet = f"{of['mfu_datasheet']:.1%} of the data sheet, " if "mfu_datasheet" in of else ""
        return f"{name} {of['tokens_per_s']:,} tokens/s (MFU {sheet}{of['mfu_matmul']:.1%} of the measured product)"

    parts = [one(*pair) for pair in result["of"].items()]
    parts += [f"{name.replace('_', ' ')} {result[name]}" for name in (
        "ratio", "documents_over_ours", "graphs_over_ours", "over_our_bf16") if name in result]
    parts += [f"{name} left out: {why}" for name, why in result["left_out"].items()]
    return f"{result['name']}: " + "; ".join(parts)


def commit() -> str:
    """Of this checkout; nothing where there is no git, or no checkout."""
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False,
                               cwd=Path(__file__).parent)
    except OSError:
        return ""
    return found.stdout.strip()


def rows_of(text: str) -> dict[str, int]:
    """`ours=16,plain=8` as a mapping."""
    found = {}
    for part in text.split(","):
        name, _, rows = part.partition("=")
        if name not in CONTESTANTS or not rows.isdecimal() or int(rows) < 1:
            raise argparse.ArgumentTypeError(f"{part!r} is not one of {', '.join(CONTESTANTS)}, then = and rows")
        found[name] = int(rows)
    return found


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["30m", "124m", "350m", "760m", "1.3b"], choices=list(shapes(64)))
    parser.add_argument("--numerics", nargs="+", default=["bf16", "float8"], choices=["bf16", "float8"])
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--rows", type=rows_of, default={}, help="rows at once, as in ours=16,plain=8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of steps in a turn, at least")
    parser.add_argument("--minutes", type=float, help="leave out what would take longer")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--matmul", type=int, default=8192, help="side of the square product that MFU is measured by")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--json", action="store_true")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--output", type=Path, help="a file that takes the results, beside those that it has")
    where.add_argument("--save", action="store_const", dest="output", const=RESULTS, help=f"the same in {RESULTS.name}")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu --sizes tiny shows that the benchmark runs")
    return options


def main() -> None:
    # Read when CUDA starts: contestants whose tensors have other sizes then share what memory is free.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    options = parsed()
    torch._dynamo.config.recompile_limit = 64  # contestants share their blocks' code
    clock, store, device = Clock(options.minutes), Store(options.output), torch.device(options.device)
    rate, sheet = matmul_rate(device, options.matmul), datasheet(device)
    about = {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
             "torch": torch.__version__, "commit": commit(), "run": datetime.now(UTC).isoformat(timespec="seconds"),
             "compiled": not options.eager, "matmul_tflops": rate / 1e12, "datasheet_tflops": sheet and sheet / 1e12}
    first = {"name": f"bf16 matmul of {options.matmul}", "ours": round(rate / 1e12, 3), "unit": "TFLOP/s",
             "datasheet": about["datasheet_tflops"]}
    print(json.dumps(first) if options.json else f"{first['name']}: {first['ours']} TFLOP/s", flush=True)
    failed = False
    for size in options.sizes:
        for numerics in options.numerics:
            result = compare(size, numerics, options, about, clock, store)
            failed |= result.pop("failed")
            print(json.dumps(result) if options.json else described(result), flush=True)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
