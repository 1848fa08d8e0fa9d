"""Whether compiling is worth it, and possible."""

from __future__ import annotations

import pytest

from gristmill.core.errors import MachineError
from gristmill.core.stage import Runtime
from gristmill.training import device
from gristmill.training.compile import BREAK_EVEN_SECONDS, should_compile

LONG = BREAK_EVEN_SECONDS + 1


@pytest.fixture
def present(monkeypatch, tmp_path):
    """Everything that compiling needs, each of which may be taken away."""
    (tmp_path / "Python.h").touch()
    tools = {"g++", "gcc", "triton"}
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(device.shutil, "which", lambda name: name if name in tools else None)
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: name if name in tools else None)
    monkeypatch.setattr(device.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    return tools


@pytest.mark.parametrize(("where", "needs", "not_needed", "told"), [
    ("cpu", "g++", "gcc", "no C\\+\\+ compiler"), ("cuda", "gcc", "g++", "no C compiler"),
    ("cuda", "triton", "g++", "Triton")])
def test_what_is_missing_is_told_where_compiling_is_asked_for(present, where, needs, not_needed, told):
    present.remove(not_needed)
    assert should_compile(Runtime(device=where), LONG)
    assert not should_compile(Runtime(device=where), LONG - 2)
    present.remove(needs)
    assert not should_compile(Runtime(device=where), LONG)
    assert not should_compile(Runtime(device=where, compile="never"), LONG)
    with pytest.raises(MachineError, match=told):
        should_compile(Runtime(device=where, compile="always"), 0)
