"""The family `gristmill` beside `llama` at equal compute: bits per byte of held-out modules, several sizes and seeds.

Every run gets the same training FLOPs for its size, so that a dearer model reads fewer tokens. Same text, tokenizer,
batches and optimizer. A run that is there already is reused; a depth of 9 takes about four minutes on two cores.

Usage: python benchmarks/gristmill_family.py [--depths 3 6 9] [--seeds 1337 7] [--families llama gpt2] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gristmill
from gristmill.core.files import read_jsonl
from gristmill.core.progress import for_stream
from gristmill.models.spec import ModelSpec

ROOT = Path(__file__).parents[1]
TOKENS = {3: 1_200_000, 6: 600_000, 9: 400_000}
"""Depth -> tokens that llama reads; the FLOPs follow."""
ROW = 4096
OURS = "gristmill"


def steps(family: str, depth: int, tokens: int) -> int:
    """Updates of 4,096 tokens for as many FLOPs as llama needs for `tokens`."""
    costs = {name: resolved.flops_per_token(resolved.context) for name in (family, "llama")
             for resolved, _ in [ModelSpec(family=name, depth=depth).resolve(8192)]}
    return round(tokens * costs["llama"] / costs[family] / ROW)


def trained(family: str, depth: int, seed: int, tokens: int, runs_dir: Path) -> dict[str, Any]:
    """One training run: its last score, and what it took."""
    count = steps(family, depth, tokens)
    run = gristmill.run(
        ROOT / "recipes" / "quickstart.yaml", runs_dir=runs_dir / f"seed-{seed}", until="base", progress=for_stream(),
        set=[f"seed={seed}", "stages.base.budget.minutes=null", f"stages.base.budget.steps={count}",
             f"stages.base.model.family={family}", f"stages.base.model.depth={depth}",
             "stages.base.validation_tokens=150000", "stages.base.training.evaluations=1"])
    folder = run["base"].path
    seconds = [row["seconds"] for row in read_jsonl(folder / "telemetry" / "speed.jsonl")]
    last = read_jsonl(folder / "evaluations.jsonl")[-1]
    return {"family": family, "depth": depth, "seed": seed, "steps": count, "tokens": count * ROW,
            "parameters": run["base"].metrics["parameters"], "bits_per_byte": last["valid_bits_per_byte"],
            "seconds_per_step": statistics.median(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=list(TOKENS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1337, 7])
    parser.add_argument("--families", nargs="+", default=["llama"], help="peers")
    parser.add_argument("--scale", type=float, default=1.0, help="train on so many times the tokens")
    parser.add_argument("--runs-dir", type=Path, default=ROOT / "runs" / "benchmarks" / "families")
    parser.add_argument("--json", action="store_true", help="print one object a comparison")
    arguments = parser.parse_args()
    results = []
    for depth in arguments.depths:
        tokens = round(TOKENS.get(depth, 600_000) * arguments.scale)
        runs = {family: [trained(family, depth, seed, tokens, arguments.runs_dir) for seed in arguments.seeds]
                for family in (*arguments.families, OURS)}
        means = {family: statistics.mean(run["bits_per_byte"] for run in found) for family, found in runs.items()}
        for peer in arguments.families:
            results.append({
                "name": f"{OURS} against {peer} at equal FLOPs, depth {depth}", "peer": peer,
                "peer_version": gristmill.__version__, "ours": means[OURS], "theirs": means[peer],
                "unit": "bits/byte", "ratio": round(means[peer] / means[OURS], 4), "runs": [*runs[OURS], *runs[peer]]})
            print(json.dumps(results[-1]) if arguments.json else
                  f"{results[-1]['name']}: {means[OURS]:.4f} against {means[peer]:.4f} bits per byte", flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True,
                            check=False).stdout.strip()
    stored = {"date": datetime.now(UTC).date().isoformat(), "commit": commit, "comparisons": results}
    results_folder = ROOT / "benchmarks" / "results"
    results_folder.mkdir(exist_ok=True)
    (results_folder / "gristmill_family.json").write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
