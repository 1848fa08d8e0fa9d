"""The GPU benchmark runs as it is, on a CPU and a tiny model: nothing in it waits for a GPU to be tried."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARK = [sys.executable, "-m", "benchmarks.pretrain_gpu"]


@pytest.mark.slow
def test_both_loops_run_in_both_numerics():
    done = subprocess.run(
        [*BENCHMARK, "--device", "cpu", "--sizes", "tiny", "--rounds", "1", "--steps", "1", "--eager",
         "--matmul", "256", "--context", "64", "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    rate, bf16, float8 = map(json.loads, done.stdout.splitlines())
    assert rate["unit"] == "TFLOP/s"
    assert float8["over_our_bf16"] == round(float8["ours"] / bf16["ours"], 3)
    for found in (bf16, float8):
        for one in found["of"].values():
            assert one["tokens_per_s"] > 0
            assert one["mfu"] == pytest.approx(
                one["tokens_per_s"] * found["flops_per_token"] / (rate["ours"] * 1e12), rel=0.1, abs=2e-4)


def test_without_a_gpu_it_says_what_to_do():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run(BENCHMARK, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "--device cpu --sizes tiny" in done.stderr
