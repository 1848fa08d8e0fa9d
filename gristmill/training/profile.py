"""`--profile` and `--memory-snapshot`: a few steps of a training, recorded by torch.profiler.

The recording begins when the first steps are over (compilation, allocation) and lasts for a few. It leaves, under
`telemetry/profile/`, a trace for chrome://tracing or Perfetto, the costliest operations and the share of each kind of
work as JSON and as text, and with `--memory-snapshot` what held memory. Recorded steps are slower than others.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from gristmill.core.files import write_atomic, write_json
from gristmill.training.device import Compute
from gristmill.training.memory_snapshot import as_text, at_peak, held, record_history, write_history
from gristmill.training.operations import Profiled, profiled
from gristmill.training.trace import resident_mb

SKIPPED = 10
"""Steps before the recording, at most; a third of a short run."""
RECORDED = 5
"""Steps that are recorded, at most."""

Holding = Callable[[], Mapping[str, Iterable[tuple[str, Tensor | None]]]]
"""What stays between steps: weights, gradients, states of the optimizer -> (name, tensor)."""


class Recording:
    """Records some of the coming steps. `step` is called after each update; `range` marks what they do."""

    def __init__(self, folder: Path, compute: Compute, steps: int, *, operations: bool = True, memory: bool = False,
                 holding: Holding | None = None, rank: int = 0, say: Callable[[str], None] = lambda text: None) -> None:
        """folder: telemetry/profile. steps: that are left of the training. rank: of this process; each writes its own
        files. operations, memory: what was asked for."""
        self.folder, self.compute, self._say = folder, compute, say
        self._operations, self._memory, self._holding = operations, memory, holding or dict
        self._mark = f"-rank{rank}" if rank else ""
        self._skip = min(SKIPPED, steps // 3)
        self._left = max(1, min(RECORDED, steps - self._skip))
        self._steps = 0
        self._recorder: profile | None = None
        self.done = steps < 1
        self._history = memory and compute.device.type == "cuda" and not self.done
        if self._history:  # from the first step on: that is where memory runs out
            record_history(compute.device)
        if not self.done and self._skip == 0:
            self._begin()

    @property
    def active(self) -> bool:
        return self._recorder is not None

    def range(self, name: str) -> AbstractContextManager[Any]:
        """Marks what runs inside as `name` (`data`, `optimizer`)."""
        return record_function(name) if self.active else contextlib.nullcontext()

    def step(self) -> None:
        """An update is over."""
        if self.done:
            return
        if not self.active:
            self._skip -= 1
            if self._skip <= 0:
                self._begin()
            return
        assert self._recorder is not None
        self._recorder.step()
        self._steps += 1
        self._left -= 1
        if self._left == 0:
            self._told(self._finish)

    def close(self) -> None:
        """Write what was recorded of a training that ended early, by whatever."""
        if self.active:
            self._told(self._finish)
        elif self._history and not self.done:
            self.done = True
            self._told(self._write_history)

    def _told(self, action: Callable[[], object]) -> None:
        """A recording that cannot be written is said, and stops nothing."""
        try:
            action()
        except Exception as error:
            self._say(f"  the recording could not be written to {self.folder}: {type(error).__name__}: {error}")

    def _begin(self) -> None:
        activities = [ProfilerActivity.CPU]
        if self.compute.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._recorder = profile(activities=activities, profile_memory=self._memory and not self._history)
        self._recorder.start()
        self._began = time.monotonic()

    def _finish(self) -> None:
        assert self._recorder is not None
        recorder, self._recorder, self.done = self._recorder, None, True
        if self.compute.device.type == "cuda":
            torch.cuda.synchronize(self.compute.device)
        wall = time.monotonic() - self._began
        recorder.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        trace = self.folder / f"trace{self._mark}.json.gz"
        recorder.export_chrome_trace(str(trace))
        said = [trace.name]
        if self._operations:
            found = profiled(recorder.events(), self._steps, wall, self.compute.device.type)
            said += self._write("operations", found.as_json(), found.as_text())
            self._say(f"  profile: {_summary(found)}")
        if self._history:
            said.append(self._write_history())
        elif self._memory:
            rows, peak, resident = held(self._holding()), at_peak(trace), resident_mb()
            said += self._write("memory", {"resident_mb": resident, "held": rows, **peak},
                                as_text(rows, peak, resident))
            self._say(f"  memory: {sum(row['mb'] for row in rows):,.0f} MB kept between steps, at most "
                      f"{peak['peak_mb']:,.0f} MB on top")
        self._say(f"  recorded {self._steps} steps: {', '.join(said)} in {self.folder}")

    def _write_history(self) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"memory{self._mark}.pickle"
        write_history(path, self.compute.device)
        return path.name

    def _write(self, name: str, content: dict[str, Any], text: str) -> list[str]:
        write_json(self.folder / f"{name}{self._mark}.json", content)
        write_atomic(self.folder / f"{name}{self._mark}.txt", text)
        return [f"{name}{self._mark}.txt"]


def _summary(found: Profiled) -> str:
    shares = found.as_json()["shares"]
    return ", ".join(f"{kind} {share:.0%}" for kind, share in sorted(shares.items(), key=lambda item: -item[1])
                     if share >= 0.005)
