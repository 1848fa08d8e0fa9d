"""Does every stage of the quickstart improve its own metric, whatever the seed?

Runs the recipe once a seed (about nine minutes each on two cores) and collects the `gains` of its evaluation. A run
that is there already is reused. Usage: python benchmarks/quickstart_seeds.py [--seeds 1337 7] [--runs-dir D] [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gristmill
from gristmill.core.progress import for_stream

ROOT = Path(__file__).parents[1]
PEERS = {"base": "interpolated 5-gram (modified Kneser-Ney) on the same tokens",
         "assistant": "the base model", "aligned": "the assistant"}


def gains(seed: int, runs_dir: Path) -> list[dict[str, Any]]:
    """The gains of one run of the quickstart."""
    recipe = ROOT / "recipes" / "quickstart.yaml"
    run = gristmill.run(recipe, runs_dir=runs_dir / f"seed-{seed}", until="scores", set=[f"seed={seed}"],
                        progress=for_stream())
    return json.loads((run["scores"].path / "results.json").read_text(encoding="utf-8"))["gains"]


def comparison(stage: str, by_seed: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """One object a stage; the ratio is the smallest over the seeds."""
    rows = [{"seed": seed, "before": g["before"], "after": g["after"], "p_value": g["p_value"],
             "improved": g["improved"], "text": g["text"]} for seed, g in by_seed.items()]
    unit = next(iter(by_seed.values()))["unit"]
    lower = unit == "bits/byte"
    ratios = [(r["before"] / r["after"] if lower else r["after"] / max(r["before"], 1e-9)) for r in rows]
    worst = ratios.index(min(ratios))
    return {"name": f"quickstart: {stage}", "peer": PEERS.get(stage, "the model before"), "peer_version": "same run",
            "ours": rows[worst]["after"], "theirs": rows[worst]["before"],
            "unit": unit, "ratio": round(min(ratios), 4), "runs": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1337, 7])
    parser.add_argument("--runs-dir", type=Path, default=ROOT / "runs" / "benchmarks")
    parser.add_argument("--json", action="store_true", help="print one object a comparison")
    arguments = parser.parse_args()
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for seed in arguments.seeds:
        for gain in gains(seed, arguments.runs_dir):
            found.setdefault(gain["model"], {})[seed] = gain
    results = [comparison(stage, by_seed) for stage, by_seed in found.items()]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True,
                            check=False).stdout.strip()
    stored = {"date": datetime.now(UTC).date().isoformat(), "commit": commit, "processor": platform.processor(),
              "comparisons": results}
    results_folder = ROOT / "benchmarks" / "results"
    results_folder.mkdir(exist_ok=True)
    (results_folder / "quickstart_seeds.json").write_text(json.dumps(stored, indent=1) + "\n")
    for result in results:
        if arguments.json:
            print(json.dumps(result))
        else:
            for run in result["runs"]:
                print(f"seed {run['seed']}: {run['text']}")


if __name__ == "__main__":
    main()
