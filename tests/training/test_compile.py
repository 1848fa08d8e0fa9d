"""Whether compiling is worth it, and possible."""

from __future__ import annotations

import pytest
import torch

from gristmill.core.errors import MachineError
from gristmill.core.stage import Runtime
from gristmill.models import Decoder
from gristmill.objectives import CausalLM
from gristmill.training import device
from gristmill.training.compile import BREAK_EVEN_SECONDS, should_compile
from gristmill.training.device import Compute
from gristmill.training.parallel import World
from gristmill.training.parallel import weights as weights_of_others
from gristmill.training.parallel.apply import Settings, parallelise
from tests.training.test_loop import TINY

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


def test_float8_on_a_gpu_is_compiled_however_short_the_training(present):
    assert should_compile(Runtime(device="cuda", precision="float8"), 1.0)
    assert not should_compile(Runtime(device="cuda", precision="float8", compile="never"), 1.0)
    assert not should_compile(Runtime(device="cpu", precision="float8"), 1.0)
    present.remove("triton")
    assert not should_compile(Runtime(device="cuda", precision="float8"), 1.0)


def test_on_a_gpu_the_last_norm_is_compiled_with_the_blocks(monkeypatch):
    monkeypatch.setattr(weights_of_others, "withhold", lambda module, world: None)  # would ask a GPU

    def compiled(device, compile):
        model, compute = Decoder(TINY), Compute(torch.device(device), torch.bfloat16, 1)
        parallelise(model, CausalLM(), None, World.alone(device), compute, Settings(compile=compile))
        return [part._compiled_call_impl is not None for part in (model.blocks[0], model.norm)]

    assert compiled("cuda", True) == [True, True]
    assert compiled("cuda", False) == [False, False]
    assert compiled("cpu", True) == [True, False]
