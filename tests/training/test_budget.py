"""Budgets: arithmetic that can be checked by hand, every error names the mend, a target stops at the right place."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.config import non_default
from gristmill.core.errors import UserError
from gristmill.planning.tables import user_folder
from gristmill.tokens import BatchWarmup, Positions
from gristmill.training import hardware
from gristmill.training.budget import Budget, Here, allowance, counted_steps
from gristmill.training.device import Compute
from gristmill.training.hardware import Hardware
from gristmill.training.power import Estimate, PowerMeter

CPU = Compute(torch.device("cpu"), torch.float32, 3)
GPU = Compute(torch.device("cuda"), torch.bfloat16, 3)
POSITIONS = Positions(8, 100)


@pytest.fixture(autouse=True)
def no_rows_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def h200(processes=1, hosts=1):
    return Here(Hardware.called("NVIDIA H200"), GPU, processes, hosts)


def here(processes=1, hosts=1):
    return Here(Hardware("cpu", None), CPU, processes, hosts)


def test_one_amount_at_most_and_all_positive():
    with pytest.raises(ValueError, match=r"give one of.*these were given: minutes, money"):
        Budget(minutes=1, money=2)
    for name in ("flops", "energy_kwh", "target_loss", "watts", "price_per_hour"):
        with pytest.raises(ValueError, match=f"{name}: must be positive"):
            Budget(**{name: 0.0})
    with pytest.raises(ValueError, match="give price_per_hour in EUR"):
        Budget(money=3.0, currency="EUR")
    for name, value, amounts in (("hardware", "h200", "money or energy_kwh"), ("price_per_hour", 1.0, "money"),
                                 ("watts", 9.0, "energy_kwh"), ("currency", "EUR", "money")):
        with pytest.raises(ValueError, match=f"{name}: is for a budget in {amounts}$"):
            Budget(minutes=3, **{name: value})
    with pytest.raises(ValueError, match=r"hardware: 'h20' is not in the hardware table; choose from .*h200") as no:
        Budget(money=1.0, hardware="h20")
    assert "--" not in str(no.value)
    assert Budget(steps=3, target_loss=2.0).target_loss == 2.0  # beside an amount


def test_what_was_not_said_leaves_identity_as_it_was():
    assert non_default(Budget(minutes=4.0)) == {"minutes": 4.0}


@pytest.mark.parametrize(("budget", "steps", "said"), [
    (Budget(steps=7), 7, None),
    (Budget(tokens=8_000), 10, "steps = 10: budget.tokens / 800 tokens a step"),
    (Budget(flops=6e9), 12, "steps = 12: 6e+09 FLOPs / 6.25e+05 a token = 9600 tokens / 800 tokens a step"),
    (Budget(), 25, "steps = 25: 20 tokens a parameter / 800 tokens a step"),
    (Budget(tokens=1), 1, "steps = 1: budget.tokens / 800 tokens a step"),
])
def test_counted_budgets(budget, steps, said):
    assert counted_steps(budget, POSITIONS, 100, 6.25e5, 1000) == (steps, said)
    assert not budget.timed


@settings(deadline=None)
@given(tokens=st.integers(1, 10**7), per_token=st.floats(1.0, 1e12), growing=st.booleans())
def test_flops_are_tokens_times_flops_per_token(tokens, per_token, growing):
    """Both ways to say the same amount give the same steps, also where updates grow at first, to a rounding at most."""
    positions = Positions(8, 100, BatchWarmup(start=2, tokens=5000) if growing else None)
    by_tokens, _ = counted_steps(Budget(tokens=tokens), positions, 100, per_token, 1, growing)
    by_flops, _ = counted_steps(Budget(flops=tokens * per_token), positions, 100, per_token, 1, growing)
    assert abs(by_tokens - by_flops) <= (0 if tokens % 400 else 1)


def test_money_is_time_by_the_price_of_the_devices():
    one = allowance(Budget(money=37.0), h200())
    assert one.seconds == pytest.approx(37 / 3.7 * 3600)
    assert one.said == "37 USD"
    assert one.derivation == ("37 USD pay for 36000 s: 1 device at 3.7 USD an hour (h200: Public on-demand price pages "
                              "of several clouds, low and high of those seen, 2026-01)")
    assert allowance(Budget(money=37.0), h200(8, 1)).seconds == pytest.approx(one.seconds / 8)
    named = allowance(Budget(money=1.0, hardware="h100-sxm"), here())
    assert named.seconds == pytest.approx(1200)
    said = allowance(Budget(money=1.0, price_per_hour=0.5, currency="EUR"), here(processes=4, hosts=2))
    assert said.seconds == pytest.approx(3600)  # a computer has one price, however many processes run on it
    assert said.derivation == "1 EUR pay for 3600 s: 2 computers at 0.5 EUR an hour (budget.price_per_hour)"


def test_a_price_that_nobody_knows_names_three_mends():
    with pytest.raises(UserError) as caught:
        allowance(Budget(money=1.0), here())
    assert "no price for this computer's CPU" in str(caught.value)
    assert "price_per_hour in the budget (of one computer)" in str(caught.value)
    assert str(user_folder() / "prices.yaml") in str(caught.value)
    with pytest.raises(UserError, match=r"'NVIDIA H100 PCIe'"):
        allowance(Budget(money=1.0), Here(Hardware.called("NVIDIA H100 PCIe"), GPU))


def test_a_users_own_price_is_found(tmp_path):
    (tmp_path / "gristmill").mkdir()
    (tmp_path / "gristmill" / "hardware.yaml").write_text(
        "hardware:\n  - {name: mine, memory_gb: 8, bandwidth_gb_s: 10, watts: 100, peak_tflops: {bf16: 7}, "
        "reported: [My Board], source: me, date: 2026-01}\n"
        "prices:\n  - {hardware: mine, usd_per_hour: 2, source: me, date: 2026-01}\n")
    hardware._tables.cache_clear()
    found = Hardware.called("My Board")
    assert allowance(Budget(money=1.0), Here(found, GPU)).seconds == pytest.approx(1800)
    hardware._tables.cache_clear()


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Counter:
    def __init__(self, name, clock, watts):
        self.name, self.clock, self.rate = name, clock, watts

    def joules(self):
        return self.rate * self.clock.now


def test_energy_is_time_by_what_was_measured():
    clock = Clock()
    power = PowerMeter(Counter("nvml", clock, 500.0), None, clock=clock)
    clock.now = 4.0
    found = allowance(Budget(energy_kwh=1.0), h200(2), power)
    assert found.seconds == pytest.approx(3.6e6 / 1000)
    assert found.derivation == ("1 kWh last for 3600 s at 1000 W (measured, 2 x 500 W, counted by the device (NVML))")
    power = PowerMeter(Counter("rapl", clock, 90.0), None, clock=clock)
    clock.now = 6.0
    assert allowance(Budget(energy_kwh=1.0), here(processes=8), power).seconds == pytest.approx(3.6e6 / 90)


def test_energy_is_estimated_where_nothing_measures_and_says_so():
    meterless = PowerMeter(None, Estimate(12.0, "as in the tables"), "no counter")
    for power in (None, meterless):
        found = allowance(Budget(energy_kwh=0.1), here(), power)
        assert found.seconds == pytest.approx(3.6e5 / 12)
        assert "estimated: 1 x 3 threads at 4 W" in found.derivation
    assert allowance(Budget(energy_kwh=0.1, watts=40), here(4, 2)).seconds == pytest.approx(3.6e5 / 80)
    named = allowance(Budget(energy_kwh=0.1, hardware="l4"), h200(4))
    assert named.seconds == pytest.approx(3.6e5 / (4 * 0.75 * 72))


def test_power_that_nobody_knows_is_endless_before_the_measurement_and_an_error_after_it():
    unknown = Here(Hardware.called("a board"), GPU)
    assert math.isinf(allowance(Budget(energy_kwh=0.1), unknown).seconds)
    with pytest.raises(UserError, match=r"power of 'a board'(?s:.*)pip install nvidia-ml-py(?s:.*)say watts in the"):
        allowance(Budget(energy_kwh=0.1), unknown, PowerMeter(None, None, "pip install nvidia-ml-py"))


def test_minutes_need_no_derivation():
    found = allowance(Budget(minutes=2.5), here())
    assert (found.seconds, found.said, found.derivation) == (150.0, "2.5 minutes", None)
