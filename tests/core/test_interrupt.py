"""Signals: once, twice, in the middle of a step, by a person, among several processes."""

from __future__ import annotations

import os
import signal
import time

import pytest

from gristmill.core import interrupt
from gristmill.core.errors import Interrupted

TERM, INT = signal.SIGTERM, signal.SIGINT


class Clock:
    """Stands still until it is put on: how long this computer takes from one signal to the next says nothing."""

    now = 5.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(interrupt, "time", made)
    return made


def tell(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.001)  # a handler runs between two instructions


@pytest.mark.parametrize(("number", "code"), [(TERM, 143), (INT, 130)])
def test_a_signal_interrupts_and_its_repetition_does_not_tear_what_is_written_down(number, code):
    written = []

    @interrupt.handlers()
    def work() -> None:
        try:
            tell(number)
        finally:
            tell(number)
            tell(TERM)
            written.append("all of it")

    with pytest.raises(Interrupted) as error:
        work()
    assert error.value.exit_code == code
    assert written == ["all of it"]


def test_a_step_is_not_torn_and_the_stop_is_raised_between_two():
    steps = 0

    @interrupt.handlers()
    @interrupt.deferred()
    def work() -> None:
        nonlocal steps
        while True:
            tell(TERM)
            steps += 1
            tell(TERM)
            if interrupt.requested():
                interrupt.stop()

    with pytest.raises(Interrupted) as error:
        work()
    assert (steps, error.value.exit_code) == (1, 143)
    assert not interrupt.requested()


def test_a_stop_that_nobody_acted_on_is_raised_at_the_end():
    @interrupt.handlers()
    def work() -> None:
        with interrupt.deferred():
            tell(TERM)
            assert interrupt.requested()
        pytest.fail("it goes on")

    with pytest.raises(Interrupted):
        work()


def test_a_second_ctrl_c_stops_at_once_even_in_a_step(clock):
    reached = []

    @interrupt.handlers()
    @interrupt.deferred()
    def work() -> None:
        tell(INT)
        tell(INT)  # the same one, passed on by a parent
        reached.append("still in the step")
        clock.now += 2 * interrupt.FORWARDED
        tell(INT)
        reached.append("never")

    with pytest.raises(Interrupted) as error:
        work()
    assert reached == ["still in the step"]
    assert error.value.exit_code == 130


def test_among_several_processes_a_second_ctrl_c_is_no_order_of_its_own(monkeypatch):
    monkeypatch.setattr(interrupt, "FORWARDED", 0.0)
    steps = 0

    @interrupt.handlers(together=True)
    @interrupt.deferred()
    def work() -> None:
        nonlocal steps
        for _ in range(3):
            tell(INT)
            steps += 1
        interrupt.stop()

    with pytest.raises(Interrupted):
        work()
    assert steps == 3


def test_a_stop_that_got_lost_can_be_repeated_later(clock):
    with interrupt.handlers():
        with pytest.raises(Interrupted):
            tell(TERM)
        tell(TERM)
        clock.now += 2 * interrupt.PATIENCE
        with pytest.raises(Interrupted):
            tell(TERM)


def test_handlers_inside_handlers_change_nothing_and_the_old_ones_come_back():
    before = signal.getsignal(TERM)
    with interrupt.handlers(together=True):
        ours = signal.getsignal(TERM)
        with interrupt.handlers():
            assert interrupt._together
        assert signal.getsignal(TERM) is ours
    assert signal.getsignal(TERM) is before
    assert not interrupt._together
