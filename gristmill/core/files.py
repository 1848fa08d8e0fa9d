"""Writing files so that a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gristmill.core.errors import MachineError, UserError


@contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Turn 'no space left', 'read-only' and 'permission denied' into a MachineError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free some space or choose another --runs-dir; then run the same command again, it continues"
            raise MachineError("the disk is full", where=str(path), fix=fix) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise MachineError("not allowed to write here", where=str(path), fix="choose another --runs-dir") from error
        raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` beside `path`, flush it to the disk, and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            with temporary.open("wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file's or a folder's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, fix: str | None = None) -> Any:
    """Read a JSON file; a missing or broken one is a UserError that names it. fix: how to mend a broken one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError("this file is missing", where=str(path)) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"this is not valid JSON ({error})", where=str(path), fix=fix) from error


def read_jsonl(path: Path) -> list[Any]:
    """Read a JSON-lines file whole; splits on newlines only, and a last line cut short is left out. Another broken one
    is a UserError that names it."""
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            found += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise UserError(f"this line is not valid JSON ({error})", where=f"{path}, line {number}",
                            fix="delete this line and run the same command again: only its numbers are lost") from error
    return found
