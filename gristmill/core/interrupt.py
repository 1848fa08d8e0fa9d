"""Stopping politely: SIGTERM and Ctrl-C end a run at a point where nothing is lost.

The pipeline installs the handlers once. Most code is simply interrupted by an `Interrupted` exception; work that
must not be torn in the middle (an optimizer step) runs inside `deferred()` and asks `requested()` between its steps.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gristmill.core.errors import Interrupted

_requested: int | None = None
_deferred = 0


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
    raise interrupted(_requested if _requested is not None else signal.SIGTERM)


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
        raise interrupted(left)


def _handle(signum: int, frame: object) -> None:
    global _requested
    if _deferred:
        _requested = signum
    else:
        raise interrupted(signum)


@contextmanager
def handlers() -> Iterator[None]:
    """Install the handlers for SIGTERM and SIGINT; a no-op outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, _handle) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
