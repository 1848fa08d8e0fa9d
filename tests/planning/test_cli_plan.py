"""`gristmill plan model|train|serve`: what a person types, the JSON that scripts rely on, and the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gristmill.cli.app import app
from gristmill.models.families import FAMILIES

ROOT = Path(__file__).parents[2]
PLANS = ROOT / "recipes" / "plans"
INTERVAL = {"low", "expected", "high"}
TRAIN = ["plan", "train", "llama:smollm2-135m", "--tokens", "20B", "--hardware", "h100-sxm:8", "--region", "FR"]


def call(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def value(*arguments: object):
    return json.loads(call(*arguments, "--json"))


def refused(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    return done.output


def test_the_schema_of_a_model_is_stable():
    found = value("plan", "model", "llama:smollm2-135m")
    assert set(found) == {"name", "family", "parameters", "flops_per_token", "kv_cache_bytes_per_token",
                          "kv_cache_bytes_per_source_token", "kv_cache_bytes_at_context", "weights_bytes", "config"}
    assert found["parameters"]["total"] == 134_515_008
    assert set(found["flops_per_token"]) == {"context", "targets", "train", "inference", "prefill", "matmul",
                                             "attention"}
    assert set(found["weights_bytes"]) == {"fp32", "bf16", "fp16", "fp8", "int8", "int4"}
    assert set(found["kv_cache_bytes_per_token"]) == {"fp32", "bf16", "fp8"}


def test_the_schema_of_a_training_run_is_stable():
    found = value(*TRAIN)
    assert set(found) == {
        "name", "parameters", "tokens", "flops_per_token", "flops_total", "hardware", "layout", "batch", "memory_bytes",
        "mfu", "mfu_6nd", "time_s", "device_hours", "cost_usd", "energy_kwh", "co2e_kg", "embodied_kg",
        "with_development", "storage_bytes", "region", "assumptions", "alternatives", "similar_runs", "calibration"}
    for name in ("flops_total", "mfu", "mfu_6nd", "time_s", "device_hours", "cost_usd", "energy_kwh", "co2e_kg"):
        assert set(found[name]) == INTERVAL, name
    assert found["parameters"]["total"] == 134_515_008
    assert found["flops_per_token"]["train"] > 6 * 134e6
    assert set(found["memory_bytes"]) == {
        "weights", "gradients", "optimizer", "activations", "logits", "buffers", "total", "checkpointing", "available",
        "fits"}
    assert set(found["alternatives"][0]) == {"hardware", "layout", "checkpointing", "memory_bytes", "fits", "time_s",
                                             "device_hours", "cost_usd", "energy_kwh", "co2e_kg"}
    assert set(found["assumptions"][0]) == {"name", "value", "unit", "source"}
    assert set(found["similar_runs"][0]) >= {"name", "parameters", "tokens", "hardware", "compute", "source", "date"}
    assert set(found["storage_bytes"]) == {"text", "tokens", "checkpoint", "checkpoints", "release"}


def test_the_schema_of_a_service_is_stable():
    found = value("plan", "serve", "llama:smollm2-135m", "--rps", 20, "--context", 2048, "--hardware", "l4")
    assert set(found) == {
        "name", "requests_per_second", "context", "answer", "hardware", "memory_bytes", "answers_at_once",
        "throughput_tokens_per_s", "time_to_first_token_s", "time_s_per_token", "requests_per_second_per_replica",
        "replicas", "devices", "cost_usd_per_hour", "cost_usd_per_million_tokens", "power_kw",
        "co2e_kg_per_million_tokens", "assumptions"}
    assert set(found["throughput_tokens_per_s"]) == {"compute_bound", "bandwidth_bound", "written"}
    assert set(found["cost_usd_per_million_tokens"]["written"]) == INTERVAL
    assert {"weights", "cache", "total", "available"} <= set(found["memory_bytes"])


def test_the_docs_name_every_key():
    text = (ROOT / "docs" / "planning.md").read_text("utf-8")
    for found in (value("plan", "model", "llama:smollm2-135m"), value(*TRAIN), value(
            "plan", "serve", "llama:smollm2-135m", "--rps", 20, "--context", 2048, "--hardware", "l4")):
        for key in found:
            assert f"`{key}" in text, key


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_by_its_name_its_preset_and_its_folder(family, tmp_path):
    preset = next(iter(FAMILIES[family].presets))
    (tmp_path / "config.json").write_text(
        json.dumps(FAMILIES[family].config_to_public(FAMILIES[family].presets[preset])))
    assert value("plan", "model", family)["parameters"]["total"] > 1e6
    by_preset, by_folder = value("plan", "model", f"{family}:{preset}"), value("plan", "model", tmp_path)
    assert by_preset["parameters"] == by_folder["parameters"]
    trained = value("plan", "train", tmp_path, "--tokens", "1B", "--hardware", "l4:2")
    assert trained["parameters"]["total"] == by_preset["parameters"]["total"]
    assert trained["memory_bytes"]["total"] > 0


def test_a_recipe_is_planned_as_it_would_run(tmp_path):
    recipe = ROOT / "recipes" / "quickstart.yaml"
    assert value("plan", "model", recipe)["parameters"]["total"] > 1e6
    said = refused("plan", "train", recipe, "--hardware", "l4:1")
    assert "--calibrate" in said
    assert "minutes" in said
    assert value("plan", "train", recipe, "--hardware", "l4:1", "--tokens", "5M")["tokens"] == 5e6
    assert "0 stages that pretrain" in refused("plan", "train", ROOT / "recipes" / "finetune-smollm2.yaml")


def test_people_get_tables():
    text = call(*TRAIN)
    for part in ("135 M parameters, 20 B tokens on 8 x NVIDIA H100", "expected", "CO2e of electricity",
                 "memory of the fullest device", "it fits", "what this assumes", "France: Our World in Data",
                 "this plan, then other layouts", "published runs nearest"):
        assert part in text, part
    assert all(len(line) <= 200 for line in text.splitlines())
    assert "cache of a token" in call("plan", "model", "gpt2:124m")
    assert "money for a million tokens" in call(
        "plan", "serve", "gpt2:124m", "--rps", 1, "--context", 512, "--hardware", "l4")


@pytest.mark.parametrize("plan", sorted(PLANS.glob("*.yaml")), ids=lambda p: p.stem)
def test_plan_files_run_and_agree(plan):
    text = call("plan", "train", plan)
    assert "beside what was published" in text
    assert "NOT within" not in text
    for run in value("plan", "train", plan)["runs"]:
        assert all(row["agrees"] for row in run["published"])


@pytest.mark.parametrize(("arguments", "said"), [
    (["plan", "train", "llama:smollm2-135m"], "how many tokens"),
    (["plan", "train", "llama:smollm2-135m", "--tokens=-5"], "no positive number"),
    (["plan", "train", "llama:smollm2-135m", "--tokens=1B", "--hardware=h100-sxm:0"], "'0' devices"),
    (["plan", "train", "llama:smollm2-135m", "--tokens=1B", "--hardware=abacus:8"], "known: h100-sxm"),
    (["plan", "train", "llama:smollm2-135m", "--tokens=1B", "--hardware=l4:1", "--region=XX"], "FR (France)"),
    (["plan", "train", "llama:smollm2-135m", "--tokens=1B", "--hardware=l4:1", "--mfu=1.2"], "at most 1"),
    (["plan", "train", "llama:smollm2-135m", "--tokens=1B", "--hardware=l4:1", "--parallel=shard=3"], "needs 3 dev"),
    (["plan", "train", "llama:smollm2-135m", "--tokens=1B", "--hardware=cpu"], "--calibrate"),
    (["plan", "train", "llama:smollm2-135m", "--tokens=1B", "--hardware=l4", "--calibrate"], "measures this machine"),
    (["plan", "train", "llama:llama-3.1-405b", "--tokens=1T", "--hardware=t4"], "does not fit"),
    (["plan", "model", "llama:nothing"], "no preset"),
    (["plan", "model", "/nowhere"], "no family, no recipe and no folder"),
    (["plan", "model", "llama", "--context=0"], "0 tokens a row"),
    (["plan", "serve", "bert:base", "--rps=1", "--context=512", "--hardware=l4"], "does not write text"),
    (["plan", "serve", "llama:smollm2-135m", "--rps=-1", "--hardware=l4"], "requests a second"),
    (["plan", "train", "llama:smollm2-135m", "--tokens=1B", "--hardware-file=/nowhere.yaml"], "cannot be read"),
])
def test_nonsense_gets_a_clear_error(arguments, said):
    text = refused(*arguments)
    assert said in text
    assert "Traceback" not in text


def test_a_folder_without_a_config_says_so(tmp_path):
    assert "config.json" in refused("plan", "model", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["FalconForCausalLM"]}))
    assert "Falcon" in refused("plan", "model", tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "config.json" in refused("plan", "model", tmp_path)


def test_broken_plan_files_say_where(tmp_path):
    path = tmp_path / "plan.yaml"
    for text, said in (("plan: train\n", "list of runs"), ("plan: other\nruns: [1]", "plan: train"),
                       ("plan: train\nruns: [{name: x}]", "tokens are missing"),
                       ("plan: train\nruns: [{tokens: 1B, colour: red}]", "colour"),
                       ("plan: train\nruns: [{tokens: 1B, parameters: 1B}]", "must be named"),
                       ("plan: train\nruns: [{tokens: 1B, parameters: 1B, hardware: 'l4:1', expect: {joy: 1}}]",
                        "joy cannot be compared")):
        path.write_text(text)
        assert said in refused("plan", "train", path)


@pytest.mark.parametrize("arguments", [
    ["plan", "model", "mixtral:mixtral-8x7b"], TRAIN, ["plan", "train", PLANS / "gpt3.yaml"],
    ["plan", "serve", "llama:smollm2-135m", "--rps", 20, "--context", 2048, "--hardware", "l4"],
], ids=["model", "train", "sized", "serve"])
def test_pages_are_one_file_without_a_network(arguments, tmp_path):
    path = tmp_path / "plan.html"
    call(*arguments, "--html", path)
    text = path.read_text("utf-8")
    assert text.startswith("<!doctype html>")
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", text)
    first = path.read_bytes()
    call(*arguments, "--html", path)
    assert path.read_bytes() == first
    if "train" in arguments:
        for part in ('id="carbon"', 'id="cost"', "Norway", "<svg"):
            assert part in text, part


def test_a_file_of_ones_own_hardware(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("hardware: [{name: mine, memory_gb: 48, bandwidth_gb_s: 900, watts: 300, peak_tflops: {bf16: 200},"
                    " source: bench, date: 2026-03}]")
    found = value("plan", "train", "llama:smollm2-135m", "--tokens", "1B", "--hardware", "mine:2", "--hardware-file",
                  path)
    assert found["hardware"]["name"] == "mine"
    assert found["cost_usd"] is None  # nobody said a price
    priced = value("plan", "train", "llama:smollm2-135m", "--tokens", "1B", "--hardware", "mine:2", "--hardware-file",
                   path, "--price", 2)
    assert priced["cost_usd"]["expected"] == pytest.approx(2 * priced["device_hours"]["expected"])
