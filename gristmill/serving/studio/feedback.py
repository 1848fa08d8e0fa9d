"""What people think of answers, one JSON line each: the raw material of preference data."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from gristmill.core.files import disk_errors


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """One rating; a later line for the same `answer_id` replaces an earlier one, rating 0 takes it back."""

    conversation_id: str
    answer_id: str
    model: str
    rating: Literal[-1, 0, 1]
    messages: list[dict[str, str]]
    """What the model was asked, the system prompt included."""
    answer: str
    sampling: dict[str, Any]
    seed: int
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def record(path: Path, feedback: Feedback) -> None:
    """Append one line; a single write, so lines of several pages never mix. MachineError on a full disk."""
    line = (json.dumps(asdict(feedback), ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)
