"""One process at a time works in a run's folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gristmill.core.errors import MachineError
from gristmill.core.files import disk_errors
from gristmill.pipeline.log import now

try:
    import fcntl
except ImportError:  # Windows: no lock, as no advisory lock of this kind exists there
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"


@contextmanager
def run_lock(folder: Path, patience: float = 1.0) -> Iterator[None]:
    """Hold the lock of a run's folder; the system releases it however the process ends.

    Raises MachineError that names the other process if it is still held after `patience` seconds.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if fcntl is not None:
            deadline = time.monotonic() + patience
            while not _try(descriptor, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise MachineError(f"another process is running this recipe ({_holder(folder)})", where=str(folder),
                                       fix="wait for it, stop it, or choose another --runs-dir")
                time.sleep(0.05)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "since": now()}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Is some process running in this folder now?"""
    if fcntl is None or not (folder / NAME).is_file():
        return False
    with disk_errors(folder):
        descriptor = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return not _try(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _try(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return f"process {holder['pid']}, since {holder['since']}"
    except (OSError, ValueError, KeyError):
        return "process unknown"
