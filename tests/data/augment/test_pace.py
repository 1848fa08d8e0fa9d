import pytest

from gristmill.data.augment.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def paced(**rates):
    clock = Clock()
    return Pace(**rates, clock=clock, sleep=clock.sleep), clock


def test_no_limit_never_waits():
    pace, clock = paced()
    for _ in range(1000):
        pace.wait(10**9)
    assert clock.now == 100


def test_requests_a_second():
    pace, clock = paced(requests_per_second=4)
    for _ in range(41):
        pace.wait(1)
    assert clock.now - 100 == pytest.approx(10, rel=1e-3)


def test_tokens_a_minute():
    pace, clock = paced(tokens_per_minute=6000)
    for _ in range(30):
        pace.wait(1000)
    assert clock.now - 100 == pytest.approx(240, rel=1e-3)  # a minute's worth is there at the beginning


def test_what_was_not_used_comes_back_and_what_was_used_beyond_is_missed():
    pace, clock = paced(tokens_per_minute=6000)
    pace.wait(6000)
    pace.settle(6000, 0)
    pace.wait(6000)
    assert clock.now == 100
    pace.settle(6000, 7000)
    pace.wait(1000)
    assert clock.now - 100 == pytest.approx(20, rel=1e-3)


def test_a_request_larger_than_a_minutes_worth_goes_out_all_the_same():
    pace, clock = paced(tokens_per_minute=60)
    pace.wait(10_000)
    pace.wait(10_000)
    assert clock.now - 100 == pytest.approx(60, rel=1e-3)


def test_a_pause_holds_everybody():
    pace, clock = paced()
    pace.pause(7)
    pace.pause(3)
    pace.wait(1)
    assert clock.now == 107
