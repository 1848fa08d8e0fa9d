"""What a run writes while it goes: a deterministic trace, and telemetry that depends on the clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gristmill.core.files import disk_errors


class TraceFile:
    """JSON lines in the order of steps; on resume, lines after the checkpoint are cut and written again."""

    def __init__(self, path: Path, resume_step: int) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if path.exists():
            for line in path.read_bytes().split(b"\n")[:-1]:
                if line and json.loads(line)["step"] <= resume_step:
                    kept.append(line + b"\n")
        with disk_errors(path):
            path.write_bytes(b"".join(kept))
            self.file = path.open("ab")

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; it must carry its step."""
        with disk_errors(self.path):
            self.file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            self.file.flush()

    def close(self) -> None:
        self.file.close()


class TensorBoard:
    """Scalars for TensorBoard, where tensorboardX is installed; silent otherwise."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            self.writer = None
        else:
            self.writer = SummaryWriter(str(folder))

    def write(self, step: int, values: dict[str, Any]) -> None:
        if self.writer is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
