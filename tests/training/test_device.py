"""What `prepare` sets up in this process: seen from a process of its own, as it lasts."""

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gristmill.training.device import Compute

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

ANEW = 8 * 4 * 2**26 // 4096
"""Pages of eight times four tensors."""
TRAIN = """
import os, sys, torch
from gristmill.core.stage import Runtime
from gristmill.training.device import keep_freed_memory, prepare
torch.ones(8)
prepare(Runtime(device="cpu"))
marked = keep_freed_memory()
held = [torch.ones(2**24) for _ in range(4)]
large = sum(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages"))
faults = __import__("resource").getrusage(0).ru_minflt
for _ in range(8):
    del held
    held = [torch.ones(2**24) for _ in range(4)]
faults = __import__("resource").getrusage(0).ru_minflt - faults
if child := os.fork():
    forked = os.waitpid(child, 0)[1] == 0
else:
    os._exit(0)
print(marked, large, faults, forked)
"""


def trained(prepare: Callable[[], None] | None = None, **environment: str) -> tuple[bool, int, int, bool]:
    """Whether the heap is marked, kB of large pages, pages asked of the kernel again, whether it could fork."""
    ended = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, check=True,
                           preexec_fn=prepare, env=os.environ | environment)
    marked, large, faults, forked = ended.stdout.split()
    return marked == "True", int(large), int(faults), forked == "True"


glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")


@glibc
def test_freed_memory_is_kept():
    _, _, faults, forked = trained()
    assert faults < ANEW / 2
    assert forked


@glibc
@pytest.mark.skipif(not LARGE_PAGES.exists() or "[never]" in LARGE_PAGES.read_text(),
                    reason="this kernel gives no large pages")
def test_memory_lies_in_large_pages():
    marked, large, _, _ = trained()
    assert marked
    assert large > 128 * 1024  # of 256 MB


@glibc
def test_a_limit_on_addresses_is_not_spent_on_reserves():
    limit = 16 * 2**30
    marked, _, faults, _ = trained(lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert not marked
    assert faults < ANEW / 2


@glibc
@pytest.mark.parametrize("environment", [{"MALLOC_PERTURB_": "165"}, {"GLIBC_TUNABLES": "glibc.malloc.perturb=165"}])
def test_reserves_are_not_written_over(environment):
    assert not trained(**environment)[0]


def test_what_a_gpu_is_sent_lies_in_one_piece(monkeypatch):
    """torch pins a view with gaps as it is, and then copies it by way of ordinary memory."""
    pinned = []

    def pin_memory(tensor):
        pinned.append(tensor.is_contiguous())
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, non_blocking: tensor)
    ids = torch.arange(10).view(2, 5)
    found = Compute(torch.device("cuda"), torch.bfloat16, 1).moved(ids[:, :-1])
    assert pinned == [True]
    assert torch.equal(found, ids[:, :-1])
