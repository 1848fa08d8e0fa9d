"""The run's event log: one JSON line an event, appended; what a reader sees is always whole lines."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gristmill.core.files import disk_errors


def now() -> str:
    """The present moment as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class EventLog:
    """Appends events to `log.jsonl`; a line that a crash cut short is removed when the log is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            data = path.read_bytes()
            if data and not data.endswith(b"\n"):
                with path.open("r+b") as file:
                    file.truncate(data.rfind(b"\n") + 1)

    def write(self, event: str, **fields: Any) -> None:
        """Append one event with the time."""
        line = json.dumps({"time": now(), "event": event, **fields}, ensure_ascii=False) + "\n"
        with disk_errors(self.path):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
