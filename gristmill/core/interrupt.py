"""Stopping politely: SIGTERM and Ctrl-C end a run at a point where nothing is lost.

The pipeline installs the handlers once. Most code is simply interrupted by an `Interrupted` exception; work that
must not be torn in the middle (an optimizer step) runs inside `deferred()` and asks `requested()` between its steps.

Who sends a signal often sends it twice: Slurm and torchrun each tell every process. What arrives while the first is
acted on is ignored, except a second Ctrl-C from a person, which stops one process at once.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gristmill.core.errors import Interrupted

PATIENCE = 10.0
"""Seconds after a raised stop in which another one is a repetition. Later it counts again, for a process in which the
exception was lost (Python drops one that is raised inside a finalizer)."""
FORWARDED = 0.3
"""Two Ctrl-C closer than this are one: the terminal tells a whole group of processes, and a parent passes it on."""

_requested: int | None = None
_deferred = 0
_together = False
_raised_at: float | None = None
_by_hand_at: float | None = None


def interrupted(signum: int) -> Interrupted:
    """The error for a signal; Ctrl-C exits with 130, SIGTERM with 143, as shells expect."""
    error = Interrupted(
        f"stopped by {signal.Signals(signum).name}", fix="run the same command again: it continues where it stopped"
    )
    error.exit_code = 128 + signum
    return error


def requested() -> bool:
    """Has a stop been asked for since the outermost `deferred()` began?"""
    return _requested is not None


def stop() -> None:
    """Raise the deferred `Interrupted` now."""
    raise _act(_requested if _requested is not None else signal.SIGTERM)


@contextmanager
def deferred() -> Iterator[None]:
    """Signals inside only set the flag; one that nobody acted on is raised at the end."""
    global _deferred, _requested
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1
        left, _requested = (_requested, None) if _deferred == 0 else (None, _requested)
    if left is not None:
        raise _act(left)


def acted_on() -> None:
    """What ends this process is being written down: signals of the next seconds must not tear it."""
    global _raised_at
    _raised_at = time.monotonic()


def _act(signum: int) -> Interrupted:
    acted_on()
    return interrupted(signum)


def _handle(signum: int, frame: object) -> None:
    global _requested, _by_hand_at
    now = time.monotonic()
    acting = _raised_at is not None and now - _raised_at < PATIENCE
    if signum == signal.SIGINT:
        first, _by_hand_at = _by_hand_at, now
        if first is not None and now - first >= FORWARDED and not _together and (acting or _requested is not None):
            raise _act(signum)
    if _deferred:
        _requested = signum
    elif not acting:
        raise _act(signum)


@contextmanager
def handlers(together: bool = False) -> Iterator[None]:
    """Install the handlers for SIGTERM and SIGINT; a no-op outside the main thread, and where they are installed.

    together: this process is one of several that stop together, so that a second Ctrl-C is no order of its own.
    """
    global _together, _raised_at, _by_hand_at
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is _handle:
        yield
        return
    kept = _together, _raised_at, _by_hand_at
    _together, _raised_at, _by_hand_at = together, None, None
    before = {s: signal.signal(s, _handle) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _together, _raised_at, _by_hand_at = kept
