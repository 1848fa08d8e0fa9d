"""C++ beside the Python of the same name: compiled once for a machine, kept in the user's cache, called by ctypes.

No build system and no headers of Python or torch: a file compiles in three seconds. Where it cannot be compiled, or the
processor lacks the instructions, the caller takes the way in torch.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl",
         "-mavx512bf16", "-mfma", "-fopenmp", "-shared", "-fPIC")
"""No -march=native: what lies in a cache on a shared disk may be loaded by another machine with the same features."""
KINDS = {"amx": ("-mamx-tile", "-mamx-bf16"), "avx512": (), "soft tiles": ("-DSOFT_TILES",)}
"""What products are made with, and what the compiler is told for it. "soft tiles" is the code for AMX with AVX512 in
place of its instructions: slow, for tests."""
HEADERS = Path(__file__).parent
SWITCH = "GRISTMILL_NATIVE"
"""The environment variable that switches this off where it is 0; one of `KINDS` there has only that one tried."""


def compiler() -> str | None:
    """The C++ compiler of this machine: $CXX, g++ or clang++."""
    named = os.environ.get("CXX")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, ("g++", "clang++"))), None)


@functools.cache
def problem() -> str | None:
    """Why nothing can be compiled for this machine, or None."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    if platform.system() != "Linux":
        return "it is for Linux"
    flags = _processor_flags()
    if "avx512_bf16" not in flags:
        return "the processor has no AVX512-BF16"
    return None if compiler() else "there is no C++ compiler (install g++)"


def kind() -> str | None:
    """Which of `KINDS` this machine runs: the fastest, or the one that is asked for, if it can."""
    tiles = "amx_bf16" in _processor_flags() and _tiles_allowed()
    asked = os.environ.get(SWITCH)
    if asked in KINDS:
        return asked if asked != "amx" or tiles else None
    return "amx" if tiles else "avx512"


def _tiles_allowed() -> bool:
    """Linux gives a process the tiles of AMX when it asks (arch_prctl, ARCH_REQ_XCOMP_PERM for XTILEDATA)."""
    try:
        return ctypes.CDLL(None).syscall(158, 0x1023, 18) == 0
    except (OSError, AttributeError):
        return False


@functools.cache
def library(source: Path) -> ctypes.CDLL | None:
    """The compiled `source` (a .cpp file), or None where that is not possible; compiles at the first call.

    A compiler that does not know AMX is none for a processor that has it: torch is faster there than code without it.
    """
    chosen = None if problem() else kind()
    return None if chosen is None else _built(source, (*FLAGS, *KINDS[chosen]))


def call(source: Path, name: str, *arguments: Any) -> None:
    """Call a function of the compiled `source`.

    Whole numbers become 64 bits, others doubles, None a null pointer, a tensor the address of its first number (null
    where it has none), a tuple of whole numbers an array of 64 bits, a list of tensors an array of addresses.
    """
    found = library(source)
    assert found is not None, "asked for without `library`"
    getattr(found, name)(*map(_argument, arguments))


def _argument(value: Any) -> Any:
    if isinstance(value, int):
        return ctypes.c_int64(value)
    if isinstance(value, float):
        return ctypes.c_double(value)
    if isinstance(value, tuple):
        return (ctypes.c_int64 * len(value))(*value)
    if isinstance(value, list):
        return (ctypes.c_void_p * len(value))(*(tensor.data_ptr() for tensor in value))
    return ctypes.c_void_p(value.data_ptr() if value is not None and value.numel() else 0)


def _built(source: Path, flags: Sequence[str]) -> ctypes.CDLL | None:
    command = compiler()
    assert command is not None
    asked = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    parts = [source.read_bytes(), *(path.read_bytes() for path in sorted(HEADERS.glob("*.h"))),
             " ".join((*flags, asked.stdout)).encode()]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]
    for place in (_lasting_folder, _passing_folder):
        folder = place()
        path = folder / f"{source.stem}-{digest}.so"
        try:
            if not path.exists():
                _compile([command, *flags], source, path)
            return ctypes.CDLL(str(path))
        except (OSError, RuntimeError):
            continue  # no home, not writable, or not allowed to hold programs: the next folder
        except subprocess.CalledProcessError:
            return None
    return None


def _compile(command: Sequence[str], source: Path, path: Path) -> None:
    """To a file of another name first, so that processes that compile at once never load half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, made = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        subprocess.run([*command, f"-I{HEADERS}", str(source), "-o", made], check=True, capture_output=True)
        os.replace(made, path)
    finally:
        Path(made).unlink(missing_ok=True)


def _lasting_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gristmill" / "native"


def _passing_folder() -> Path:
    """For this process alone."""
    return Path(tempfile.mkdtemp(prefix="gristmill-"))


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())
