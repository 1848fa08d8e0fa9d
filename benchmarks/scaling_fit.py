"""Train models of several sizes, fit a law on all but the largest, and compare its prediction with what happened.

    python benchmarks/scaling_fit.py [--widths 64,96,...] [--tokens 800_000] [--threads 2] [--runs-dir DIR] [--out FILE]

Every width is trained on --tokens; the first, the third and the fifth also on half and on twice as many, so that size
and tokens do not rise together. The runs are an ordinary recipe, read as `gristmill plan fit` reads them. The largest
size must be predicted within 2 %; the exit status is 1 where it is not. Seven widths take about 20 minutes on two quiet
cores; --tiny takes a minute, and proves nothing but that the pieces fit. A stopped benchmark goes on where it was when
--runs-dir is the same.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gristmill.core.files import write_json
from gristmill.core.stage import Runtime
from gristmill.pipeline.runner import run
from gristmill.planning.fit import hold_out_largest
from gristmill.planning.points import read_points

WIDTHS = (64, 96, 128, 160, 192, 224, 256)
MORE = (0, 2, 4)
"""Which of the widths are also trained on half and on twice the tokens."""
LAYERS, HEAD, CONTEXT, VOCABULARY, BATCH = 3, 32, 128, 1024, 16
TOLERANCE = 0.02


def recipe(widths: tuple[int, ...], tokens: int) -> dict[str, Any]:
    """One corpus, one tokenizer, and a pretraining stage for every point."""
    stages: dict[str, Any] = {
        "corpus": {"uses": "data", "sources": [{"kind": "python_stdlib"}], "filter": {"preset": "code"},
                   "split": {"valid": 0.03, "test": 0.03}},
        "tokenizer": {"uses": "tokenizer", "corpus": "corpus", "vocab_size": VOCABULARY}}
    for place, width in enumerate(widths):
        for times in (0.5, 1, 2) if place in MORE and place < len(widths) - 1 else (1,):
            amount = int(tokens * times)
            stages[f"w{width}_t{amount}"] = {
                "uses": "pretrain", "corpus": "corpus", "tokenizer": "tokenizer", "batch": BATCH, "context": CONTEXT,
                "model": {"family": "llama", "depth": LAYERS, "dim": width, "heads": width // HEAD,
                          "context": CONTEXT, "options": {"head_dim": HEAD}},
                "budget": {"tokens": amount}, "validation_tokens": 65_536, "prompts": [],
                "training": {"evaluations": 1}}
    return {"name": "scaling_fit", "seed": 1337, "stages": stages}


def measure(widths: tuple[int, ...], tokens: int, threads: int, runs_dir: Path) -> dict[str, Any]:
    """Train, fit, predict."""
    started = time.monotonic()
    run(recipe(widths, tokens), runs_dir=runs_dir, report=False, runtime=Runtime(device="cpu", threads=threads))
    trained = time.monotonic() - started
    found = read_points(["scaling_fit"], runs_dir)
    made, left_out, said = hold_out_largest(found.points)
    rows = [{**point.as_json(), "predicted": value.as_json(), "relative_error": value.expected / point.loss - 1,
             "within_interval": value.low <= point.loss <= value.high}
            for point, value in zip(left_out, said, strict=True)]
    return {
        "held_out": rows, "tolerance": TOLERANCE,
        "passed": bool(rows) and all(abs(float(row["relative_error"])) <= TOLERANCE for row in rows),
        "fit": made.as_json(), "rejected": found.rejected, "training_s": trained,
        "settings": {"widths": list(widths), "tokens": tokens, "layers": LAYERS, "context": CONTEXT,
                     "vocab_size": VOCABULARY, "batch": BATCH, "threads": threads, "corpus": "python_stdlib",
                     "python": platform.python_version(), "torch": torch.__version__}}


def main() -> int:
    """Run it, print the outcome, and write it where --out says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default=",".join(map(str, WIDTHS)), help=f"multiples of {HEAD}")
    parser.add_argument("--tokens", type=int, default=800_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs-dir", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tiny", action="store_true", help="four widths, 40,000 tokens")
    options = parser.parse_args()
    widths = (32, 64, 96, 128) if options.tiny else tuple(int(w) for w in options.widths.split(","))
    tokens = 40_000 if options.tiny else options.tokens
    with tempfile.TemporaryDirectory() as folder:
        found = measure(widths, tokens, options.threads, options.runs_dir or Path(folder))
    if options.out is not None:
        write_json(options.out, found)
    print(json.dumps({key: found[key] for key in ("held_out", "passed", "training_s")}, indent=1))
    print(found["fit"]["law"]["equation"], *found["fit"]["warnings"], sep="\n")
    return 0 if found["passed"] or options.tiny else 1


if __name__ == "__main__":
    sys.exit(main())
