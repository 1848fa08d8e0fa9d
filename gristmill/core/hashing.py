"""Digests of values, files and folders; the basis of identity, lineage and reuse."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from gristmill.core.errors import UserError

VOLATILE = ("telemetry", ".scratch")
"""Folders of an artifact that hold times, speeds and scraps: no part of its payload."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; refuses what has no deterministic form (sets, objects, NaN)."""
    _refuse_unstable(value, "value")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _refuse_unstable(value: Any, where: str) -> None:
    if value is None or isinstance(value, (bool, int, str)):
        return
    if isinstance(value, float):
        if math.isfinite(value):
            return
        raise UserError(f"{value} cannot be stored deterministically", where=where, fix="use a finite number")
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _refuse_unstable(item, f"{where}[{i}]")
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise UserError(f"key {key!r} is not text", where=where, fix="use text keys")
            _refuse_unstable(item, f"{where}.{key}")
        return
    raise UserError(
        f"a {type(value).__name__} cannot be stored deterministically",
        where=where,
        fix="use numbers, text, lists and mappings only",
    )


def digest(value: Any) -> str:
    """SHA-256 (hex) of a JSON-ready value."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def payload_files(folder: Path) -> list[Path]:
    """The files that make up an artifact's payload, sorted: all but its record and its volatile folders."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.relative_to(folder).parts[0] not in VOLATILE
        and path.relative_to(folder).as_posix() != "artifact.json"
    )


def digest_folder(folder: Path) -> str:
    """Digest of a folder's payload: names and bytes, independent of times and of where it lies."""
    return digest({p.relative_to(folder).as_posix(): digest_file(p) for p in payload_files(folder)})
