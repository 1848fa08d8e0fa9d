"""One layer of experts beside transformers' `MixtralSparseMoeBlock`: same weights, same tokens, taking turns.

    python benchmarks/moe.py [--threads 2] [--rounds 9] [--json] [--store benchmarks/results/moe.json]

Forward and backward of a training step in fp32, and forward alone. Beside the peer's default (its grouped product where
there is one) its plain loop; of ours the grouped product, the loop, and one dense feed-forward of the active width.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from transformers.models.mixtral.configuration_mixtral import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from gristmill.core.files import write_json
from gristmill.models.config import MoEConfig
from gristmill.models.layers import experts as paths
from gristmill.models.layers.mlp import GatedMLP
from gristmill.models.layers.moe import MoE

SIZES = {
    "8 experts, 2 active, 256 -> 512": (MoEConfig(experts=8, active=2, mlp_dim=512), 256, 2048),
    "16 experts, 4 active, 256 -> 176": (MoEConfig(experts=16, active=4, mlp_dim=176), 256, 2048),
    "64 experts, 8 active, 512 -> 128": (MoEConfig(experts=64, active=8, mlp_dim=128), 512, 1024),
}
"""Name -> experts, width of the model, tokens."""


def layers(settings: MoEConfig, dim: int) -> tuple[MoE, nn.Module, nn.Module]:
    """Ours, theirs with the same weights, and a dense feed-forward as wide as the experts that a token meets."""
    torch.manual_seed(0)
    ours = MoE(dim, settings, "swiglu")
    theirs = MixtralSparseMoeBlock(MixtralConfig(
        hidden_size=dim, intermediate_size=settings.width, num_local_experts=settings.experts,
        num_experts_per_tok=settings.active))
    gate, up, down = ours.experts.gate, ours.experts.up, ours.experts.down
    assert gate is not None
    with torch.no_grad():
        theirs.gate.weight.copy_(ours.router.weight)
        theirs.experts.gate_up_proj.copy_(torch.cat([gate, up], dim=1))
        theirs.experts.down_proj.copy_(down)
    return ours, theirs, GatedMLP(dim, settings.active * settings.width)


def step(layer: nn.Module, x: Tensor, backward: bool) -> Tensor:
    """One pass; the result, so that the layers can be compared."""
    with torch.set_grad_enabled(backward):
        out = layer(x)
        if backward:
            out.square().mean().backward()
            for parameter in layer.parameters():
                parameter.grad = None
            x.grad = None
    return out.detach()


def seconds(runs: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """Median seconds of each, taking turns; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if number:
                found[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in found.items()}


def measure(settings: MoEConfig, dim: int, tokens: int, backward: bool, rounds: int) -> dict[str, float]:
    """Seconds a pass, after a check that all compute the same."""
    ours, theirs, dense = layers(settings, dim)
    for layer in (ours, theirs, dense):
        layer.train(backward)
    x = torch.randn(1, tokens, dim, generator=torch.Generator().manual_seed(1)).requires_grad_(backward)

    def loop() -> Tensor:
        with mock.patch.object(paths, "can_group", return_value=False):
            return step(ours, x, backward)

    def peer(kind: str) -> Callable[[], Tensor]:
        def run() -> Tensor:
            theirs.experts.config._experts_implementation = kind
            return step(theirs, x, backward)
        return run

    runs: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: step(ours, x, backward), "ours, loop": loop, "theirs": peer("grouped_mm"),
        "theirs, loop": peer("eager"), "dense of the active width": lambda: step(dense, x, backward)}
    expected = runs["ours"]()
    for name in ("ours, loop", "theirs", "theirs, loop"):
        torch.testing.assert_close(runs[name](), expected, atol=1e-5, rtol=1e-4)
    return seconds(runs, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--store", type=Path, help="file for the results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    version, comparisons = importlib.metadata.version("transformers"), []
    for size, (settings, dim, tokens) in SIZES.items():
        for backward in (True, False):
            times = measure(settings, dim, tokens, backward, options.rounds)
            what = "forward and backward" if backward else "forward"
            rates = {name: round(tokens / time_) for name, time_ in times.items()}
            found = {"name": f"{size}, {what}, {tokens} tokens, {options.threads} threads", "peer": "transformers",
                     "peer_version": version, "ours": rates["ours"], "theirs": rates["theirs"], "unit": "tokens/s",
                     "ratio": round(times["theirs"] / times["ours"], 2), "runs": options.rounds, "all": rates}
            comparisons.append(found)
            print(json.dumps(found) if options.json else f"{found['name']}: " + ", ".join(
                f"{name} {rate:,}" for name, rate in rates.items()) + f" tokens/s, ratio {found['ratio']}", flush=True)
    if options.store:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        write_json(options.store, {
            "date": datetime.date.today().isoformat(), "commit": commit.stdout.strip(), "torch": torch.__version__,
            "processor": platform.machine(), "threads": options.threads, "comparisons": comparisons})


if __name__ == "__main__":
    main()
