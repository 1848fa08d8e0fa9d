"""What this machine can do: every check says what was found and, where something lacks, how to mend it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from gristmill.pipeline.provenance import cores, cpu_flags, cpu_name

REQUIRED = ("torch", "numpy", "pyarrow", "tokenizers", "safetensors", "pydantic", "yaml", "typer", "rich", "jinja2",
            "fastapi", "uvicorn", "nicegui")
EXTRAS = {
    "huggingface_hub": ("hub ids as models", "pip install 'gristmill[hub]'"),
    "transformers": ("a second proof of exported folders", "pip install transformers"),
    "openai": ("the official client in tests", "pip install openai"),
    "playwright": ("browser tests", "pip install playwright"),
}


@dataclass(frozen=True)
class Check:
    """One finding. state: ok, warn (slower or less), missing (something needed does not work)."""

    name: str
    state: Literal["ok", "warn", "missing"]
    found: str
    fix: str | None = None


def examine(port: int = 8000) -> list[Check]:
    """All checks, the cheap ones first."""
    return [
        _python(), Check("processor", "ok", f"{cpu_name()}, {cores()} cores usable of {os.cpu_count()}"),
        _instructions(), _memory(), _disk(Path.cwd()), _packages(), *_torch(), _compiler(), _headers(), _port(port),
        *_extras(),
    ]


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} ({sys.executable})")


def _instructions() -> Check:
    flags = cpu_flags()
    if not flags:
        return Check("instructions", "ok", f"{platform.machine()} (not listed by this system)")
    known = {
        "avx2": "AVX2",
        "avx512f": "AVX512",
        "avx512_bf16": "AVX512 BF16",
        "amx_tile": "AMX",
        "amx_bf16": "AMX BF16",
        "asimd": "NEON",
        "bf16": "BF16",
    }
    found = [name for flag, name in known.items() if flag in flags]
    return Check("instructions", "ok" if found else "warn", ", ".join(found) or "no vector instructions known to us",
                 None if found else "expect slow training; use a newer processor")


def _memory() -> Check:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(lines[key].split()[0]) / 2**20 for key in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return Check("memory", "ok", "not told by this system")
    found = f"{free:.1f} GiB free of {total:.1f} GiB"
    if free < 2:
        return Check("memory", "warn", found, "the quickstart wants about 2 GiB: close other programs")
    return Check("memory", "ok", found)


def _disk(folder: Path) -> Check:
    usage = shutil.disk_usage(folder)
    found = f"{usage.free / 2**30:.1f} GiB free in {folder}"
    if usage.free < 2 * 2**30:
        return Check("disk", "warn", found, "the quickstart wants about 2 GiB: free some, or use another --runs-dir")
    return Check("disk", "ok", found)


def _packages() -> Check:
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        return Check("packages", "missing", f"not installed: {', '.join(missing)}", "pip install gristmill")
    return Check("packages", "ok", f"all {len(REQUIRED)} needed packages are there")


def _torch() -> Iterator[Check]:
    if importlib.util.find_spec("torch") is None:
        yield Check("torch", "missing", "not installed", "pip install torch")
        return
    import torch

    version = tuple(
        int("".join(filter(str.isdigit, part)) or 0) for part in torch.__version__.split("+")[0].split(".")[:2]
    )
    tested = (2, 11) <= version < (2, 14)
    yield Check("torch", "ok" if tested else "warn", f"{torch.__version__}, {torch.get_num_threads()} threads",
                None if tested else "versions 2.11 to 2.13 are tested")
    if cpu_supports_bf16():
        yield Check("bf16 on the CPU", "ok", "fast bf16 matrix products: training uses them")
    else:
        yield Check("bf16 on the CPU", "warn", "none: training runs in fp32", "nothing to mend; expect half the speed")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Check("GPU", "ok", f"{names} (CUDA {torch.version.cuda})")
    elif Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        yield Check("GPU", "warn", "an NVIDIA driver is there, but this torch cannot use it",
                    "install a torch build for CUDA")
    else:
        yield Check("GPU", "ok", "none; everything works without")


def cpu_supports_bf16() -> bool:
    """Does torch have fast bf16 matrix products on this CPU?"""
    import torch

    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def _compiler() -> Check:
    for name in filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++")):
        if path := shutil.which(name):
            return Check("C++ compiler", "ok", path)
    return Check("C++ compiler", "warn", "none: models run uncompiled, more slowly",
                 "install g++ (Debian: apt install g++)")


def _headers() -> Check:
    folder = Path(sysconfig.get_paths()["include"])
    if (folder / "Python.h").is_file():
        return Check("Python headers", "ok", str(folder))
    return Check("Python headers", "warn", "none: models run uncompiled, more slowly",
                 "install Python's headers (Debian: apt install python3-dev)")


def _port(port: int) -> Check:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return Check("port", "warn", f"{port} cannot be used ({error.strerror})", "serve with another --port")
    return Check("port", "ok", f"{port} is free for serving")


def _extras() -> Iterator[Check]:
    for name, (what, fix) in EXTRAS.items():
        if importlib.util.find_spec(name) is None:
            yield Check(name, "warn", f"not installed; needed for {what}", fix)
        else:
            try:
                version = metadata.version(name)
            except metadata.PackageNotFoundError:
                version = "unknown version"
            yield Check(name, "ok", f"{version}, for {what}")
