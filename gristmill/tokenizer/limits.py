"""Limits on files that others made: a tokenizer is read as data, and never more of it than these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gristmill.core.errors import UserError

LARGEST_FILE = 1 << 27
"""Bytes of one file of a tokenizer: 128 MiB, four times the largest public one (256,000 entries with merges)."""

DEEPEST = 64
"""Nesting of a tokenizer.json; public ones have 8 levels at most, and every reader of such a file recurses."""

LARGEST_ID = (1 << 24) - 1
"""Tables as long as the vocabulary are made from the largest id, so one wild id must not ask for gigabytes."""


def read_bytes(path: Path) -> bytes:
    """The content of a file. UserError where it is too large or cannot be read."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"this file has more than {LARGEST_FILE >> 20} MiB, too much for a tokenizer",
                            where=str(path), fix="check that it is the right file")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from error


def read_text(path: Path) -> str:
    """The content of a UTF-8 text file. UserError where it is too large or something else."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError("this is not UTF-8 text", where=str(path)) from error


def parse(text: str, name: str) -> dict[str, Any]:
    """A JSON object. UserError for anything else, and where it is nested too deeply."""
    if len(text) > LARGEST_FILE:
        raise UserError(f"{name} has more than {LARGEST_FILE >> 20} MiB")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{name} cannot be read ({why})") from error
    if not isinstance(value, dict):
        raise UserError(f"{name} cannot be read (it is no JSON object)")
    if _deeper(value, DEEPEST):
        raise UserError(f"{name} cannot be read (it is nested more than {DEEPEST} levels deep)")
    return value


def _deeper(value: Any, levels: int) -> bool:
    level = [value]
    while level and levels >= 0:
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)
                 if isinstance(inner, (dict, list))]
        levels -= 1
    return bool(level)
