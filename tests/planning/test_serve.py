"""Serving: the arithmetic by hand, and what cannot be served."""

from __future__ import annotations

import pytest

from gristmill.core.errors import UserError
from gristmill.models.families import FAMILIES
from gristmill.planning.anatomy import anatomy
from gristmill.planning.inputs import Cluster
from gristmill.planning.memory import USABLE
from gristmill.planning.serve import ServiceRequest, plan_service
from gristmill.planning.tables import from_files

TABLES = from_files()
LLAMA = FAMILIES["llama"].presets["llama-3-8b"]


def served(config=LLAMA, hardware="h100-sxm:1", **options):
    return plan_service(ServiceRequest(**{
        "name": "x", "config": config, "rps": 10.0, "context": 2048, "cluster": Cluster.parse(hardware, TABLES),
        **options}), TABLES)


def test_the_numbers_by_hand():
    plan = served()
    value = plan.as_json()
    weights, cache = 2 * 8_030_261_248, 2 * 32 * 8 * 128 * 2048 * 2
    assert value["memory_bytes"]["weights"] == weights
    assert value["memory_bytes"]["cache_per_request"] == cache
    answers = int((USABLE * 80e9 - weights - 0.8e9) // cache)
    assert value["answers_at_once"] == answers
    # Every step reads all weights once and each answer's cache, in the middle of what it writes.
    read = weights + answers * cache * (2048 - 256) / 2048
    assert plan.step.bandwidth_s.expected == pytest.approx(read / (0.6 * 3350e9))
    per_token = 2 * anatomy(LLAMA).matmul_parameters + 4 * 32 * 32 * 128 * (2048 - 256)
    assert plan.step.compute_s.expected == pytest.approx(answers * per_token / (0.5 * 989e12))
    cost = value["cost_usd_per_million_tokens"]["all"]["expected"]
    assert cost == pytest.approx(plan.replicas.expected * 3.0 / (3600 * 10 * 2048) * 1e6)
    assert value["cost_usd_per_million_tokens"]["written"]["expected"] == pytest.approx(4 * cost)


def test_more_load_needs_more_replicas_and_never_fewer():
    few, many = served(rps=1.0), served(rps=100.0)
    assert few.replicas.low == 1
    assert many.replicas.expected > few.replicas.expected
    assert many.replicas.low <= many.replicas.expected <= many.replicas.high


def test_smaller_weights_leave_room_and_time():
    whole, small = served(), served(weights="int4")
    assert small.weights == whole.weights / 4
    assert small.answers > whole.answers
    assert served(cache="fp8").cache_per_request == whole.cache_per_request / 2


def test_as_few_devices_as_fit():
    config = FAMILIES["llama"].presets["llama-3-70b"]
    assert served(config, "h100-sxm").per_replica == 2  # 141 GB of weights in 2 x 73.6 usable
    assert served(config, "h100-sxm", weights="int8").per_replica == 1
    with pytest.raises(UserError, match="needs 14"):
        served(config, "h100-sxm:1")


def test_what_fits_nowhere_is_refused(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text("hardware: [{name: small, memory_gb: 1, bandwidth_gb_s: 1, watts: 1, peak_tflops: {bf16: 1},"
                    " source: none, date: 2026}]")
    tables = from_files(file)
    with pytest.raises(UserError, match="does not fit 1024"):
        plan_service(ServiceRequest(name="x", config=FAMILIES["palm"].presets["540b"], rps=1, context=2048,
                                    cluster=Cluster.parse("small", tables)), tables)


def test_experts_that_nobody_chose_are_not_read():
    config = FAMILIES["mixtral"].presets["mixtral-8x7b"]
    from gristmill.planning.serve import _read

    found = anatomy(config)
    assert _read(found, 1) == pytest.approx(found.active)
    assert _read(found, 500) == pytest.approx(found.total)


def test_windows_bound_the_cache():
    config = FAMILIES["mistral"].presets["mistral-7b"]
    assert served(config, context=16_384).cache_per_request == served(config, context=4096).cache_per_request


@pytest.mark.parametrize(("options", "said"), [
    ({"rps": 0}, "requests a second"), ({"rps": -1}, "requests a second"), ({"rps": float("nan")}, "a second"),
    ({"context": 1}, "at least 2"), ({"context": 10**6}, "at most 8,192"), ({"answer": 0}, "answers of 0"),
    ({"answer": 4096}, "answers of 4096"), ({"weights": "int3"}, "int3"), ({"cache": "int8"}, "int8"),
])
def test_nonsense_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        served(**options)


def test_encoders_write_nothing():
    with pytest.raises(UserError, match="does not write text"):
        served(FAMILIES["bert"].presets["base"], context=512)
