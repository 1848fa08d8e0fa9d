"""What a run writes while it goes: a deterministic trace, and telemetry that depends on the clock."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gristmill.core.files import disk_errors, read_jsonl, write_atomic


class TraceFile:
    """JSON lines in the order of steps; on resume, lines after the checkpoint are cut and written again."""

    def __init__(self, path: Path, resume_step: int) -> None:
        self.path = path
        kept = [_line(record) for record in read_jsonl(path) if record["step"] <= resume_step]
        self.kept = len(kept)
        write_atomic(path, b"".join(kept))  # a kill here must not take the lines of what is done
        with disk_errors(path):
            self.file = path.open("ab")

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; it must carry its step."""
        with disk_errors(self.path):
            self.file.write(_line(record))
            self.file.flush()

    def flush(self) -> None:
        """Onto the disk."""
        with disk_errors(self.path):
            os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


class TensorBoard:
    """Scalars for TensorBoard, where tensorboardX is installed; silent otherwise.

    Written by this thread, not by a `SummaryWriter`, whose own may still hold events when `flush` returns. Readers drop
    what an earlier try left of the steps after `resume_step`.
    """

    def __init__(self, folder: Path, resume_step: int = -1) -> None:
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.summary import scalar
        except ImportError:
            self.writer = None
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self.event, self.scalar = Event, scalar
            # Readers take files by their names; two starts may lie in one second.
            self.writer = EventsWriter(str(folder / "events"), filename_suffix=f".{time.time_ns()}")
            self.writer.write_event(Event(wall_time=time.time(), step=resume_step + 1,
                                          session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: dict[str, Any]) -> None:
        if self.writer is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self.writer.write_event(self.event(wall_time=time.time(), step=step,
                                                       summary=self.scalar(name, value)))

    def flush(self) -> None:
        """Onto the disk."""
        if self.writer is not None:
            self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class Traces:
    """All that a run writes: trace.jsonl, evaluations.jsonl, telemetry/; nothing at all for a process that is not to
    write."""

    def __init__(self, folder: Path | None, resume_step: int,
                 besides: Callable[[int, Mapping[str, Any]], None] = lambda step, values: None) -> None:
        """resume_step: later lines of an earlier try are cut. besides: gets the numbers of the board as well."""
        self.open, self.besides = folder is not None, besides
        if folder is not None:
            self.trace = TraceFile(folder / "trace.jsonl", resume_step)
            self.evaluations = TraceFile(folder / "evaluations.jsonl", resume_step)
            self.speed = TraceFile(folder / "telemetry" / "speed.jsonl", resume_step)
            self.board = TensorBoard(folder / "telemetry" / "tensorboard", resume_step)

    def lost(self, steps: int) -> int:
        """Of so many steps that are done, those whose lines an earlier start has not left."""
        return steps - self.trace.kept if self.open else 0

    def update(self, record: dict[str, Any], telemetry: dict[str, Any]) -> None:
        """An update: what it found, and how it went."""
        if self.open:
            self.trace.write(record)
            self.speed.write({"step": record["step"], **telemetry})
            self._show(record["step"], {f"train/{k}": v for k, v in record.items() if k != "step"} | {
                f"speed/{k}": v for k, v in telemetry.items()})

    def evaluation(self, record: dict[str, Any]) -> None:
        """An evaluation."""
        if self.open:
            self.evaluations.write(record)
            self._show(record["step"], {f"valid/{k}": v for k, v in record.items() if k not in ("step", "tokens")})

    def _show(self, step: int, values: dict[str, Any]) -> None:
        self.board.write(step, values)
        self.besides(step, values)

    def flush(self) -> None:
        """Before a checkpoint: of what it has done nothing is drawn again, and no number is lost with the machine."""
        if self.open:
            for file in (self.trace, self.evaluations, self.board):
                file.flush()

    def close(self) -> None:
        if self.open:
            for file in (self.trace, self.evaluations, self.speed, self.board):
                file.close()


def resident_mb() -> float:
    """Memory of this process, in megabytes; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 1e6
    except OSError:
        return 0.0
