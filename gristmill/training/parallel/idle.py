"""How much of an update a stage of a pipeline waits."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch


class Idle:
    """The share of an update in which this process ran no pass of its stages.

    On a CPU by the clock. On a GPU by events in its stream, which are read once they have been passed, so that nobody
    waits: the share is that of an update or two before.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.share = math.nan
        """Of the last update that is known."""
        self._passes: list[tuple[Any, Any]] = []
        self._open: deque[tuple[Any, Any, list[tuple[Any, Any]]]] = deque()

    @contextlib.contextmanager
    def update(self) -> Iterator[None]:
        """Around an update."""
        self._passes, began = [], self._now()
        yield
        self._open.append((began, self._now(), self._passes))

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Around a pass of a stage."""
        began = self._now()
        yield
        self._passes.append((began, self._now()))

    def read(self) -> float:
        """`share`, after a look at what has been finished meanwhile; not a number where nothing is known."""
        while self._open and (not self.on_gpu or self._open[0][1].query()):
            began, ended, passes = self._open.popleft()
            self.share = 1 - sum(self._between(*each) for each in passes) / max(self._between(began, ended), 1e-9)
        return self.share

    def _now(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, began: Any, ended: Any) -> float:
        return began.elapsed_time(ended) if self.on_gpu else ended - began
