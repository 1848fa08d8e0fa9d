"""Compiling a model's blocks, from outside, where it pays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from gristmill.core.compiler import compiler_problem
from gristmill.core.errors import MachineError
from gristmill.core.stage import Runtime
from gristmill.models.body import Body
from gristmill.models.decoder import Decoder

BREAK_EVEN_SECONDS = 180.0
"""Training shorter than this is faster without: a cold compile of one block costs about 15 s and saves a twelfth to a
seventh of each step (docs/decisions.md, "Compile")."""


def should_compile(runtime: Runtime, expected_seconds: float) -> bool:
    """The rule: `always`, `never`, or (auto) where a compiler is there, when the run is long enough; with float8 on a
    GPU however long it is."""
    if runtime.compile == "never":
        return False
    problem = compiler_problem(gpu=on_gpu(runtime))
    if runtime.compile == "always":
        if problem:
            raise MachineError(f"compile: always was asked for, but {problem}", fix="install it, or use compile: auto")
        return True
    # As written, every scale and every rounding to float8 is a pass over memory of its own: slower than bf16.
    needed = runtime.precision == "float8" and on_gpu(runtime)
    return problem is None and (needed or expected_seconds > BREAK_EVEN_SECONDS)


def slow_float8(runtime: Runtime, compiles: bool = True) -> str | None:
    """For people, where blocks are not compiled: that float8 is then slower than bf16 on a GPU, and why it is so here;
    None without float8 or GPU. compiles: whether this kind of training ever does."""
    if runtime.precision != "float8" or not on_gpu(runtime):
        return None
    why = ("this stage compiles nothing" if not compiles else "--compile never was given" if runtime.compile == "never"
           else compiler_problem(gpu=True))
    return f"float8 is slower than bf16 where it is not compiled, and {why}: use --precision bf16"


def on_gpu(runtime: Runtime) -> bool:
    """Whether `device.prepare` takes a GPU."""
    return runtime.device.startswith("cuda") or (runtime.device == "auto" and torch.cuda.is_available())


def compile_blocks(model: Body) -> None:
    """torch.compile each block in place; equal blocks share one compiled graph. Names and state stay the same."""
    for block in model.all_blocks:
        block.compile(dynamic=False)


def compile_last_norm(model: Body) -> None:
    """The same for the norm after the blocks of a decoder: as written it is several passes over fp32 states."""
    if isinstance(model, Decoder):
        model.norm.compile(dynamic=False)


@contextlib.contextmanager
def compiler_told(where: str) -> Iterator[None]:
    """Inside, an error of torch's compiler is a MachineError that says how to train without it; other errors stay what
    they are."""
    try:
        yield
    except RuntimeError as error:
        from torch._dynamo.exc import BackendCompilerFailed  # dear to import, and there only when needed

        if not isinstance(error, BackendCompilerFailed):
            raise
        cause = error.inner_exception
        said = ": ".join([type(cause).__name__, *str(cause).splitlines()[:1]])
        raise MachineError(f"torch's compiler failed: {said}", where=where,
                           fix="go on with --compile never: slower steps, the same training") from error


@contextlib.contextmanager
def eager(*models: nn.Module) -> Iterator[None]:
    """A context in which compiled modules of these run as written: evaluation would otherwise compile new shapes.

    Kernels that are compiled by themselves stay so: flex attention as written would make all scores.
    """
    compiled = {module: module._compiled_call_impl for model in models for module in model.modules()
                if module._compiled_call_impl}
    for module in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call
