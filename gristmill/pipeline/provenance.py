"""Provenance: with what code, which libraries and on what kind of machine an artifact was made."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import gristmill

LIBRARIES = ("torch", "numpy", "tokenizers", "safetensors", "pyarrow", "pydantic", "rustbpe", "gigatoken", "rensa",
             "xxhash", "ftfy", "resiliparse", "fastwarc", "fastapi", "nicegui")


@functools.cache
def code() -> dict[str, Any]:
    """Version of the package; commit and dirty flag where its source is a git checkout, else null."""
    folder = Path(gristmill.__file__).parent
    commit, dirty = None, None
    # A package inside somebody's repository (a virtual environment there) is not that repository's code.
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is not None:
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--", ".")
        dirty = None if changes is None else bool(changes)
    return {"version": gristmill.__version__, "commit": commit, "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str | None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10,
                              env={**environment, "GIT_OPTIONAL_LOCKS": "0"})
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.cache
def libraries() -> dict[str, str]:
    """Versions of the libraries that can influence a result, as far as they are installed; and Python's."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def machine() -> dict[str, Any]:
    """Processor, cores and operating system; no host name."""
    return {"cpu": cpu_name(), "cores": cores(), "system": platform.system(), "machine": platform.machine()}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    for line in cpu_info():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """Instruction sets of the processor, as Linux names them; empty elsewhere."""
    for line in cpu_info():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def cpu_info() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
