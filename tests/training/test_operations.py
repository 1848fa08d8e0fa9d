"""Recorded operations become shares by kind of work."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gristmill.training.operations import KINDS, kind_of, profiled


def event(name, microseconds=0.0, parent=None, kernels=(), device="DeviceType.CPU", is_async=False):
    return SimpleNamespace(name=name, self_cpu_time_total=microseconds, cpu_parent=parent, is_async=is_async,
                           device_type=device, kernels=[SimpleNamespace(name=n, duration=d) for n, d in kernels])


@pytest.mark.parametrize(("name", "kind"), [
    ("aten::mm", "matmul"), ("aten::addmm", "matmul"), ("mkldnn::_linear_pointwise", "matmul"),
    ("aten::_scaled_mm", "matmul"), ("aten::_grouped_mm", "matmul"), ("aten::bmm", "attention"),
    ("aten::baddbmm", "attention"), ("aten::_softmax_backward_data", "attention"),
    ("aten::_flash_attention_forward", "attention"), ("triton_tem_fused_flex_attention_3", "attention"),
    ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"), ("aten::mul", "elementwise"),
    ("triton_poi_fused_add_mul_2", "elementwise"), ("aten::copy_", "elementwise"),
    ("aten::_log_softmax", "elementwise"), ("c10d::allreduce_", "communication"),
    ("nccl:all_gather", "communication"), ("gloo:all_reduce", "communication"), ("ProfilerStep#3", "other"),
    ("aten::addcmul", "elementwise"), ("aten::sum", "elementwise"),
    ("gristmill::cpu_linear_backward", "matmul"), ("gristmill::cpu_gated", "matmul"),
    ("gristmill::cpu_gated_backward", "matmul"), ("_HeadLoss", "matmul"), ("_HeadLossBackward", "elementwise"),
    ("gristmill::cpu_joined_attention_backward", "attention"), ("gristmill::cpu_add_norm", "elementwise"),
])
def test_kinds_by_name(name, kind):
    assert kind_of(event(name)) == kind


def test_ranges_claim_what_runs_inside_of_them():
    step = event("ProfilerStep#1")
    optimizer = event("Optimizer.step#Muon.step", parent=step)
    assert kind_of(event("aten::bmm", parent=event("aten::matmul", parent=optimizer))) == "optimizer"
    assert kind_of(event("aten::stack", parent=event("data", parent=step))) == "data"
    assert kind_of(event("aten::stack", parent=step)) == "elementwise"


def test_a_kernel_says_what_its_launcher_does_not():
    assert kind_of(event("CompiledFunction", kernels=[("nvjet_tst_128x256", 5.0)])) == "matmul"
    assert kind_of(event("record_param_comms", kernels=[("ncclDevKernel_AllReduce_Sum_f32", 5.0)])) == "communication"


def test_shares_on_a_cpu_are_of_own_time():
    step = event("ProfilerStep#1", 10)
    events = [step, event("aten::mm", 60, step), event("aten::mm", 20, step), event("aten::mul", 10, step),
              event("aten::mm", 999, step, is_async=True), event("kernel", 999, device="DeviceType.CUDA")]
    found = profiled(events, steps=2, wall_seconds=0.001, device="cpu")
    assert found.seconds == pytest.approx(100e-6)
    assert {kind: found.share(kind) for kind in KINDS if found.share(kind)} == pytest.approx(
        {"matmul": 0.8, "elementwise": 0.1, "other": 0.1})
    first = found.operations[0]
    assert (first.name, first.calls, first.seconds) == ("aten::mm", 2, pytest.approx(80e-6))
    text = found.as_text()
    assert "2 steps of 0.5 ms on cpu" in text
    assert "80.0%" in text
    assert sum(found.as_json()["shares"].values()) == pytest.approx(1.0)


def test_on_a_gpu_kernels_count_by_who_launched_them():
    step = event("ProfilerStep#1", 500)
    events = [step, event("aten::mm", 900, step, [("nvjet_1", 30.0), ("splitK", 10.0)]),
              event("aten::_flash_attention_forward", 5, step, [("flash_fwd_kernel", 60.0)]),
              event("aten::add", 7, step)]
    found = profiled(events, steps=1, wall_seconds=0.001, device="cuda")
    assert found.seconds == pytest.approx(100e-6)
    assert (found.share("attention"), found.share("matmul")) == (pytest.approx(0.6), pytest.approx(0.4))


def test_long_names_that_differ_at_their_ends_stay_apart():
    names = [f"GeneratedBackwardFor_gristmill_cpu_joined_attention_{end}" for end in ("defaultBackward", "backward_no")]
    text = profiled([event(name, 10) for name in names], steps=1, wall_seconds=0.001, device="cpu").as_text()
    assert all(f"{name[-25:]}  attention" in text for name in names)
    assert max(map(len, text.splitlines())) <= 98


def test_nothing_recorded_is_no_division_by_zero():
    found = profiled([], 0, 0.0, "cpu")
    assert found.share("matmul") == 0.0
    assert "0 steps" in found.as_text()
