"""Energy counters against a made /sys and a made NVML; what cannot be read is estimated and marked so."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.training.power import Estimate, Nvml, PowerMeter, Rapl, Unreadable


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def zone(root, name, called, joules, ceiling=262_143_328_850):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(called + "\n")
    (folder / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
    (folder / "max_energy_range_uj").write_text(f"{ceiling}\n")
    return folder / "energy_uj"


def test_packages_and_memory_are_added_and_their_parts_are_not(tmp_path):
    files = {name: zone(tmp_path, name, called, 50) for name, called in {
        "intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram", "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys", "intel-rapl-mmio:0": "package-0"}.items()}
    rapl = Rapl(tmp_path)
    assert rapl.joules() == 0
    for file in files.values():
        file.write_text(str(int(60e6)))
    assert rapl.joules() == pytest.approx(30.0)  # two packages and one memory


@settings(deadline=None, max_examples=20)
@given(steps=st.lists(st.integers(1, 999), min_size=1, max_size=40))
def test_a_counter_that_starts_again_is_carried_on(tmp_path_factory, steps):
    """The counter counts modulo its range; what is read never loses a joule and never falls."""
    root = tmp_path_factory.mktemp("sys")
    file = zone(root, "intel-rapl:0", "package-0", 0, ceiling=1000)
    file.write_text("900")
    rapl, total = Rapl(root), 0
    for step in steps:
        total += step
        file.write_text(str((900 + total) % 1000))
        assert rapl.joules() == pytest.approx(total / 1e6)


def test_no_counter_and_no_permission_say_why(tmp_path, monkeypatch):
    with pytest.raises(Unreadable, match="no energy counter"):
        Rapl(tmp_path / "nothing")
    file = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    file.chmod(0o000)
    if os.geteuid() == 0:  # root reads everything
        real = type(file).read_text

        def refused(path, *arguments, **named):
            if path.name == "energy_uj":
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *arguments, **named)

        monkeypatch.setattr(type(file), "read_text", refused)
    with pytest.raises(Unreadable, match=r"only root may read.*chmod a\+r"):
        Rapl(tmp_path)


class FakeNvml(SimpleNamespace):
    """As much of pynvml as is used."""

    def __init__(self, energy=True):
        super().__init__(millijoules=5_000_000, milliwatts=300_000, energy=energy, handles=[])

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        self.handles.append(uuid)
        return "handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if not self.energy:
            raise RuntimeError("Not Supported")
        return self.millijoules

    def nvmlDeviceGetPowerUsage(self, handle):
        return self.milliwatts


def test_nvml_counts_the_device_with_this_uuid():
    library = FakeNvml()
    device = Nvml("12ab-34cd", library)
    assert library.handles == [b"GPU-12ab-34cd"]
    before = device.joules()
    library.millijoules += 700_000
    assert device.joules() - before == pytest.approx(700.0)


def test_an_old_device_has_power_times_time():
    library, clock = FakeNvml(energy=False), Clock()
    device = Nvml("GPU-1", library, clock)
    clock.now += 2
    assert device.joules() == pytest.approx(600.0)
    library.milliwatts, clock.now = 100_000, clock.now + 1
    assert device.joules() == pytest.approx(700.0)


def test_nvml_that_is_not_there_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(Unreadable, match="pip install nvidia-ml-py"):
        Nvml("1")
    broken = FakeNvml()
    broken.nvmlInit = lambda: (_ for _ in ()).throw(RuntimeError("NVML Shared Library Not Found"))
    with pytest.raises(Unreadable, match="Shared Library Not Found"):
        Nvml("1", broken)


class Constant:
    name = "rapl"

    def __init__(self, clock, watts):
        self.clock, self.watts, self.broken = clock, watts, False

    def joules(self):
        if self.broken:
            raise OSError("gone")
        return self.clock.now * self.watts


def test_watts_are_read_at_most_twice_a_second_and_averaged_over_the_measured_time():
    clock = Clock()
    counter = Constant(clock, 80.0)
    meter = PowerMeter(counter, None, clock=clock)
    assert meter.watts() is None  # nothing has passed
    clock.now += 0.1
    assert meter.watts() is None
    clock.now += 0.5
    assert meter.watts() == pytest.approx(80.0)
    meter.restart()
    clock.now += 0.5
    assert meter.average() is None  # too short to be trusted
    clock.now += 0.7
    assert meter.average() == pytest.approx(80.0)
    assert (meter.kind, "RAPL" in meter.source) == ("rapl", True)


def test_a_counter_that_stops_answering_gives_way_to_the_estimate():
    clock = Clock()
    counter = Constant(clock, 80.0)
    meter = PowerMeter(counter, Estimate(12.0, "3 threads at 4 W"), clock=clock)
    counter.broken, clock.now = True, clock.now + 1
    assert meter.watts() == 12.0
    assert meter.kind == "estimated"
    assert meter.source == "the energy counter stopped answering (gone); 3 threads at 4 W"
    assert meter.average() == 12.0


def test_nothing_known_is_nothing_said():
    meter = PowerMeter(None, None, "no counter")
    assert (meter.kind, meter.watts(), meter.average()) == (None, None, None)
