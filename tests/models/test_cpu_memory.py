"""The C++ on CPUs writes and reads only what is its own: its tests once more, compiled with AddressSanitizer
(Serebryany et al. 2012, "AddressSanitizer: A Fast Address Sanity Checker"). "soft tiles" among the kinds stands for
AMX, whose instructions are not watched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gristmill.models.layers import cpu_linear

ROOT = Path(__file__).parents[2]
TESTS = ["tests/models/test_cpu_attention.py", "tests/models/test_cpu_kinds.py", "tests/models/test_cpu_linear.py",
         "tests/models/test_cpu_norm.py", "tests/objectives/test_cross_entropy.py"]
BEYOND = """
import sys, torch
from pathlib import Path
from gristmill.core import native
native.call(Path(sys.argv[1]), "one_too_many", torch.zeros(16))
"""
COMPILER = """#!/bin/sh
unset LD_PRELOAD
case "$*" in *avx512bf16*) exec {compiler} "$@" -fsanitize=address -g ;; *) exec {compiler} "$@" ;; esac
"""

pytestmark = [pytest.mark.verify, pytest.mark.skipif(not cpu_linear.ready(), reason="this machine cannot run it")]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the C++ is compiled for AddressSanitizer, and that is there when it is loaded."""
    folder = tmp_path_factory.mktemp("watched")
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    libraries = [subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
                 .stdout.strip() for name in ("libasan.so", "libstdc++.so")]
    if not all(os.path.isabs(path) for path in libraries):
        pytest.skip("g++ has no AddressSanitizer")
    script = folder / "g++"
    script.write_text(COMPILER.format(compiler=compiler))
    script.chmod(0o755)
    options = "detect_leaks=0:detect_odr_violation=0:allocator_may_return_null=1"
    return os.environ | {"CXX": str(script), "XDG_CACHE_HOME": str(folder / "cache"), "ASAN_OPTIONS": options,
                         "LD_PRELOAD": ":".join(os.path.realpath(path) for path in libraries), "OMP_NUM_THREADS": "2"}


def test_a_number_written_behind_the_end_is_seen(watched: dict[str, str], tmp_path: Path) -> None:
    """That what the other test asks can be answered with no."""
    source = tmp_path / "beyond.cpp"
    source.write_text('extern "C" void one_too_many(float* numbers) { numbers[16] = 1; }\n')
    ended = subprocess.run([sys.executable, "-c", BEYOND, str(source)], capture_output=True, text=True, env=watched,
                           cwd=ROOT, check=False)
    assert ended.returncode != 0
    assert "heap-buffer-overflow" in ended.stderr
    assert "one_too_many" in ended.stderr


def test_no_kernel_writes_or_reads_what_is_not_its_own(watched: dict[str, str]) -> None:
    ended = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not verify", *TESTS],
                           capture_output=True, text=True, env=watched, cwd=ROOT, check=False)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-6000:]
    kernels = {path.name.split("-")[0] for path in (Path(watched["XDG_CACHE_HOME"]) / "gristmill" / "native").iterdir()}
    assert kernels >= {"cpu_attention", "cpu_head", "cpu_linear", "cpu_norm"}
