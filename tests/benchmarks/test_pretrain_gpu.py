"""The GPU benchmark runs as it is, on a CPU and a tiny model: nothing in it waits for a GPU to be tried."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import pretrain_gpu
from benchmarks.gpu_steps import Rows, Shape, shapes
from gristmill.core.errors import UserError
from gristmill.training.fit_memory import OutOfMemory

ROOT = Path(__file__).parents[2]
BENCHMARK = [sys.executable, "-m", "benchmarks.pretrain_gpu"]
TINY = [*BENCHMARK, "--device", "cpu", "--sizes", "tiny", "--rounds", "1", "--seconds", "0.01", "--eager", "--matmul",
        "256", "--context", "64", "--json"]
CPU = torch.device("cpu")
SMALL = Shape(64, 2, 2, 8, 0, vocabulary=64, largest=16, graphs=True)
ABOUT = {"device": "CPU", "torch": "2", "compiled": False, "context": 8, "run": "now", "turns": 1}


def ran(*options: str) -> tuple[list[dict], str]:
    """What it printed, as objects, and what it said meanwhile; without git."""
    done = subprocess.run([*TINY, *options], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
                          env={**os.environ, "PATH": ""})
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.mark.slow
def test_all_run_in_both_numerics_and_results_are_kept_from_call_to_call(tmp_path):
    output = tmp_path / "new" / "found.json"
    (rate, bf16, float8), said = ran("--output", str(output))
    assert rate["unit"] == "TFLOP/s"
    assert "ours: {'rows': 4" in said
    assert bf16["of"].keys() == {"ours", "plain", "documents", "graphs"}
    assert float8["of"].keys() == {"ours", "documents"}, "the plain loop is measured once"
    for found in (bf16, float8):
        assert found["ratio"] == round(found["ours"] / bf16["theirs"], 3)
        assert found["one_run"]
        assert found["documents_over_ours"] > 0
        for one in found["of"].values():
            assert one["tokens_per_s"] > 0
            assert one["mfu_matmul"] == pytest.approx(
                one["tokens_per_s"] * one["flops_per_token"] / (one["matmul_tflops"] * 1e12), rel=0.1, abs=2e-4)
    assert float8["over_our_bf16"] == round(float8["ours"] / bf16["ours"], 3)
    assert bf16["graphs_over_ours"] > 0
    stored = json.loads(output.read_text())
    assert len(stored["results"]) == 6
    assert [one["ratio"] for one in stored["comparisons"]] == [bf16["ratio"], float8["ratio"]]

    (_, again), _ = ran("--output", str(output), "--numerics", "float8", "--contestants", "ours", "plain", "--rows",
                        "ours=2")
    assert again["of"].keys() == {"ours"}, "and taken from the file"
    assert again["of"]["ours"]["rows"] == 2
    assert again["ratio"] == round(again["ours"] / bf16["theirs"], 3)
    merged = json.loads(output.read_text())["results"]
    assert [one for one in merged if one["numerics"] == "bf16"] == stored["results"][:4]
    assert [one["rows"] for one in merged if one["numerics"] == "float8"] == [2, 4]


def contestants(monkeypatch, *, fits: int, together: int, error: type[Exception]) -> list[tuple[str, int]]:
    """Those that fit alone with so many rows, and side by side with so many in all; what was made."""
    there: dict[str, int] = {}
    made = []

    def maker(name):
        def make(shape, rows, device, numerics, compiled):
            there[name] = rows
            made.append((name, rows))

            def step():
                if there[name] > fits or sum(there.values()) > together:
                    raise error("CUDA out of memory. Tried to allocate 2 GiB")

            return step
        return make

    monkeypatch.setattr(pretrain_gpu, "CONTESTANTS", {name: maker(name) for name in ("ours", "plain")})
    return made


def contest(minutes: float | None = None, shape: Shape = SMALL) -> pretrain_gpu.Contest:
    return pretrain_gpu.Contest(shape, "bf16", CPU, False, 1e-5, pretrain_gpu.Clock(minutes))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, OutOfMemory])
def test_rows_are_halved_until_they_fit_alone_and_side_by_side(monkeypatch, error):
    made = contestants(monkeypatch, fits=4, together=6, error=error)
    all_fit = contest()
    for name in ("ours", "plain"):
        all_fit.enter(name, 8)
    assert made == [("ours", 8), ("ours", 4), ("plain", 8), ("plain", 4), ("plain", 2)]
    assert list(all_fit.rounds(3)) == [1, 2, 3]
    assert {name: one["rows"] for name, one in all_fit.found.items()} == {"ours": 4, "plain": 2}

    contestants(monkeypatch, fits=2, together=6, error=error)
    all_fit.steps["ours"] = pretrain_gpu.CONTESTANTS["ours"](SMALL, 4, CPU, "bf16", False)  # what fitted does no more
    assert list(all_fit.rounds(1)) == [1]
    assert {name: one["rows"] for name, one in all_fit.found.items()} == {"plain": 2, "ours": 2}
    assert [len(rates) for rates in all_fit.rates.values()] == [4, 1]
    assert not all_fit.failed

    contestants(monkeypatch, fits=0, together=0, error=error)
    none = contest()
    none.enter("ours", 4)
    assert none.left_out == {"ours": "a single row does not fit"}
    assert none.failed


def test_what_fails_leaves_the_others_to_be_measured(monkeypatch, capsys):
    def broken(*given):
        raise RuntimeError("no kernel image")

    def refused(*given):
        raise UserError("graphs cannot be")

    monkeypatch.setattr(pretrain_gpu, "CONTESTANTS", {"plain": broken, "graphs": refused})
    found = contest()
    found.enter("graphs", 4)
    assert not found.failed
    found.enter("plain", 4)
    assert found.failed
    assert found.left_out.keys() == {"plain", "graphs"}
    assert "no kernel image" in found.left_out["plain"]
    assert "graphs cannot be" in found.left_out["graphs"]
    assert "Traceback" in capsys.readouterr().err


def test_what_no_longer_fits_into_the_time_is_left_out_and_said(monkeypatch, capsys):
    contestants(monkeypatch, fits=8, together=16, error=OutOfMemory)
    late = contest(minutes=0)
    late.enter("ours", 4)
    assert "60 s are needed, 0 s left" in late.left_out["ours"]
    assert not late.failed
    some = contest(minutes=2)
    some.enter("ours", 4)
    some.clock.ends = 0.0
    assert list(some.rounds(3)) == [1], "one round there is"
    assert "2 of 3 rounds left out" in capsys.readouterr().err
    clock = pretrain_gpu.Clock(10)
    clock.took("plain", layers=12, seconds=40)
    clock.took("plain", layers=6, seconds=2)
    assert clock.expected("plain", layers=24) == pytest.approx(80)


def test_rows_are_what_the_planner_lets_through():
    shape = shapes(2048)["124m"]
    names = ["ours", "plain", "documents", "graphs"]

    def fitting(available, given=()):
        return pretrain_gpu.fitting_rows(names, shape, available, dict(given))

    assert set(fitting(float("inf")).values()) == {shape.largest}
    found = [fitting(gb * 1e9) for gb in (20, 40, 80, 140)]
    for smaller, larger in itertools.pairwise(found):
        assert all(smaller[name] <= larger[name] for name in names)
    assert all(rows["plain"] <= rows["ours"] for rows in found), "it makes all logits at once"
    assert found[0]["ours"] < shape.largest
    assert fitting(20e9, [("plain", 64)])["plain"] == 64, "as asked for"
    alone = pretrain_gpu.fitting_rows(["ours"], shape, 40e9, {})
    assert alone["ours"] >= found[1]["ours"], "graphs keep their activations"


def test_results_are_merged_and_compared_only_where_alike(tmp_path):
    def result(contestant, tokens, numerics="bf16", **other):
        return {"size": "tiny", "numerics": numerics, "contestant": contestant, "tokens_per_s": tokens} | ABOUT | other

    path = tmp_path / "found.json"
    store = pretrain_gpu.Store(path)
    store.put(result("plain", 100))
    assert json.loads(path.read_text())["comparisons"] == []
    pretrain_gpu.Store(path).put(result("ours", 150, run="later"), result("documents", 75))
    store = pretrain_gpu.Store(path)
    found = store.comparison("tiny", "bf16")
    assert (found["ratio"], found["documents_over_ours"], found["one_run"]) == (1.5, 0.5, False)
    store.put(result("ours", 300, "float8"), result("plain", 200))
    assert (found := store.comparison("tiny", "float8"))["ratio"] == 1.5
    assert found["over_our_bf16"] == 2
    assert len(json.loads(path.read_text())["results"]) == 4
    store.put(result("plain", 200, torch="3"))
    assert "ratio" not in store.comparison("tiny", "bf16")


@pytest.mark.parametrize("text", ["ours", "theirs=3", "ours=0", "ours=4,", "ours=many"])
def test_rows_that_cannot_be_are_refused(text):
    assert pretrain_gpu.rows_of("ours=16,plain=8") == {"ours": 16, "plain": 8}
    with pytest.raises(pretrain_gpu.argparse.ArgumentTypeError, match="and rows"):
        pretrain_gpu.rows_of(text)


def test_ours_reads_its_batches_from_the_cpu():
    """As a training does: on the device, to count targets would be to wait for it."""
    for documents in (False, True):
        batch = Rows(shapes(64)["tiny"], 2, documents).window(0)[0]
        assert {tensor.device.type for tensor in batch.values()} == {"cpu"}
        assert all(tensor.is_contiguous() for tensor in batch.values())
    ids = batch["document_ids"]
    assert ids.dtype == torch.int32
    assert ids.max() > 0
    assert (ids.diff(dim=1) >= 0).all()


def test_weights_are_made_where_they_are_used(monkeypatch):
    """One after another on a processor they would take longer than all that is measured."""
    on_meta = []

    class Stop(Exception):
        pass

    def trainer(**given):
        on_meta.append({parameter.device.type for parameter in given["model"].parameters()})
        raise Stop

    monkeypatch.setattr("benchmarks.gpu_steps.Trainer", trainer)
    monkeypatch.setattr("benchmarks.gpu_steps.prepare", lambda runtime: None)
    with pytest.raises(Stop):
        pretrain_gpu.CONTESTANTS["ours"](SMALL, 2, torch.device("meta"), "bf16", False)
    assert on_meta == [{"meta"}]


def test_without_a_gpu_it_says_what_to_do():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run(BENCHMARK, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "--device cpu --sizes tiny" in done.stderr
