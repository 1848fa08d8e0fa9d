"""What a step is measured by: exact arithmetic with a made clock, unknown hardware without utilisation."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

from gristmill.models import DecoderConfig
from gristmill.training import hardware
from gristmill.training.device import Compute
from gristmill.training.hardware import Hardware, Peak, estimated_watts, measured_peak, peak_of, tables
from gristmill.training.meters import StepMeter
from gristmill.training.power import Estimate, PowerMeter
from gristmill.training.trace import resident_mb
from tests.shared import HANG

TINY = DecoderConfig(vocab_size=50, dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp_dim=64, context=32)
CPU = Compute(torch.device("cpu"), torch.float32, 2)


class Clock:
    def __init__(self):
        self.now = 5.0

    def __call__(self):
        return self.now


def meter(**changes):
    values = {"compute": CPU, "flops_per_token": TINY.flops_per_token, "hardware": Hardware("cpu", None),
              "peak": Peak(1e9, "measured", "here"), "power": PowerMeter(None, Estimate(8.0, "2 threads at 4 W")),
              **changes}
    return StepMeter(**values)


def step(one):
    return one.step(seconds=2.0, waited=0.5, tokens=128, context=32)


def test_the_numbers_of_a_step():
    values = step(meter())
    assert values["seconds"] == pytest.approx(2.0)
    assert values["tokens_per_second"] == pytest.approx(64.0)
    assert values["data_wait"] == pytest.approx(0.25)
    assert values["mfu"] == pytest.approx(64.0 * TINY.flops_per_token(32) / 1e9)
    assert (values["watts_estimated"], values["joules_estimated"]) == (8.0, pytest.approx(16.0))
    assert not {"watts", "joules", "cuda_peak_mb"} & values.keys()
    assert values["memory_mb"] > 50


def test_several_processes_share_the_peak_and_a_computer_is_counted_once():
    class Rapl:
        name = "rapl"

        def joules(self):
            return 40.0 * clock.now

    clock = Clock()
    one = meter(processes=4, hosts=2, power=PowerMeter(Rapl(), None, clock=clock))
    clock.now += 1
    values = step(one)
    assert values["mfu"] == pytest.approx(64.0 * TINY.flops_per_token(32) / 4e9)
    assert values["watts"] == pytest.approx(80.0)  # two computers, whatever runs on them
    assert values["joules"] == pytest.approx(160.0)
    values = step(meter(processes=4))
    assert values["watts_estimated"] == pytest.approx(32.0)


def test_unknown_hardware_has_no_utilisation_and_no_watts():
    """A name that is close to a known one is another device: half of an H100, a laptop's board."""
    gpu = Compute(torch.device("cuda"), torch.bfloat16, 1)
    for name in ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA H100 PCIe", "NVIDIA GeForce RTX 4090 Laptop GPU", ""):
        unknown = Hardware.called(name)
        assert (unknown.name, unknown.device) == (name, None)
        assert peak_of(unknown, gpu) is None
        assert estimated_watts(unknown, gpu) is None
    values = step(meter(peak=None, power=PowerMeter(None, None, "nobody knows")))
    assert not {"mfu", "watts", "watts_estimated"} & values.keys()


def test_known_hardware_is_taken_from_the_table():
    known = Hardware.called("NVIDIA H200")
    assert known.name == "h200"
    peak = peak_of(known, Compute(torch.device("cuda"), torch.bfloat16, 1))
    assert (peak.flops, peak.kind) == (989e12, "table")
    t4 = Hardware.called("Tesla T4")
    assert peak_of(t4, Compute(torch.device("cuda"), torch.float16, 1)).flops == 65e12
    assert peak_of(t4, Compute(torch.device("cuda"), torch.float64, 1)) is None
    assert estimated_watts(known, CPU).watts == pytest.approx(0.75 * 700)


def test_the_power_of_a_cpu_is_estimated_by_its_threads():
    cpu = Hardware("cpu", None)
    said = [estimated_watts(cpu, Compute(torch.device("cpu"), torch.float32, threads)) for threads in (1, 2)]
    assert [(one.watts, one.source) for one in said] == [(4.0, "1 thread at 4 W"), (8.0, "2 threads at 4 W")]


def test_every_name_of_a_driver_belongs_to_one_row():
    names = [name for row in tables().devices.values() for name in row.reported]
    assert len(names) == len(set(names)) >= 12


def test_a_cpus_peak_is_measured_once_and_no_longer_than_is_afforded(monkeypatch):
    def products_in(seconds):
        """A clock by which every product takes so long, and so does what lies between two of them."""
        asked = itertools.count()
        monkeypatch.setattr(hardware, "time", SimpleNamespace(monotonic=lambda: next(asked) * seconds))
        measured_peak.cache_clear()
        return asked

    asked = products_in(1 / 70)
    peak = peak_of(Hardware("cpu", None), CPU)
    # 0.3 s for 256, 512 and 1024 rows; those of 2048, eight times as much work, would need 0.34 s more than is there.
    assert (peak.kind, peak.flops) == ("measured", pytest.approx(2 * 1024**3 * 70))
    before = next(asked)
    assert peak_of(Hardware("cpu", None), CPU) == peak
    assert next(asked) == before + 1
    products_in(1 / 50)
    assert measured_peak(torch.float32, 2) is None  # it ends before 1024 rows, and small products say little
    monkeypatch.undo()
    measured_peak.cache_clear()
    assert measured_peak(torch.float32, 2, afforded=HANG) > 0
    measured_peak.cache_clear()
    assert measured_peak(torch.float32, 2, afforded=0.0) is None  # too slow to be worth it
    measured_peak.cache_clear()


def test_what_the_numbers_rest_on_is_written_down():
    said = meter().described()
    assert said["peak"] == {"flops": 1e9, "kind": "measured", "source": "here"}
    assert (said["hardware"], said["power"], said["power_source"]) == ("cpu", "estimated", "2 threads at 4 W")


def test_a_step_without_time_is_no_division_by_zero():
    assert resident_mb() > 0
    assert meter().step(0.0, 0.0, 128, 32)["tokens_per_second"] > 0
