"""A recording of some steps: what it writes, that it begins after the first steps, and memory at its peak."""

from __future__ import annotations

import gzip
import json

import pytest
import torch
from torch import nn

from gristmill.training.device import Compute
from gristmill.training.memory_snapshot import at_peak, held
from gristmill.training.profile import RECORDED, SKIPPED, Recording

CPU = Compute(torch.device("cpu"), torch.float32, 1)


class Training:
    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(64, 512), nn.GELU(), nn.Linear(512, 64))
        self.optimizer = torch.optim.AdamW(self.model.parameters())

    def run(self, recording, steps):
        """The steps at which the recording was active."""
        active = []
        for step in range(steps):
            with recording.range("data"):
                x = torch.randn(256, 64)
            if recording.active:
                active.append(step)
            self.model(x).square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            recording.step()
        recording.close()
        return active

    def holding(self):
        states = ((f"{i}.{key}", value) for i, state in self.optimizer.state.items() for key, value in state.items())
        return {"weights": self.model.named_parameters(), "optimizer": ((str(n), t) for n, t in states),
                "gradients": ((name, p.grad) for name, p in self.model.named_parameters())}


@pytest.mark.parametrize(("steps", "first", "count"), [(30, SKIPPED, RECORDED), (9, 3, 5), (4, 1, 3), (1, 0, 1)])
def test_it_records_a_few_steps_after_the_first_ones(tmp_path, steps, first, count):
    said: list[str] = []
    active = Training().run(Recording(tmp_path, CPU, steps, say=said.append), steps)
    assert active == list(range(first, first + count))
    found = json.loads((tmp_path / "operations.json").read_text())
    assert found["steps"] == count
    assert 0.05 < found["shares"]["matmul"] < 1
    assert found["shares"]["optimizer"] > 0
    assert found["shares"]["data"] > 0
    assert found["operations"][0]["share"] == max(o["share"] for o in found["operations"])
    assert f"{count} steps" in (tmp_path / "operations.txt").read_text()
    with gzip.open(tmp_path / "trace.json.gz") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert {"aten::addmm", "data"} <= names
    assert any(line.startswith("  profile: matmul") or "matmul" in line for line in said)
    assert not (tmp_path / "memory.json").exists()


def test_a_training_that_ends_early_leaves_what_was_recorded(tmp_path):
    recording = Recording(tmp_path, CPU, 30, rank=3)
    Training().run(recording, SKIPPED + 2)
    assert json.loads((tmp_path / "operations-rank3.json").read_text())["steps"] == 2
    assert (tmp_path / "trace-rank3.json.gz").exists()
    early = Recording(tmp_path / "early", CPU, 30)
    Training().run(early, 2)
    assert not (tmp_path / "early").exists()


def test_nothing_left_to_train_records_nothing(tmp_path):
    recording = Recording(tmp_path / "x", CPU, 0)
    recording.step()
    recording.close()
    assert not (tmp_path / "x").exists()


def test_memory_on_a_cpu_names_what_is_kept_and_what_was_alive_at_the_peak(tmp_path):
    training = Training()
    recording = Recording(tmp_path, CPU, 9, operations=False, memory=True, holding=training.holding)
    training.run(recording, 9)
    found = json.loads((tmp_path / "memory.json").read_text())
    assert not (tmp_path / "operations.json").exists()
    first = found["held"][0]
    assert first["shape"] in ([512, 64], [64, 512])
    assert first["mb"] == pytest.approx(512 * 64 * 4 / 1e6)
    assert {row["what"] for row in found["held"]} == {"weights", "optimizer"}  # no gradient is kept
    # The input of GELU, its output (256 x 512 floats each) and the batch have to be alive until the backward pass.
    assert found["peak_mb"] > 2 * 256 * 512 * 4 / 1e6
    assert found["peak_mb"] == pytest.approx(sum(row["mb"] for row in found["alive"]), rel=0.2)
    assert {"aten::linear", "aten::gelu"} <= {row["operation"] for row in found["alive"]}
    assert "aten::gelu" in (tmp_path / "memory.txt").read_text()


def test_the_peak_of_a_made_trace(tmp_path):
    def memory(when, address, size):
        return {"name": "[memory]", "ts": when, "args": {"Addr": address, "Bytes": size, "Device Type": 0}}

    def operation(when, lasts, name):
        return {"ph": "X", "cat": "cpu_op", "ts": when, "dur": lasts, "name": name}

    events = [operation(0, 10, "a"), operation(1, 2, "inside a"), memory(2, 1, 10_000_000), operation(20, 5, "b"),
              memory(21, 2, 5_000_000), memory(30, 1, -10_000_000), memory(40, 1, 7_000_000),
              memory(50, 2, -5_000_000), memory(60, 3, 1_000_000)]
    path = tmp_path / "trace.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": events}).encode()))
    assert at_peak(path) == {"peak_mb": 15.0, "alive": [{"operation": "a", "count": 1, "mb": 10.0},
                                                        {"operation": "b", "count": 1, "mb": 5.0}]}


def test_shared_memory_is_counted_once():
    weight = torch.zeros(1000)
    rows = held({"weights": [("a", weight), ("tied", weight), ("none", None), ("meta", torch.zeros(9, device="meta"))],
                 "gradients": [("a", torch.zeros(10))]})
    assert [(row["what"], row["name"], row["mb"]) for row in rows] == [
        ("weights", "a", 0.004), ("gradients", "a", 0.00004)]


def test_on_a_gpu_torchs_own_snapshot_is_written(tmp_path, monkeypatch):
    """With stand-ins for what needs a device: history on before the steps, dumped and off after them."""
    calls = []
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **named: calls.append(named))
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", lambda path: calls.append(path))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    gpu = Compute(torch.device("cuda"), torch.bfloat16, 1)
    Training().run(Recording(tmp_path, gpu, 9, operations=False, memory=True), 9)
    on, dumped, off = calls
    assert on["max_entries"] == 100_000
    assert dumped == str(tmp_path / "memory.pickle")
    assert off["enabled"] is None
    calls.clear()
    Training().run(Recording(tmp_path, gpu, 30, memory=True), 1)  # memory ran out in the first step
    assert (calls[1], calls[2]["enabled"]) == (str(tmp_path / "memory.pickle"), None)


def test_a_recording_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    said: list[str] = []
    Training().run(Recording(tmp_path / "file", CPU, 9, say=said.append), 9)
    assert len(said) == 1
    assert "could not be written" in said[0]
