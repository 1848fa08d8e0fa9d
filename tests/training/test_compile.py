"""Whether compiling is worth it, and possible."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gristmill.core import compiler
from gristmill.core.errors import MachineError
from gristmill.core.files import read_json
from gristmill.core.progress import Silent
from gristmill.core.stage import Runtime, StageContext
from gristmill.models import Decoder
from gristmill.models.layers import flex
from gristmill.models.layers.masks import CAUSAL
from gristmill.objectives import CausalLM, gpu_head
from gristmill.tokens import Positions
from gristmill.training import compile as compiler_of_training
from gristmill.training import pretrain
from gristmill.training.compile import BREAK_EVEN_SECONDS, should_compile, slow_float8
from gristmill.training.device import Compute, prepare
from gristmill.training.loop import Trainer
from gristmill.training.parallel import Layout, World, apply
from gristmill.training.parallel import weights as weights_of_others
from gristmill.training.parallel.apply import Settings, parallelise
from tests.training.test_loop import TINY, trainer
from tests.training.test_pretrain import inputs, recipe

__all__ = ["inputs"]

LONG = BREAK_EVEN_SECONDS + 1


@pytest.fixture
def present(monkeypatch, tmp_path):
    """Everything that compiling needs, each of which may be taken away."""
    (tmp_path / "Python.h").touch()
    tools = {"g++", "gcc", "triton"}
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(compiler.shutil, "which", lambda name: name if name in tools else None)
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: name if name in tools else None)
    monkeypatch.setattr(compiler.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
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
    assert slow_float8(Runtime(device="cpu", precision="float8")) is None
    assert slow_float8(Runtime(device="cuda", precision="bf16", compile="never")) is None
    assert "--compile never" in slow_float8(Runtime(device="cuda", precision="float8", compile="never"))
    assert "this stage" in slow_float8(Runtime(device="cuda", precision="float8"), compiles=False)
    present.remove("triton")
    assert not should_compile(Runtime(device="cuda", precision="float8"), 1.0)
    assert "Triton" in slow_float8(Runtime(device="cuda", precision="float8"))


def test_a_pretraining_says_that_its_float8_is_slow(inputs, tmp_path, monkeypatch):
    """As on a GPU without a compiler."""
    said = []
    progress = Silent()
    monkeypatch.setattr(progress, "say", said.append)
    monkeypatch.setattr(compiler_of_training, "on_gpu", lambda runtime: True)
    monkeypatch.setattr(compiler_of_training, "compiler_problem", lambda gpu: "no C compiler (install gcc)")
    work = tmp_path / "work"
    work.mkdir()
    recipe().run(StageContext(
        name="r/base@1", seed=5, work=work, cache=tmp_path / "cache", inputs=inputs, progress=progress,
        runtime=Runtime(device="cpu", threads=1, precision="float8")))
    assert [line for line in said if "slower than bf16" in line and "install gcc" in line]


def test_on_a_gpu_the_last_norm_is_compiled_with_the_blocks(monkeypatch):
    monkeypatch.setattr(weights_of_others, "withhold", lambda module, world: None)  # would ask a GPU

    def compiled(device, compile):
        model, compute = Decoder(TINY), Compute(torch.device(device), torch.bfloat16, 1)
        parallelise(model, CausalLM(), None, World.alone(device), compute, Settings(compile=compile))
        return [part._compiled_call_impl is not None for part in (model.blocks[0], model.norm)]

    assert compiled("cuda", True) == [True, True]
    assert compiled("cuda", False) == [False, False]
    assert compiled("cpu", True) == [True, False]


def test_a_resumed_run_obeys_and_keeps_its_choice_only_where_nothing_is_said(inputs, tmp_path, monkeypatch):
    """What compute.json says is what the last process did."""
    compiled, advance = [], Trainer.advance

    def run(compile: str, until: int | None) -> bool:
        def stops(self, window, *times):
            if self.step == until:
                raise KeyboardInterrupt
            return advance(self, window, *times)

        monkeypatch.setattr(Trainer, "advance", stops)
        compiled.clear()
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        context = StageContext(name="r/base@1", seed=5, work=work, cache=tmp_path / "cache", inputs=inputs,
                               runtime=Runtime(device="cpu", threads=1, compile=compile, precision="fp32"))
        if until is None:
            recipe().run(context)
        else:
            with pytest.raises(KeyboardInterrupt):
                recipe().run(context)
        assert read_json(work / "telemetry" / "compute.json")["compile"] == bool(compiled)
        return bool(compiled)

    monkeypatch.setattr(pretrain, "should_compile", lambda runtime, seconds: runtime.compile == "always")
    monkeypatch.setattr(apply, "compile_blocks", compiled.append)
    assert run("always", 2)
    assert run("auto", 3)
    assert not run("never", 4)
    assert not run("auto", 5)
    assert run("always", 6)
    assert not run("never", None)


def test_auto_leaves_blocks_as_they_are_for_zero_bubble_and_else_all_do_as_the_first_process(monkeypatch):
    def chosen(choice: str, schedule: str, first: bool) -> bool:
        context: Any = SimpleNamespace(runtime=Runtime(compile=choice), progress=Silent())
        world: Any = SimpleNamespace(layout=Layout(pipeline=2, schedule=schedule), tell=lambda own: first)
        return recipe()._compiles(context, None, Decoder(TINY), Positions(4, 16), 16, 0.0, None, world)

    monkeypatch.setattr(pretrain, "should_compile", lambda runtime, seconds: True)
    assert not chosen("auto", "zero_bubble", True)
    assert chosen("always", "zero_bubble", True)  # refused where the model is cut
    assert chosen("auto", "interleaved", True)
    assert not chosen("auto", "interleaved", False)


class OnGPU:
    """A tensor of a GPU, as far as it is looked at."""

    device = torch.device("cuda")

    def __init__(self, *shape):
        self.shape = shape

    def __len__(self):
        return self.shape[0]


@pytest.mark.parametrize(("choice", "compiled"), [("never", False), ("auto", True), ("always", True)])
def test_never_holds_for_the_kernels_of_a_gpu_too(choice, compiled, monkeypatch):
    monkeypatch.setattr(gpu_head, "Tensor", OnGPU)
    monkeypatch.setattr(gpu_head, "_problem", lambda: None)
    monkeypatch.setattr(flex, "HAS_COMPILER", True)
    try:
        prepare(Runtime(device="cpu", threads=torch.get_num_threads(), compile=choice))
        assert gpu_head.takes(OnGPU(8192, 64), OnGPU(50_304, 64)) == compiled
        assert flex.pays_flex(OnGPU(1, 1, 4096, 64), 4096, CAUSAL, documents=True) == compiled
    finally:
        prepare(Runtime(device="cpu", threads=torch.get_num_threads()))


def test_an_error_of_the_compiler_says_how_to_train_without_it(tmp_path, monkeypatch):
    def compile_blocks(model):
        for block in model.all_blocks:
            block.compile(backend=broken)

    def broken(graph, example):
        raise ValueError("no such instruction")

    monkeypatch.setattr(apply, "compile_blocks", compile_blocks)
    made = trainer(tmp_path)
    made.settings = Settings(compile=True)
    made.__post_init__()
    with pytest.raises(MachineError, match=r"compiler failed(?s:.*)no such instruction(?s:.*)--compile never"):
        made.update(made.source.window(0))
    torch.compiler.reset()
