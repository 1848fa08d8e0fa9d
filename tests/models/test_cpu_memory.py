"""The C++ on CPUs writes and reads only what is its own: its tests once more, compiled with AddressSanitizer
(Serebryany et al. 2012, "AddressSanitizer: A Fast Address Sanity Checker"). What it does not follow has another form
here: masked loads and stores and those past the caches in watched.h, tiles of AMX as "soft tiles" among the kinds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gristmill.core import native
from gristmill.models.layers import cpu_attention, cpu_linear, cpu_norm
from gristmill.objectives import cpu_head

ROOT = Path(__file__).parents[2]
FORMS = Path(__file__).with_name("watched.h")
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
case "$*" in *avx512bf16*) set -- "$@" -fsanitize=address -g -include {forms} ;; esac
exec {compiler} "$@"
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
    script.write_text(COMPILER.format(compiler=compiler, forms=FORMS))
    script.chmod(0o755)
    options = "detect_leaks=0:detect_odr_violation=0:allocator_may_return_null=1"
    return os.environ | {"CXX": str(script), "XDG_CACHE_HOME": str(folder / "cache"), "ASAN_OPTIONS": options,
                         "LD_PRELOAD": ":".join(os.path.realpath(path) for path in libraries), "OMP_NUM_THREADS": "2"}


@pytest.mark.parametrize("access", [
    "numbers[16] = 1", "_mm512_storeu_ps(numbers + 1, one)", "_mm512_stream_ps(numbers + 16, one)",
    "_mm512_stream_si512((__m512i*)(numbers + 16), _mm512_setzero_si512())",
    "_mm512_mask_storeu_ps(numbers + 1, 0xffff, one)", "_mm512_mask_storeu_epi32(numbers + 1, 0xffff, __m512i(one))",
    "_mm256_mask_storeu_epi16(numbers + 9, 0xffff, __m256i())",
    "numbers[0] = _mm512_reduce_add_ps(_mm512_maskz_loadu_ps(0xffff, numbers + 1))",
    "numbers[0] = _mm512_reduce_add_epi32(_mm512_maskz_loadu_epi32(0xffff, numbers + 1))",
    "_mm256_storeu_si256((__m256i*)numbers, _mm256_maskz_loadu_epi16(0xffff, numbers + 9))"])
def test_one_number_too_many_is_seen(watched: dict[str, str], tmp_path: Path, access: str) -> None:
    """That what the other test asks can be answered with no, for each way in which kernels use memory."""
    source = tmp_path / "beyond.cpp"
    source.write_text('#include <immintrin.h>\nextern "C" void one_too_many(float* numbers) {\n'
                      f"    const __m512 one = _mm512_set1_ps(1);\n    {access};\n    numbers[1] = one[0];\n}}\n")
    ended = subprocess.run([sys.executable, "-c", BEYOND, str(source)], capture_output=True, text=True, env=watched,
                           cwd=ROOT, check=False)
    assert ended.returncode != 0
    assert "AddressSanitizer" in ended.stderr
    assert "one_too_many" in ended.stderr


def test_every_access_that_is_not_followed_has_another_form() -> None:
    sources = [*native.HEADERS.glob("*.h"), cpu_linear.SOURCE, cpu_attention.SOURCE, cpu_norm.SOURCE, cpu_head.SOURCE]
    used = {name for path in sources for name in re.findall(
        r"_mm\d*_(?:mask_\w*store\w*|maskz?_\w*load\w*|stream_\w+|\w*gather\w*|\w*scatter\w*|mask\w*_compressstore\w*)\(",
        path.read_text())}
    assert len(used) >= 8
    assert used <= set(re.findall(r"#define (\w+\()", FORMS.read_text()))


def test_no_kernel_writes_or_reads_what_is_not_its_own(watched: dict[str, str]) -> None:
    ended = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not verify", *TESTS],
                           capture_output=True, text=True, env=watched, cwd=ROOT, check=False)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-6000:]
    kernels = {path.name.split("-")[0] for path in (Path(watched["XDG_CACHE_HOME"]) / "gristmill" / "native").iterdir()}
    assert kernels >= {"cpu_attention", "cpu_head", "cpu_linear", "cpu_norm"}
