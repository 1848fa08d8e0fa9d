"""The largest micro-batch that fits: predicted, tried where trying is safe, and errors that help."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter

from gristmill.core.errors import MachineError
from gristmill.models import DecoderConfig
from gristmill.planning.memory import USABLE, Batch, memory
from gristmill.training import fit_memory
from gristmill.training.fit_memory import Fit, available_bytes, candidates, fitting, out_of_memory_told, settle
from gristmill.training.parallel.layout import Layout

SMALL = DecoderConfig(vocab_size=512, dim=64, layers=4, heads=4, kv_heads=4, head_dim=16, mlp_dim=256, context=128)
CPU = {"device": "cpu", "precision": "fp32"}


@given(st.integers(1, 300))
def test_candidates_are_the_even_parts(rows):
    sizes = candidates(rows)
    assert sizes[0] == rows
    assert sizes[-1] == 1
    assert sizes == sorted(set(sizes), reverse=True)
    for size in sizes:  # no other size needs as few passes with fewer rows at once
        parts = -(-rows // size)
        assert size == -(-rows // parts)


def needed(size, **options):
    return memory(SMALL, Batch(context=128, rows=64, micro_batch=size), precision="fp32", device="cpu", **options).total


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
def test_it_is_the_largest_that_the_planner_lets_through(checkpointing):
    sizes = candidates(64)
    for at, size in enumerate(sizes):
        just = needed(size, checkpointing=checkpointing) / USABLE * 1.0001
        found = fitting(SMALL, 64, 128, available=just, checkpointing=checkpointing, **CPU)
        assert [fit.rows for fit in found] == sizes[at:]
        assert not found[0].tried
        assert f"micro_batch = {size}" in found[0].note()


def test_less_is_kept_so_more_fits_and_a_budget_lies_between():
    available = needed(8) / USABLE * 1.001
    most = {choice: fitting(SMALL, 64, 128, available=available, checkpointing=choice, **CPU)[0].rows
            for choice in ("none", 1.0, 0.5, 0.0, "full")}
    assert most["none"] == most[1.0] == 8
    assert most["none"] < most[0.5] < most[0.0] == most["full"]


def test_a_layout_gives_every_process_less_to_hold():
    wide = DecoderConfig(vocab_size=512, dim=256, layers=4, heads=4, kv_heads=4, head_dim=64, mlp_dim=1024, context=16)
    least = memory(wide, Batch(context=16, rows=64), precision="fp32", device="cpu").total
    one, four = (fitting(wide, 64, 16, available=least / USABLE * 1.001, layout=Layout(shard=shard), **CPU)[0].rows
                 for shard in (1, 4))
    assert one == 1
    assert four > 8


def test_where_not_one_row_fits_it_says_what_holds_the_memory():
    with pytest.raises(MachineError, match=r"one row of 128 tokens needs .* weights, gradients") as caught:
        fitting(SMALL, 64, 128, available=1e6, **CPU)
    assert "activation_checkpointing: full" in str(caught.value.fix)


def test_on_a_gpu_the_prediction_is_tried_and_lowered():
    fits = fitting(SMALL, 64, 128, available=1e12, **CPU)
    tried = []

    def attempt(rows):
        tried.append(rows)
        if rows > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    found = settle(fits, attempt, torch.device("cpu"))
    assert tried == [64, 32, 22, 16]
    assert (found.rows, found.tried) == (16, True)

    def never(rows):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(MachineError, match="a single row"):
        settle(fits[-2:], never, torch.device("cpu"))


def test_another_error_of_the_trial_is_not_taken_for_memory():
    def broken(rows):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        settle(fitting(SMALL, 64, 128, available=1e12, **CPU), broken, torch.device("cpu"))


def test_memory_of_a_cpu_is_what_is_free_within_the_container(tmp_path, monkeypatch):
    assert 1e6 < available_bytes(torch.device("cpu")) < 1e15
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:   500 kB\n")
    assert fit_memory._available(tmp_path / "meminfo") == 500 * 1024
    assert fit_memory._available(tmp_path / "missing") is None
    (tmp_path / "memory.max").write_text("max\n")
    assert fit_memory._number(tmp_path / "memory.max") is None
    monkeypatch.setattr(fit_memory, "_available", lambda path: None)
    monkeypatch.setattr(fit_memory, "_number", lambda path: None)
    with pytest.raises(MachineError, match="does not say"):
        available_bytes(torch.device("cpu"))
    numbers = {"memory.max": 100.0, "memory.current": 30.0}
    monkeypatch.setattr(fit_memory, "_number", lambda path: numbers.get(path.name))
    assert available_bytes(torch.device("cpu")) == 70.0


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                 "to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"),
])
def test_running_out_is_told_with_its_mend(error):
    with pytest.raises(MachineError, match="out of memory with 8 rows of 128 tokens at once") as caught, \
            out_of_memory_told(8, 128, "pretrain"):
        raise error
    assert "micro_batch: auto" in str(caught.value.fix)
    with pytest.raises(RuntimeError, match="else"), out_of_memory_told(8, 128, "pretrain"):
        raise RuntimeError("something else")


def test_a_real_allocation_that_cannot_be_made():
    with pytest.raises(MachineError, match="out of memory"), out_of_memory_told(1, 1, "pretrain"):
        torch.empty(2**60, dtype=torch.uint8)


def test_the_size_that_fits_is_compiled_however_many_were_tried():
    """Of one code torch compiles eight shapes, and runs the ninth as written."""
    torch.compiler.reset()
    counted = CompileCounter()

    @torch.compile(backend=counted, dynamic=False)
    def layer(x):
        return x + 1

    fits = [Fit(rows, None) for rows in range(20, 1, -1)]  # type: ignore[arg-type]

    def attempt(rows):
        layer(torch.ones(rows, 4))
        if rows > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    assert settle(fits, attempt, torch.device("cpu")).rows == 2
    assert counted.frame_count == len(fits)
    torch.compiler.reset()


def test_a_pipeline_gets_as_many_micro_batches_as_it_has_stages():
    def sizes(text, rows=8, **more):
        return [fit.rows for fit in fitting(SMALL, rows, 128, available=1e12, layout=Layout.parse(text), **more, **CPU)]

    assert sizes("shard=2") == [8, 4, 3, 2, 1]
    assert sizes("pipeline=2") == [4, 3, 2, 1]
    assert sizes("pipeline=2", fewest=4) == [3, 2, 1]
    assert sizes("pipeline=2,schedule=gpipe") == [8, 4, 3, 2, 1]
    assert sizes("pipeline=2", rows=1) == [1]  # none will do, and training says why


@pytest.mark.parametrize("line", ["0::/system.slice/mill.service", "5:cpu,memory:/system.slice/mill.service"])
def test_a_limit_of_any_group_around_a_process_holds(tmp_path, monkeypatch, line):
    """Groups of version 2, and of version 1 below a folder of their controller; seen from outside of a container."""
    (tmp_path / "own").write_text(f"3:pids:/elsewhere\n{line}\n")
    top = tmp_path / ("memory" if "memory" in line else "")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if "memory" in line else ("memory.max", "memory.current")
    for folder, most in (("system.slice/mill.service", 100), ("system.slice", 80), ("other", 1)):
        (top / folder).mkdir(parents=True, exist_ok=True)
        for name, number in zip(names, (most, 30), strict=True):
            (top / folder / name).write_text(f"{number}\n")
    groups = fit_memory._control_groups(tmp_path, tmp_path / "own")
    monkeypatch.setattr(fit_memory, "_control_groups", lambda: groups)
    assert sorted(fit_memory.container_limits()) == [(80.0, 30.0), (100.0, 30.0)]
