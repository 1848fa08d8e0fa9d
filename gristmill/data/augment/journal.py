"""Answers that were had are kept: one line each, on the disk before they count, found again by what was asked.

The file lies in the run's cache, not in the stage's own folder: a model is asked for the same thing once, however often
the stage is changed, stopped or begun anew. A line that a crash cut short is cut off when the file is opened again.
Memory: about 150 bytes an answer.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gristmill.core.errors import UserError
from gristmill.core.files import disk_errors
from gristmill.core.hashing import digest
from gristmill.core.writer import Answer, Request, Writer


def key_of(writer: Writer, request: Request) -> str:
    """What tells one question from another."""
    return digest([writer.identity, request.prompt, request.seed, request.max_tokens, repr(request.temperature),
                   repr(request.top_p)])


class Journal:
    """An append-only file of answers; used by several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._places: dict[bytes, tuple[int, int]] = {}
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._read()
            self._file = os.open(path, os.O_RDWR | os.O_APPEND)

    def __len__(self) -> int:
        return len(self._places)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *about: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            os.close(self._file)

    def find(self, key: str) -> Answer | None:
        """The answer that was had, or None."""
        place = self._places.get(bytes.fromhex(key))
        if place is None:
            return None
        with self._lock:
            line = os.pread(self._file, place[1], place[0])
        value = json.loads(line)
        del value["key"]
        return Answer(**value)

    def add(self, answers: Sequence[tuple[str, Answer]]) -> None:
        """Append answers (key, answer) and wait until they are on the disk."""
        lines = [json.dumps({"key": key, **asdict(answer)}, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
                 for key, answer in answers]
        if not lines:
            return
        with self._lock, disk_errors(self.path):
            try:
                left = memoryview(b"".join(lines))
                while left:
                    left = left[os.write(self._file, left) :]
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, self._end)  # half a line must not stand before a whole one
                raise
            for (key, _), line in zip(answers, lines, strict=True):
                self._places[bytes.fromhex(key)] = (self._end, len(line))
                self._end += len(line)

    def _read(self) -> None:
        self._end = 0
        with self.path.open("ab+") as file:
            file.seek(0)
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    self._places[bytes.fromhex(json.loads(line)["key"])] = (self._end, len(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError(f"line {number} is damaged ({error})", where=str(self.path),
                                    fix="remove that line; what it held is asked again") from error
                self._end += len(line)
            file.truncate(self._end)
