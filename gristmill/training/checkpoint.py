"""Checkpoints: everything that a run needs to go on as if nothing had happened.

A checkpoint is a folder of safetensors and one JSON file with the checksums of the others. It is written beside its
place, flushed, and renamed: a reader finds it whole or not at all.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from gristmill.core.errors import UserError
from gristmill.core.files import disk_errors, read_json, write_json
from gristmill.core.hashing import digest_file


@dataclass
class Checkpoint:
    """step: updates done. tensors: by file name. state: JSON-ready rest."""

    step: int
    tensors: dict[str, dict[str, torch.Tensor]]
    state: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Write `folder/step-N` durably, then drop all but the newest `keep`."""
    target = folder / f"step-{checkpoint.step:08d}"
    temporary = folder / f".{target.name}.tmp"
    with disk_errors(target):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        sums = {}
        for name, tensors in checkpoint.tensors.items():
            path = temporary / f"{name}.safetensors"
            save_file({key: value.detach().contiguous().cpu() for key, value in tensors.items()}, path)
            sums[path.name] = digest_file(path)
            _flush(path)
        write_json(temporary / "state.json", {"step": checkpoint.step, "sha256": sums, **checkpoint.state})
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        _flush(folder)
    for old in _complete(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose checksums hold, or None; damaged ones are passed over for older ones."""
    damaged = []
    for path in reversed(_complete(folder)):
        try:
            return load(path)
        except UserError as error:
            damaged.append(error)
    if damaged:
        raise damaged[0]
    return None


def load(path: Path) -> Checkpoint:
    """Read one checkpoint; a wrong checksum is a UserError that names the file."""
    state = read_json(path / "state.json")
    sums = state.pop("sha256")
    for name, expected in sums.items():
        if not (path / name).exists() or digest_file(path / name) != expected:
            raise UserError("this checkpoint file is damaged", where=str(path / name),
                            fix="delete the checkpoint's folder; training goes on from an older one or from the start")
    tensors = {Path(name).stem: load_file(path / name) for name in sums}
    return Checkpoint(state.pop("step"), tensors, state)


def _complete(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*") if (p / "state.json").is_file())


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
