"""The GPU benchmark runs as it is, on a CPU and a tiny model: nothing in it waits for a GPU to be tried."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import pretrain_gpu
from gristmill.training.fit_memory import OutOfMemory

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
        assert found["of"].keys() == {"ours", "plain", "graphs"}
        assert found["graphs_over_ours"] > 0
        for one in found["of"].values():
            assert one["tokens_per_s"] > 0
            assert one["mfu"] == pytest.approx(
                one["tokens_per_s"] * found["flops_per_token"] / (rate["ours"] * 1e12), rel=0.1, abs=2e-4)


def contestants(monkeypatch, *, fits: int, together: int, error: type[Exception]):
    """Those that fit alone with so many rows, and side by side with so many in all."""
    there: list[int] = []

    def make(shape, rows, device, numerics, compiled):
        there.append(rows)
        if rows > fits or sum(there) > together:
            raise error("CUDA out of memory. Tried to allocate 2 GiB")
        return lambda: None

    def forget(device):
        there.clear()

    monkeypatch.setattr(pretrain_gpu, "CONTESTANTS", {"ours": make, "plain": make})
    monkeypatch.setattr(pretrain_gpu, "forget", forget)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, OutOfMemory])
def test_rows_are_halved_until_they_fit_alone_and_side_by_side(monkeypatch, error):
    device, shape = torch.device("cpu"), pretrain_gpu.Shape(64, 2, 2, 8, 0, vocabulary=64, largest=16)
    contestants(monkeypatch, fits=4, together=5, error=error)
    assert pretrain_gpu.best_rows("ours", shape, device, "bf16", False, 1) in (4, 2)
    found = {"ours": {"rows": 4, "peak_gb": 1.0}, "plain": {"rows": 4, "peak_gb": 1.0}}
    assert pretrain_gpu.together(found, shape, device, "bf16", False).keys() == found.keys()
    assert found == {"ours": {"rows": 2}, "plain": {"rows": 2}}
    contestants(monkeypatch, fits=0, together=0, error=error)
    with pytest.raises(SystemExit, match="does not fit"):
        pretrain_gpu.best_rows("ours", shape, device, "bf16", False, 1)
    with pytest.raises(error):
        pretrain_gpu.together(found, shape, device, "bf16", False)


def test_ours_reads_its_batches_from_the_cpu():
    """As a training does: on the device, to count targets would be to wait for it."""
    batch = pretrain_gpu.Rows(pretrain_gpu.shapes(64)["tiny"], 2).window(0)[0]
    assert {tensor.device.type for tensor in batch.values()} == {"cpu"}


def test_without_a_gpu_it_says_what_to_do():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run(BENCHMARK, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "--device cpu --sizes tiny" in done.stderr
