"""Pretraining on a CPU: one step of ours beside transformers', litgpt's, nanochat's and a plain loop's, taking turns.

    python -m benchmarks.pretrain_cpu [--parts speed where compile scale quality target] [--shapes i ii]
        [--axes size context] [--rounds 5] [--seeds 3] [--peers FOLDER] [--json] [--save]

speed: tokens/s, the share of the bf16 matmul rate of the same run, and ratios of steps of the same round, with random
tokens, vocabulary 8192, AdamW and clipping. where: how much of a step goes into products and attention. compile: what
compiling costs, with an empty and a full cache, and after how many seconds of training it has paid. scale: seconds a
step by size of model and by context. quality: losses after the same tokens of real text (Python's own library) in bf16,
with and without our kernels, and in fp32, from the same weights. target: seconds until a loss is reached, beside
transformers' and nanochat's defaults.

--peers names a folder with litgpt (pip install --no-deps --target FOLDER litgpt==0.5.13 lightning==2.6.6
lightning-utilities torchmetrics) and with nanochat's package (github.com/karpathy/nanochat at 92d63d4, the folder
nanochat/ of it); what is not there is left out.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.training_steps import (
    MAKERS,
    RATE,
    SHAPES,
    VOCABULARY,
    Contestant,
    NanoChat,
    Ours,
    Shape,
    hugging_face,
)
from gristmill.core import native
from gristmill.core.artifact import Artifact
from gristmill.data.documents import Document, row, write_shard
from gristmill.tokenizer.train import train_bpe
from gristmill.tokens import materialise, text_batches
from gristmill.training.optimizers import OptimizerConfig

RESULTS = {"avx512": "pretrain_cpu.json", "amx": "pretrain_cpu-amx.json"}
"""In `results`, by what products are made with."""
Found = dict[str, Any]
Pair = tuple[Tensor, Tensor]

SIZES = [Shape(128, 4, 2, 512, 4), Shape(256, 6, 4, 512, 4), Shape(512, 8, 8, 512, 4), Shape(768, 12, 12, 512, 2),
         Shape(1024, 10, 16, 512, 2)]
CONTEXTS = [Shape(256, 6, 4, context, 4096 // context) for context in (128, 256, 512, 1024, 2048)]
SMALL = Shape(128, 4, 2, 128, 16)
LEARNING = Shape(256, 4, 4, 128, 16)


def timed(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def random_batches(shape: Shape, count: int = 4) -> list[Pair]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, VOCABULARY, (shape.rows, shape.context + 1), generator=generator) for _ in range(count)]
    return [(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()) for ids in rows]


def matmul(rows: int, inner: int, columns: int) -> Callable[[], float]:
    """One bf16 product of that size: FLOPs a second."""
    a, b = (torch.randn(size).bfloat16() for size in ((rows, inner), (columns, inner)))
    return lambda: 2 * rows * inner * columns / timed(lambda: a @ b.t())


def yardsticks(shape: Shape) -> dict[str, Callable[[], float]]:
    """Large squares, and the products of the model's own layers."""
    tokens, dim, inner = shape.tokens, shape.dim, shape.mlp_dim
    return {"square 2048": matmul(2048, 2048, 2048), "square 4096": matmul(4096, 4096, 4096),
            "query, key, value": matmul(tokens, dim, 3 * dim), "gate, up": matmul(tokens, dim, 2 * inner),
            "down": matmul(tokens, inner, dim), "head": matmul(512, dim, VOCABULARY)}


def contestants(shape: Shape, names: list[str]) -> dict[str, Contestant]:
    """Those that can be had here, warmed up: compiled, and with optimizer states."""
    torch.compiler.reset()  # dynamo stops compiling after eight shapes
    found = {}
    for name in names:
        package = name.split(",")[0]
        if package in {"litgpt", "nanochat"} and importlib.util.find_spec(package) is None:
            print(f"{name}: left out, {package} cannot be imported (see --peers)", file=sys.stderr)
            continue
        found[name] = MAKERS[name](shape)
        found[name].settle()
        for batch in random_batches(shape, 2):
            found[name].step(*batch)
    return found


def turns(shape: Shape, models: dict[str, Contestant], rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds a step of each, and medians of the yardsticks, all within each round."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    products, rates = yardsticks(shape), {}
    measured: dict[str, list[float]] = {name: [] for name in products}
    batches = random_batches(shape)
    for number in range(rounds):
        for name, model in models.items():
            model.settle()
            batch = batches[number % len(batches)]
            seconds[name].append(timed(lambda model=model, batch=batch: model.step(*batch)))  # type: ignore[misc]
        for name, product in products.items():
            measured[name] += [product() for _ in range(3)]
    for name, found in measured.items():
        rates[name] = statistics.median(found)
    return seconds, rates


def speed(options: argparse.Namespace) -> Iterator[Found]:
    versions = {name: importlib.metadata.version(package) for name, package in
                (("hugging face", "transformers"), ("litgpt", "litgpt"), ("plain loop", "torch"))
                if importlib.util.find_spec(package)} | {"nanochat": "92d63d4"}
    for key in options.shapes:
        shape = SHAPES[key]
        models = contestants(shape, list(MAKERS))
        seconds, rates = turns(shape, models, options.rounds)
        best = max(rate for name, rate in rates.items() if name.startswith("square"))
        yield {"name": f"matmul, bf16, ({key})"} | {name: round(rate / 1e9) for name, rate in rates.items()} | {
            "unit": "GFLOP/s"}
        ours = seconds["ours"]
        for name, steps in seconds.items():
            ratios = sorted(other / own for other, own in zip(steps, ours, strict=True))
            middle = statistics.median(steps)
            yield {"name": f"({key}) {shape}", "peer": name, "peer_version": versions.get(name.split(",")[0], ""),
                   "ours": round(shape.tokens / statistics.median(ours)), "theirs": round(shape.tokens / middle),
                   "unit": "tokens/s", "ratio": round(statistics.median(ratios), 2),
                   "ratios": [round(ratios[0], 2), round(ratios[-1], 2)],
                   "share_of_matmul": round(shape.flops / middle / best, 3), "runs": len(steps)}


GROUPS = {"products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn::", "onednn::", "::cpu_linear",
                       "::cpu_gated", "_HeadLoss"),
          "attention": ("flash_attention", "cpu_attention", "cpu_joined_attention")}
"""Names of operations. Ours make the gate and the head's softmax together with their products."""


def where(options: argparse.Namespace) -> Iterator[Found]:
    """Seconds of a step in matrix products, in attention and in all the rest, by torch's profiler."""
    for key in options.shapes:
        shape = SHAPES[key]
        names = [name for name in MAKERS if name.endswith("bf16, compiled") or name == "ours"]
        spent: dict[str, dict[str, list[float]]] = {name: {} for name in names}
        models = contestants(shape, names)
        for number in range(options.rounds):
            for name, model in models.items():
                model.settle()
                batch = random_batches(shape)[number % 4]
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                    whole = timed(lambda model=model, batch=batch: model.step(*batch))  # type: ignore[misc]
                events = profile.key_averages()
                for group, words in GROUPS.items():
                    seconds = sum(e.self_cpu_time_total for e in events if any(word in e.key for word in words)) / 1e6
                    spent[name].setdefault(group, []).append(seconds)
                    whole -= seconds
                spent[name].setdefault("rest", []).append(whole)
        found = {name: {group: statistics.median(times) for group, times in groups.items()}
                 for name, groups in spent.items() if groups}
        for name, groups in found.items():
            yield {"name": f"where the time goes, ({key}) {shape}", "peer": name} | {
                group: round(seconds, 5) for group, seconds in groups.items()} | {"unit": "seconds a step",
                "ratio": round(sum(groups.values()) / sum(found["ours"].values()), 2), "runs": options.rounds}


def apart(arguments: list[str], environment: dict[str, str]) -> Any:
    """What this program prints last when it runs in a process of its own."""
    result = subprocess.run([sys.executable, "-m", "benchmarks.pretrain_cpu", *arguments], check=True, text=True,
                            capture_output=True, cwd=Path(__file__).parents[1], env=os.environ | environment)
    return json.loads(result.stdout.splitlines()[-1])


def first_steps(key: str, compiled: bool) -> Found:
    shape = SHAPES[key]
    ours = Ours(shape, compiled=compiled)
    ours.settle()
    batches = random_batches(shape, 2)
    first = timed(lambda: ours.step(*batches[0]))
    return {"first": first, "later": statistics.median([timed(lambda: ours.step(*batches[1])) for _ in range(5)])}


def compile_cost(options: argparse.Namespace) -> Iterator[Found]:
    for key in options.shapes:
        with tempfile.TemporaryDirectory() as cache:
            eager, cold, warm = (apart(["--first-steps", key, compiled], {"TORCHINDUCTOR_CACHE_DIR": cache})
                                 for compiled in ("no", "yes", "yes"))
        saved = eager["later"] - cold["later"]
        yield {"name": f"compile, ({key})"} | {
            f"{name}_{which}_step": round(found[which], 3) for name, found in
            (("eager", eager), ("cold", cold), ("warm", warm)) for which in ("first", "later")} | {
            f"break_even_{name}": round((found["first"] - eager["first"]) / saved * cold["later"], 1) if saved > 0
            else None for name, found in (("cold", cold), ("warm", warm))} | {"unit": "seconds"}


def scale(options: argparse.Namespace) -> Iterator[Found]:
    for axis in options.axes:
        for shape in SIZES if axis == "size" else CONTEXTS:
            models = contestants(shape, ["ours", "hugging face, bf16"])
            seconds, rates = turns(shape, models, max(3, options.rounds // 2))
            ours, theirs = (statistics.median(seconds[name]) for name in ("ours", "hugging face, bf16"))
            yield {"name": f"{axis}: {shape}", "axis": axis, "parameters": sum(
                       parameter.numel() for parameter in models["ours"].model.parameters()),
                   "context": shape.context, "seconds_a_million_tokens": round(ours / shape.tokens * 1e6, 1),
                   "theirs": round(theirs / shape.tokens * 1e6, 1),
                   "peer": "hugging face, bf16", "ratio": round(theirs / ours, 2),
                   "share_of_matmul": round(shape.flops / ours / rates["square 2048"], 3)}


def real_text(folder: Path, shape: Shape, seed: int) -> Callable[[int], Pair]:
    """Batches of Python's own library: a pure function of the step."""
    library = Path(sysconfig.get_paths()["stdlib"])
    texts = [path.read_text("utf-8", errors="replace") for path in sorted(library.glob("*.py"))]
    rows = [row(Document(id=str(i), text=text, source="library"), split="train") for i, text in enumerate(texts)]
    if not (folder / "corpus").exists():
        write_shard(folder / "corpus" / "documents" / "train-00000.parquet", rows)
    corpus = Artifact(folder / "corpus", {"kind": "corpus", "name": "corpus", "digest": "d", "version": 1})
    tokenizer = train_bpe([texts], vocab_size=VOCABULARY)
    source = text_batches(materialise(corpus, tokenizer, "train", folder / "cache"), context=shape.context,
                          batch=shape.rows, seed=seed)

    def at(step: int) -> Pair:
        batch = source.batch(step)  # documents are not kept apart: the peer has no such mask
        return batch["input_ids"], batch["targets"]

    return at


ARMS = {"bf16": {}, "bf16, without the C++ kernels": {native.SWITCH: "0"}, "fp32": {}}


def learn(arm: str, seed: int, steps: int) -> list[float]:
    """Losses of every update; the learning rate rises for a tenth of the updates and falls to nought."""
    with tempfile.TemporaryDirectory() as name:
        batch = real_text(Path(name), SMALL, seed)
        model = Ours(SMALL, bf16=arm.startswith("bf16"), compiled=False, seed=seed)
        model.settle()
        losses = []
        for step in range(steps):
            share = (step + 1) / steps
            for group in model.optimizer.param_groups:
                group["lr"] = RATE * min(10 * share, (1 - share) / 0.9 + 1 / steps)
            losses.append(float(model.step(*batch(step))))
        return losses


def quality(options: argparse.Namespace) -> Iterator[Found]:
    """Each seed: the same weights and batches in every arm. What a difference is held against: fp32 of other seeds."""
    last: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in range(options.seeds):
        for arm, environment in ARMS.items():
            losses = apart(["--learn", arm, str(seed), "--steps", str(options.steps)], environment)
            last[arm].append(statistics.mean(losses[-50:]))
        yield {"name": f"loss after {options.steps * SMALL.tokens:,} tokens, seed {seed}", "shape": str(SMALL)} | {
            arm: round(found[-1], 4) for arm, found in last.items()} | {
            "unit": "nats a token, mean of the last 50 updates"}
    for arm in list(ARMS)[:-1]:
        more = [one - other for one, other in zip(last[arm], last["fp32"], strict=True)]
        yield {"name": f"{arm} minus fp32, {options.steps} updates, {options.seeds} seeds",
               "mean": round(statistics.mean(more), 4),
               "standard_error": round(statistics.stdev(more) / len(more) ** 0.5, 4),
               "between_seeds_of_fp32": round(statistics.stdev(last["fp32"]), 4), "unit": "nats a token"}


def target(options: argparse.Namespace) -> Iterator[Found]:
    """Ours with its default optimizer, and peers with what they do on a CPU unless told otherwise: seconds of steps
    alone, without what compiling takes (ours does not)."""
    makers: dict[str, Callable[[int], Contestant]] = {
        "ours": lambda seed: Ours(LEARNING, compiled=False, optimizer=OptimizerConfig(), seed=seed),
        "hugging face, fp32 (its default)": lambda seed: hugging_face(LEARNING, bf16=False, compiled=False, seed=seed)}
    if importlib.util.find_spec("nanochat"):
        makers["nanochat, fp32, compiled (its default)"] = lambda seed: NanoChat(LEARNING, bf16=False, seed=seed)
        makers["nanochat, bf16, compiled"] = lambda seed: NanoChat(LEARNING, bf16=True, seed=seed)
    seconds: dict[str, list[float]] = {kind: [] for kind in makers}
    updates: dict[str, list[int | None]] = {kind: [] for kind in makers}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as name:
            for kind, (spent, reached) in race(real_text(Path(name), LEARNING, seed), {
                    kind: maker(seed) for kind, maker in makers.items()}, options.target, options.steps * 4).items():
                seconds[kind].append(spent)
                updates[kind].append(reached)
    ours = statistics.median(seconds["ours"])
    for kind in list(makers)[1:]:
        ratios = [other / own for own, other in zip(seconds["ours"], seconds[kind], strict=True)]
        yield {"name": f"until a loss of {options.target}, {LEARNING}", "peer": kind, "ours": round(ours, 1),
               "theirs": round(statistics.median(seconds[kind]), 1), "unit": "seconds",
               "ratio": round(statistics.median(ratios), 2), "ratios": [round(min(ratios), 2), round(max(ratios), 2)],
               "updates": [updates["ours"], updates[kind]], "runs": options.seeds}


def race(batch: Callable[[int], Pair], models: dict[str, Contestant], loss: float, steps: int,
         ) -> dict[str, tuple[float, int | None]]:
    """Taking turns until each has reached `loss` (a running mean over about ten updates): seconds and updates of each;
    no updates for one that has not within `steps`. The first update counts as much as the second."""
    seconds: dict[str, list[float]] = {kind: [] for kind in models}
    reached: dict[str, int | None] = dict.fromkeys(models)
    average = dict.fromkeys(models, 9.0)
    for step in range(steps):
        pair = batch(step)
        for kind, model in models.items():
            if reached[kind]:
                continue
            model.settle()
            began = time.perf_counter()
            found = float(model.step(*pair))
            seconds[kind].append(time.perf_counter() - began)
            average[kind] += 0.1 * (found - average[kind])
            if average[kind] <= loss:
                reached[kind] = step + 1
        if all(reached.values()):
            break
    return {kind: (sum(spent[1:]) + spent[1], reached[kind]) for kind, spent in seconds.items()}


PARTS = {"speed": speed, "where": where, "compile": compile_cost, "scale": scale, "quality": quality, "target": target}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--axes", nargs="+", choices=["size", "context"], default=["size", "context"],
                        help="of `scale`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300, help="updates of `quality`; `target` takes at most 4 x that")
    parser.add_argument("--seeds", type=int, default=3, help="of `quality` and `target`")
    parser.add_argument("--target", type=float, default=5.0, help="the loss of `target`, nats a token")
    parser.add_argument("--peers", type=Path, help="a folder that holds litgpt and nanochat")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/, what is not run is kept")
    parser.add_argument("--first-steps", nargs=2, metavar=("SHAPE", "COMPILED"), help=argparse.SUPPRESS)
    parser.add_argument("--learn", nargs=2, metavar=("ARM", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 0)) or len(os.sched_getaffinity(0)))
    if options.first_steps:
        print(json.dumps(first_steps(options.first_steps[0], options.first_steps[1] == "yes")))
        return
    if options.learn:
        print(json.dumps(learn(options.learn[0], int(options.learn[1]), options.steps)))
        return
    if options.peers:
        sys.path.append(str(options.peers))
    for part in options.parts:
        for found in PARTS[part](options):
            print(json.dumps(found) if options.json else ", ".join(f"{k}: {v}" for k, v in found.items()), flush=True)
            if options.save:  # at once: a run that is ended keeps what it has
                store(part, found)


def store(part: str, found: Found) -> None:
    """Put a row in place of the one of the same name and peer."""
    path = Path(__file__).parent / "results" / RESULTS["amx" if native.kind() == "amx" else "avx512"]
    stored = json.loads(path.read_text()) if path.exists() else {}
    asked = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, cwd=path.parent).stdout.strip()
    known = {(one["name"], one.get("peer")): one for one in stored.get(part, [])}
    known[found["name"], found.get("peer")] = found
    stored |= {part: list(known.values()), "date": datetime.date.today().isoformat(), "commit": commit,
               "torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}
    path.write_text(json.dumps(stored, indent=2) + "\n")


if __name__ == "__main__":
    main()
