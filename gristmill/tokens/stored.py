"""Arrays that are made once and kept in the cache, memory-mapped: what is known of a corpus's documents and rows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gristmill.core.errors import UserError
from gristmill.core.files import disk_errors, read_json, write_json
from gristmill.core.hashing import digest, digest_file
from gristmill.tokens.shards import FIX, alive

FORMAT = 1


def stored(cache: Path | None, kind: str, about: Mapping[str, Any], make: Callable[[], Mapping[str, np.ndarray]]
           ) -> dict[str, np.ndarray]:
    """The arrays that `make` gives, from `cache/<kind>-<digest of about>` where they have been made before.

    They are read-only and take no memory but for the pages that are used. cache: None makes them in memory. Several
    processes may make the same ones at once. Raises UserError where a file is missing or its checksum differs.
    """
    if cache is None:
        return dict(make())
    folder = Path(cache) / f"{kind}-{digest({**about, 'format': FORMAT})[:32]}"
    if not folder.exists():
        _write(folder, make(), about)
    return _open(folder)


def _write(folder: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    for path in folder.parent.glob(f".{folder.name}.*.tmp"):  # what killed processes left
        owner = int(path.name.split(".")[-2])
        if owner == os.getpid() or not alive(owner):
            shutil.rmtree(path, ignore_errors=True)
    try:
        with disk_errors(folder):
            temporary.mkdir(parents=True)
            sums = {}
            for name, array in arrays.items():
                with (temporary / f"{name}.npy").open("wb") as file:
                    np.save(file, array, allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())
                sums[name] = digest_file(temporary / f"{name}.npy")
            write_json(temporary / "manifest.json", {"about": dict(about), "sha256": sums})
            try:
                temporary.rename(folder)
            except OSError:
                if not (folder / "manifest.json").is_file():
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _open(folder: Path) -> dict[str, np.ndarray]:
    found, fix = {}, FIX.replace("the corpus", "the token shards")
    for name, checksum in read_json(folder / "manifest.json", fix)["sha256"].items():
        path = folder / f"{name}.npy"
        if not path.is_file() or digest_file(path) != checksum:
            raise UserError("this file of the cache is missing or corrupt", where=str(path), fix=fix)
        array = np.load(path, mmap_mode="r", allow_pickle=False) if path.stat().st_size else None
        found[name] = np.asarray(array)
    return found
