"""How fast a server may be asked: requests a second and tokens a minute, shared by all threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pace:
    """Two buckets that fill with time (the token bucket of traffic control); 0 is no limit."""

    def __init__(self, requests_per_second: float = 0, tokens_per_minute: float = 0,
                 clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
        self._clock, self._sleep, self._lock = clock, sleep, threading.Lock()
        self._rates = (requests_per_second, tokens_per_minute / 60)
        self._most = (1.0, float(tokens_per_minute))
        self._levels = list(self._most)
        self._last = clock()
        self._pause = 0.0

    def wait(self, tokens: int) -> None:
        """Wait until a request of about so many tokens may go out. More than a minute's worth count as a minute's."""
        while (seconds := self._take(tokens)) > 0:
            self._sleep(seconds)

    def pause(self, seconds: float) -> None:
        """Nobody asks for so long: the server said so."""
        with self._lock:
            self._pause = max(self._pause, self._clock() + seconds)

    def settle(self, reserved: int, used: int) -> None:
        """A request used so many tokens in place of those that `wait` was told."""
        with self._lock:
            most = self._most[1]
            self._levels[1] = min(most, self._levels[1] + min(reserved, most) - used)

    def _take(self, tokens: int) -> float:
        with self._lock:
            now = self._clock()
            for i, rate in enumerate(self._rates):
                self._levels[i] = min(self._most[i], self._levels[i] + (now - self._last) * rate)
            self._last = now
            if now < self._pause:
                return self._pause - now
            wanted = (1.0, min(float(tokens), self._most[1]))
            short = [(need - level) / rate for need, level, rate in zip(wanted, self._levels, self._rates, strict=True)
                     if rate > 0 and level < need]
            if short:
                return max(max(short), 0.001)
            for i, rate in enumerate(self._rates):
                if rate > 0:
                    self._levels[i] -= wanted[i]
            return 0.0
