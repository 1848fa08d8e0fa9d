"""Plans of training runs: what follows from what, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest

from gristmill.core.errors import UserError
from gristmill.models.families import FAMILIES
from gristmill.planning.flops import flops
from gristmill.planning.inputs import Cluster, Given
from gristmill.planning.interval import Interval
from gristmill.planning.layout import Layout
from gristmill.planning.tables import from_files
from gristmill.planning.train import Request, plan_training

TABLES = from_files()
LLAMA = FAMILIES["llama"].presets["smollm2-135m"]


def planned(hardware: str | None = "h100-sxm:8", alternatives: bool = False, **options):
    cluster = None if hardware is None else Cluster.parse(hardware, TABLES)
    request = Request(**{"name": "x", "config": LLAMA, "tokens": 20e9, "cluster": cluster, **options})
    return plan_training(request, TABLES, alternatives=alternatives)


def test_time_money_energy_and_carbon_follow_from_each_other():
    given = Given.from_plain({"mfu": 0.4, "pue": 1.1, "host_share": 0.2, "device_watts": 600, "usd_per_hour": 3}, "x")
    plan = planned(region="FR", given=given)
    work = flops(LLAMA, plan.request.row).train * 20e9
    hours = work / (0.4 * 989e12 * 3600)
    assert plan.run.device_hours.expected == pytest.approx(hours)
    assert plan.time_s.expected == pytest.approx(hours * 3600 / 8)
    assert plan.run.cost_usd == Interval.of(plan.run.device_hours.expected * 3)
    assert plan.run.energy_kwh.expected == pytest.approx(hours * 0.6 * 1.2 * 1.1)
    assert plan.run.co2e_kg.expected == pytest.approx(plan.run.energy_kwh.expected * 0.056)
    assert plan.run.device_hours.certain
    assert plan.run.energy_kwh.certain


def test_what_nobody_said_is_an_interval_with_a_source():
    plan = planned()
    for value in (plan.time_s, plan.run.cost_usd, plan.run.energy_kwh, plan.run.co2e_kg):
        assert value.low < value.expected < value.high
    named = {used.name: used for used in plan.assumptions}
    assert {"mfu", "device_watts", "host_share", "pue", "grid_kg_per_kwh", "usd_per_hour", "development"} <= set(named)
    assert all(len(used.source) > 4 for used in named.values())
    told = planned(region="FR", given=Given.from_plain({"mfu": 0.3}, "x"))
    assert {u.name: u.source for u in told.assumptions}["mfu"] == "given"
    assert plan.development.cost_usd.expected == pytest.approx(1.5 * plan.run.cost_usd.expected)


def test_an_update_is_never_larger_than_the_run_unless_somebody_says_so():
    assert planned("l4:1", tokens=100_000).batch.tokens < 110_000
    assert planned("l4:1", tokens=100_000, context=1000, batch_tokens=500_000).batch.tokens == 500_000
    assert planned("l4:1", tokens=20e9).batch.tokens == 2**19


def test_making_devices_counts_where_it_is_asked_for():
    assert planned().run.embodied_kg is None
    plan = planned("a100-80:8", given=Given.from_plain({"embodied": True}, "x"))
    hourly = (150 + 2500 / 8) / 44_676
    assert plan.run.embodied_kg.expected == pytest.approx(hourly * plan.run.device_hours.expected)


def test_recomputing_costs_a_third_at_most_and_only_where_speed_is_assumed():
    none, full = planned(checkpointing="none"), planned(checkpointing="full")
    assert 1.1 < full.time_s.expected / none.time_s.expected < 4 / 3
    assert full.memory.activations < none.memory.activations
    given = Given.from_plain({"device_hours": 100}, "x")
    assert planned(checkpointing="full", given=given).time_s.expected == pytest.approx(100 * 3600 / 8)


def test_a_deadline_adds_devices():
    slow, fast = (planned("h100-sxm", days=days) for days in (20, 0.5))
    assert slow.devices < fast.devices
    assert fast.time_s.expected <= 0.5 * 86_400
    assert slow.time_s.expected <= 20 * 86_400


def test_without_hardware_the_cheapest_is_taken_and_all_are_compared():
    plan = planned(None, alternatives=True, days=10)
    costs = [row["cost_usd"]["expected"] for row in plan.alternatives[:5]]
    assert plan.run.cost_usd.expected == min(costs)
    assert len({row["hardware"].partition(":")[0] for row in plan.alternatives}) >= 5
    assert all(row["fits"] for row in plan.alternatives)


def test_the_lightest_checkpointing_that_fits_is_chosen():
    roomy = planned(micro_batch=1)
    assert roomy.memory.checkpointing == "none"
    tight = planned("t4:1", config=dataclasses.replace(LLAMA, context=8192), micro_batch=4)
    assert tight.memory.fits
    assert tight.memory.checkpointing != "none"


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_can_be_planned(family):
    presets = FAMILIES[family].presets
    config = presets[list(presets)[-1]]
    value = planned("h200:64", config=config, tokens=1e9, region="SE", layout=Layout(shard=64)).as_json()
    assert value["parameters"]["total"] == sum(n for k, n in value["parameters"].items() if k != "total")
    memory = value["memory_bytes"]
    parts = sum(memory[n] for n in ("weights", "gradients", "optimizer", "activations", "logits", "buffers"))
    assert memory["total"] == pytest.approx(parts)
    assert 0 < value["time_s"]["low"] <= value["time_s"]["expected"] <= value["time_s"]["high"]


@pytest.mark.parametrize(("options", "said"), [
    ({"tokens": 0}, "0 tokens"), ({"tokens": -5}, "-5 tokens"), ({"tokens": float("nan")}, "tokens"),
    ({"tokens": float("inf")}, "tokens"), ({"context": 0}, "at least one token"),
    ({"batch_tokens": 0}, "at least one token"), ({"micro_batch": 0}, "at least one row"), ({"epochs": 0}, "positive"),
    ({"optimizer": "adamx"}, "adamx"), ({"precision": "fp12"}, "fp12"), ({"checkpointing": "some"}, "some"),
    ({"days": 0}, "positive"), ({"region": "XX"}, "not known"),
    ({"given": Given.from_plain({"mfu": 1.5}, "x")}, "at most 1"),
    ({"layout": Layout(shard=4)}, "needs 4 devices, but there are 8"),
    ({"batch_tokens": 2048, "layout": Layout(shard=8)}, "cannot share"),
])
def test_nonsense_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        planned(**options)


def test_a_model_that_fits_nowhere_is_refused():
    giant = dataclasses.replace(LLAMA, dim=2**18, heads=2**11, kv_heads=2**11, head_dim=128, mlp_dim=2**20, layers=3)
    with pytest.raises(UserError, match="does not fit"):
        planned("t4", config=giant)
    assert planned("t4:8", config=giant).memory.fits is False  # with a number given, the plan says so


def test_an_unmeasured_cpu_has_no_speed(tmp_path):
    (tmp_path / "box.yaml").write_text(
        "hardware: [{name: box, kind: cpu, memory_gb: 64, bandwidth_gb_s: 50, watts: 200, peak_tflops: {bf16: 2}, "
        "source: x, date: 2026}]")
    tables = from_files(tmp_path / "box.yaml")
    request = Request(name="x", config=LLAMA, tokens=1e9, cluster=Cluster.parse("box:1", tables))
    with pytest.raises(UserError, match="no honest guess"):
        plan_training(request, tables)
