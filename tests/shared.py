"""What tests of several rooms use: where real data lies, how long a wait may be, when a computation never ends, what a
training leaves behind.

Real data lies outside the project and is never copied into it; tests skip with a reason without it.

No test says how fast something is: computers differ and are busy. Limits are there to end what hangs, far beyond what
the slowest computer needs.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("GRISTMILL_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))

HANG = 600.0
"""Seconds after which a wait is a hang: just below a test's own limit (pyproject.toml), to say what was waited for."""


def wait_for(condition: Callable[[], Any], going: Callable[[], bool] = lambda: True,
             said: Callable[[], Any] = lambda: "") -> None:
    """Until the condition holds. Fails where `going` no longer does (the process that is to bring it about has ended),
    or after `HANG` seconds, with what `said` tells."""
    ends = time.monotonic() + HANG
    while not condition():
        assert going(), f"it ended before: {said()}"
        assert time.monotonic() < ends, f"it did not happen: {said()}"
        time.sleep(0.01)


class NeverEnds(AssertionError):
    """A computation that takes far longer than its input is long."""


@contextmanager
def comes_to_an_end(seconds: float = 30.0) -> Iterator[None]:
    """For hostile inputs: ends a computation that would go on for ever, or nearly.

    seconds: of this process's processor time, so that a busy computer makes no difference. Choose the input so long
    that work in proportion to its length takes less than a second, and work in proportion to its square minutes.
    """
    def end(*_: Any) -> None:
        raise NeverEnds(f"not done after {seconds:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def as_started() -> None:
    """Take back what a training has set this process up with, and what another test would see: in bf16 it makes fp32
    products in bf16 too on processors with AMX, and `compile: never` holds for all that comes after."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_float32_matmul_precision("highest")
    if "gristmill.core.compiler" in sys.modules:
        sys.modules["gristmill.core.compiler"].forbid_compiler(False)
