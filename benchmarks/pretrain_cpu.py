"""Pretraining on a CPU: one step of ours beside transformers', litgpt's and a plain loop's, taking turns.

    python -m benchmarks.pretrain_cpu [--parts speed compile scale quality target] [--shapes i ii] [--axes size context]
        [--rounds 5] [--peers FOLDER] [--json] [--save]

speed: tokens/s, the share of the bf16 matmul rate of the same run, and ratios of steps of the same round, with random
tokens, vocabulary 8192, AdamW and clipping. compile: what compiling costs, with an empty and a full cache, and after
how many seconds of training it has paid. scale: seconds a step by size of model and by context. quality: losses after
the same tokens of real text (Python's own library) in bf16 and in fp32, from the same weights. target: seconds until a
loss is reached, beside transformers' defaults.

--peers names a folder with litgpt (pip install --no-deps --target FOLDER litgpt==0.5.13 lightning==2.6.6
lightning-utilities torchmetrics); without it litgpt is left out.
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

from benchmarks.training_steps import MAKERS, SHAPES, VOCABULARY, Contestant, Ours, Shape, hugging_face
from gristmill.core.artifact import Artifact
from gristmill.data.documents import Document, row, write_shard
from gristmill.tokenizer.train import train_bpe
from gristmill.tokens import materialise, text_batches
from gristmill.training.optimizers import OptimizerConfig

RESULTS = Path(__file__).parent / "results" / "pretrain_cpu.json"
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
        if name.startswith("litgpt") and importlib.util.find_spec("litgpt") is None:
            print(f"{name}: left out, litgpt cannot be imported (see --peers)", file=sys.stderr)
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
                if importlib.util.find_spec(package)}
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


def child(key: str, compiled: bool, cache: str) -> Found:
    """First and later steps in a process of its own."""
    asked = [sys.executable, "-m", "benchmarks.pretrain_cpu", "--first-steps", key, "yes" if compiled else "no"]
    folder = Path(__file__).parents[1]
    result = subprocess.run(asked, check=True, capture_output=True, text=True, cwd=folder,
                            env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache})
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
            eager, cold, warm = (child(key, compiled, cache) for compiled in (False, True, True))
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


def quality(options: argparse.Namespace) -> Iterator[Found]:
    with tempfile.TemporaryDirectory() as name:
        for seed in (0, 1):
            batch = real_text(Path(name), SMALL, seed)
            models = {"bf16": Ours(SMALL, compiled=False, seed=seed),
                      "fp32": Ours(SMALL, bf16=False, compiled=False, seed=seed)}
            losses: dict[str, list[float]] = {kind: [] for kind in models}
            for step in range(options.steps):
                for kind, model in models.items():
                    model.settle()
                    losses[kind].append(float(model.step(*batch(step))))
            last = {kind: statistics.mean(found[-50:]) for kind, found in losses.items()}
            apart = [abs(one - other) for one, other in zip(losses["bf16"], losses["fp32"], strict=True)]
            yield {"name": f"loss after {options.steps * SMALL.tokens:,} tokens, seed {seed}", "shape": str(SMALL),
                   "first": round(losses["fp32"][0], 4), "bf16": round(last["bf16"], 4), "fp32": round(last["fp32"], 4),
                   "difference": round(last["bf16"] - last["fp32"], 4), "largest_difference": round(max(apart), 4),
                   "unit": "nats a token, mean of the last 50 updates"}


def target(options: argparse.Namespace) -> Iterator[Found]:
    """Ours with its default optimizer and transformers' model with AdamW in fp32: seconds of steps alone."""
    with tempfile.TemporaryDirectory() as name:
        batch = real_text(Path(name), LEARNING, 0)
        models: dict[str, Contestant] = {
            "ours": Ours(LEARNING, compiled=False, optimizer=OptimizerConfig()),
            "hugging face, fp32 (its default)": hugging_face(LEARNING, bf16=False, compiled=False)}
        seconds, reached, average = dict.fromkeys(models, 0.0), {}, dict.fromkeys(models, 9.0)
        steps = 0
        while len(reached) < len(models) and steps < options.steps * 4:
            pair = batch(steps)
            for kind, model in models.items():
                if kind in reached:
                    continue
                model.settle()
                began = time.perf_counter()
                loss = float(model.step(*pair))
                seconds[kind] += time.perf_counter() - began
                average[kind] += 0.1 * (loss - average[kind])
                if average[kind] <= options.target:
                    reached[kind] = steps + 1
            steps += 1
        ours, theirs = seconds.values()
        yield {"name": f"until a loss of {options.target}, {LEARNING}", "peer": list(models)[1],
               "ours": round(ours, 1), "theirs": round(theirs, 1), "unit": "seconds", "ratio": round(theirs / ours, 2),
               "updates": [reached.get(kind) for kind in models], "runs": 1}


PARTS = {"speed": speed, "compile": compile_cost, "scale": scale, "quality": quality, "target": target}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--axes", nargs="+", choices=["size", "context"], default=["size", "context"],
                        help="of `scale`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300, help="updates of `quality`; `target` takes at most 4 x that")
    parser.add_argument("--target", type=float, default=5.0, help="the loss of `target`, nats a token")
    parser.add_argument("--peers", type=Path, help="a folder that holds litgpt")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}, what is not run is kept")
    parser.add_argument("--first-steps", nargs=2, metavar=("SHAPE", "COMPILED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first_steps:
        print(json.dumps(first_steps(options.first_steps[0], options.first_steps[1] == "yes")))
        return
    if options.peers:
        sys.path.append(str(options.peers))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 0)) or len(os.sched_getaffinity(0)))
    for part in options.parts:
        for found in PARTS[part](options):
            print(json.dumps(found) if options.json else ", ".join(f"{k}: {v}" for k, v in found.items()), flush=True)
            if options.save:  # at once: a run that is ended keeps what it has
                store(part, found)


def store(part: str, found: Found) -> None:
    """Put a row in place of the one of the same name and peer."""
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    asked = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, cwd=RESULTS.parent).stdout.strip()
    known = {(one["name"], one.get("peer")): one for one in stored.get(part, [])}
    known[found["name"], found.get("peer")] = found
    stored |= {part: list(known.values()), "date": datetime.date.today().isoformat(), "commit": commit,
               "torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}
    RESULTS.write_text(json.dumps(stored, indent=2) + "\n")


if __name__ == "__main__":
    main()
