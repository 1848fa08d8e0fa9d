"""Where and how precisely to compute: resolved once from the run-time choices, never part of identity."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gristmill.core.compiler import forbid_compiler
from gristmill.core.errors import MachineError, UserError
from gristmill.core.stage import Runtime
from gristmill.models.layers.float8 import float8_problem
from gristmill.training.deterministic import use_deterministic

LARGE_PAGE = 2 << 20
"""Bytes of the pages that Linux offers beside those of 4 kB on x86-64, and on ARM where those are 4 kB."""


@dataclass(frozen=True)
class Compute:
    """The resolved device and numerics of this process."""

    device: torch.device
    dtype: torch.dtype
    """Of matrix products inside `autocast`; weights and optimizer states stay fp32."""
    threads: int
    float8: bool = False
    """Whether the large linear layers of the blocks make their products in float8."""
    runtime: Runtime = Runtime()
    """What was asked for."""

    def autocast(self) -> contextlib.AbstractContextManager:
        """Matrix products in `dtype`, everything sensitive in fp32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def moved(self, tensor: Tensor) -> Tensor:
        """`tensor` on this device; a GPU is not waited for. Copies out of ordinary memory may wait until the device has
        done all it was given, hence the pinned one between, which torch keeps until it has been read. In one piece: a
        view with gaps would go through ordinary memory all the same."""
        if self.device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.contiguous().pin_memory()
        return tensor.to(self.device, non_blocking=True)


def bf16_pays(device: torch.device) -> bool:
    """Whether bf16 products are fast here: on CPUs only with AVX512-BF16 or AMX, elsewhere they are emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def prepare(runtime: Runtime) -> Compute:
    """Resolve `runtime` and set this process up for it (threads, matmul precision, allocator, compiler)."""
    wanted = runtime.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise MachineError("no CUDA device can be used here", where=f"device {wanted}", fix="use --device cpu")
    use_deterministic(runtime.deterministic)
    forbid_compiler(runtime.compile == "never")
    if wanted == "cuda" and "LOCAL_RANK" in os.environ:  # one GPU a process, as torchrun counts them on a node
        wanted = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
        torch.cuda.set_device(wanted)
    device = torch.device(wanted)
    threads = runtime.threads or int(os.environ.get("OMP_NUM_THREADS", 0)) or len(os.sched_getaffinity(0))
    if device.type == "cpu":
        torch.set_num_threads(threads)
        keep_freed_memory()
    # Half the memory and the matrix units of GPUs that know no bf16; a CPU without it is fastest in fp32.
    otherwise = torch.float16 if device.type == "cuda" else torch.float32
    choices = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "float8": torch.bfloat16,
               "auto": torch.bfloat16 if bf16_pays(device) else otherwise}
    if runtime.precision not in choices:
        raise UserError(f"precision {runtime.precision!r} is unknown", fix=f"choose one of {', '.join(choices)}")
    # "medium" sends fp32 products to oneDNN on CPUs, about twice as fast on AMD; without AMX it stays full fp32.
    torch.set_float32_matmul_precision("highest" if runtime.precision == "fp32" else "medium")
    float8 = runtime.precision == "float8"
    if float8 and (problem := float8_problem(device)):
        raise MachineError(problem, where="precision float8", fix="use --precision bf16")
    return Compute(device, choices[runtime.precision], threads, float8, runtime)


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed memory, and the kernel for large pages under it (docs/decisions.md, "allocator"): large
    temporaries otherwise go back to the kernel and are zeroed page by page at every use, and looking up where pages of
    4 kB lie takes longer than some products on them. False where it is not glibc, or the pages stay small."""
    trim_threshold, mmap_max = -1, -4
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(mmap_max, 0) and libc.mallopt(trim_threshold, -1)) and _use_large_pages(libc)
    except (OSError, AttributeError):
        return False


def _use_large_pages(libc: ctypes.CDLL) -> bool:
    """Have the heap hold addresses for half the machine's memory beyond what is used, marked for large pages. None of
    it is memory before it is written. Not where addresses are counted (a limit is set, or the kernel promises no more
    than it has) or glibc is told to write over what is freed (mallopt(3), M_PERTURB)."""
    import resource  # Unix alone has it

    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    strict = Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    filled = os.environ.get("MALLOC_PERTURB_") or "malloc.perturb" in os.environ.get("GLIBC_TUNABLES", "")
    if strict or filled or any(limit != resource.RLIM_INFINITY for limit in limits):
        return False
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 // LARGE_PAGE * LARGE_PAGE
    at = libc.malloc(size)
    if not at:
        return False
    first = -(-at // LARGE_PAGE) * LARGE_PAGE
    marked = libc.madvise(first, size - LARGE_PAGE, mmap.MADV_HUGEPAGE)
    libc.free(at)
    return marked == 0
