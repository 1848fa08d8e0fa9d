"""Whether torch.compile can work on this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

_forbidden = False


def forbid_compiler(forbidden: bool) -> None:
    """Have this process compile no kernel by itself (the GPU's head, attention over long rows): `--compile never`; or
    again those that pay. Blocks of models are `training.compile`'s."""
    global _forbidden
    _forbidden = forbidden


def compiler_forbidden() -> bool:
    """What `forbid_compiler` was told last."""
    return _forbidden


def compiler_problem(gpu: bool = False) -> str | None:
    """Why torch.compile cannot work here, or None if it can. gpu: for a GPU, for which Triton compiles; its launchers
    are C, and are built against Python."""
    if sys.platform == "win32":
        return "torch.compile needs Linux or macOS"
    if gpu:
        if importlib.util.find_spec("triton") is None:
            return "Triton is missing (pip install triton)"
        variable, names = "CC", ("gcc", "clang")
    else:
        variable, names = "CXX", ("g++", "clang++")
    compiler = os.environ.get(variable) or next((name for name in names if shutil.which(name)), None)
    if compiler is None or shutil.which(compiler) is None:
        return f"no {'C' if gpu else 'C++'} compiler (install {names[0]})"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "the Python headers are missing (install python3-dev)"
    return None
