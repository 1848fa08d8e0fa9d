"""What is compiled once, and every reason for which it is not."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import pytest

from gristmill.core import native

FLAGS = ("-shared", "-fPIC")
SOURCE = 'extern "C" int answer() { return 41 + 1; }\n'
needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache, and nothing remembered from before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "answer.cpp"
    source.write_text(SOURCE)
    for remembered in (native.problem, native.library):
        remembered.cache_clear()
    yield source
    for remembered in (native.problem, native.library):
        remembered.cache_clear()


@needs_compiler
def test_compiled_once_and_again_only_when_the_source_changes(fresh, tmp_path, monkeypatch):
    found = native._built(fresh, FLAGS)
    assert isinstance(found, ctypes.CDLL)
    assert found.answer() == 42
    kept = list((tmp_path / "cache").rglob("*.so"))
    assert len(kept) == 1
    assert not list((tmp_path / "cache").rglob("*.part"))

    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("compiled again"))
    assert native._built(fresh, FLAGS).answer() == 42
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fresh.write_text(SOURCE.replace("41", "42"))
    assert native._built(fresh, FLAGS).answer() == 43
    assert len(list((tmp_path / "cache").rglob("*.so"))) == 2


@needs_compiler
def test_a_cache_that_cannot_be_written_is_replaced_for_this_process(fresh, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert native._built(fresh, FLAGS).answer() == 42


@needs_compiler
def test_code_that_does_not_compile_is_none(fresh, tmp_path):
    fresh.write_text("no C++ at all")
    assert native._built(fresh, FLAGS) is None
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_every_reason_is_told(fresh, monkeypatch):
    def reason(flags="avx512f avx512_bf16"):
        native.problem.cache_clear()
        monkeypatch.setattr(native, "_processor_flags", lambda: set(flags.split()))
        return native.problem()

    monkeypatch.setattr(native, "compiler", lambda: "/usr/bin/g++")
    assert reason() is None
    assert "no AVX512-BF16" in reason("avx512f")
    monkeypatch.setattr(native, "compiler", lambda: None)
    assert "install g++" in reason()
    assert native.library(fresh) is None
    monkeypatch.setattr(native.platform, "system", lambda: "Darwin")
    assert "Linux" in reason()
    monkeypatch.setenv(native.SWITCH, "0")
    assert reason() == "GRISTMILL_NATIVE is 0"


def test_tiles_are_used_where_the_processor_has_them_and_the_system_gives_them(monkeypatch):
    flags = {"avx512_bf16", "amx_bf16"}
    monkeypatch.setattr(native, "_processor_flags", lambda: flags)
    monkeypatch.delenv(native.SWITCH, raising=False)
    monkeypatch.setattr(native, "_tiles_allowed", lambda: True)
    assert native.kind() == "amx"
    for asked in native.KINDS:
        monkeypatch.setenv(native.SWITCH, asked)
        assert native.kind() == asked
    monkeypatch.setattr(native, "_tiles_allowed", lambda: False)
    monkeypatch.setenv(native.SWITCH, "amx")
    assert native.kind() is None
    monkeypatch.delenv(native.SWITCH)
    assert native.kind() == "avx512"
    flags.remove("amx_bf16")
    monkeypatch.setattr(native, "_tiles_allowed", lambda: pytest.fail("asked for what is not there"))
    assert native.kind() == "avx512"


@needs_compiler
def test_a_compiler_that_does_not_know_tiles_is_none_for_a_processor_that_has_them(fresh, monkeypatch):
    monkeypatch.setattr(native, "_processor_flags", lambda: {"avx512_bf16"})
    monkeypatch.setattr(native, "FLAGS", FLAGS)
    monkeypatch.setattr(native, "KINDS", {"amx": ("--no-such-flag",), "avx512": ()})
    assert native.library(fresh).answer() == 42
    monkeypatch.setattr(native, "kind", lambda: "amx")
    native.library.cache_clear()
    assert native.library(fresh) is None


def test_the_compiler_is_the_one_that_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name in ("clang++", "mine") else None)
    monkeypatch.delenv("CXX", raising=False)
    assert native.compiler() == "/bin/clang++"
    monkeypatch.setenv("CXX", "mine")
    assert native.compiler() == "/bin/mine"
    monkeypatch.setenv("CXX", "absent")
    assert native.compiler() is None


@needs_compiler
def test_a_failing_compiler_leaves_nothing(fresh, monkeypatch, tmp_path):
    def fails(command, **options):
        if "--version" in command:
            return subprocess.CompletedProcess(command, 0, stdout="1", stderr="")
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(native.subprocess, "run", fails)
    assert native._built(fresh, FLAGS) is None
    assert not list((tmp_path / "cache").rglob("*.*"))
