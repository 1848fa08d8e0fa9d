"""Forward and backward of a micro-batch as one CUDA graph: a single launch, for models so small that launching their
kernels takes longer than running them.

The whole of it is recorded by `torch.cuda.graph` (blocks, head, backward, adding up gradients), not each block by the
compiler (`mode="reduce-overhead"`): that would leave the head, whose chunks are most of the launches of a small model,
and all that Python does around a block. What a graph reads and writes stays where it is: a batch is copied into fixed
tensors, gradients are added to fixed ones, and factors are tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gristmill.core.errors import MachineError, UserError
from gristmill.models.body import Body
from gristmill.models.decoder import Decoder
from gristmill.models.layers.moe import expert_layers
from gristmill.objectives import CausalLM
from gristmill.objectives.base import Batch, Objective
from gristmill.objectives.cross_entropy import IGNORED
from gristmill.objectives.known_targets import Known, knows
from gristmill.training.accumulate import Accumulation, add
from gristmill.training.activation_checkpointing import Checkpointing
from gristmill.training.device import Compute
from gristmill.training.micro_batch import Metrics, Sums
from gristmill.training.parallel.world import World

SHAPES = 4
"""Shapes of micro-batches that get a graph each; those that come later run as written."""
WATCHED = 2
"""The how-manieth micro-batch of a shape is watched for waits; the one before compiles, the next one is recorded."""
CHOICES = ("never", "auto", "always")
WAITED = "called a synchronizing CUDA operation"
"""How torch says that the host waited for the device."""

Work = Callable[[], None]


class Recorder(Protocol):
    """Turns work on a device into something that can be repeated."""

    def run(self, work: Work) -> None:
        """Do the work where it would be recorded."""

    def waits(self, work: Work) -> list[str]:
        """`run`, and where the host waited for the device meanwhile."""

    def record(self, work: Work) -> Work:
        """What repeats the work; nothing is done yet."""

    def finish(self) -> None:
        """Wait until everything is done."""


class Graphs:
    """torch's graphs. All share one pool of memory: they run one after another, and what they give is copied."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def run(self, work: Work) -> None:
        here = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            work()
        here.wait_stream(self.stream)

    def waits(self, work: Work) -> list[str]:
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                self.run(work)
            finally:
                torch.cuda.set_sync_debug_mode(before)
        return found_waits(said)

    def record(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        # The outer context puts the stream back where recording fails: torch's own leaves it then. Other threads (a
        # checkpoint that is being written) may go on with what is forbidden here.
        with torch.cuda.stream(torch.cuda.current_stream(self.stream.device)), torch.cuda.graph(
                graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            work()
        return graph.replay

    def finish(self) -> None:
        torch.cuda.synchronize(self.stream.device)


def found_waits(said: Sequence[warnings.WarningMessage]) -> list[str]:
    """Where the host waited, of what was warned about; other warnings are given again."""
    found = []
    for warning in said:
        if WAITED in str(warning.message):
            found.append(f"{warning.filename}:{warning.lineno}")
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return found


def no_memory(error: BaseException | None) -> torch.OutOfMemoryError | None:
    """The lack of memory behind an error: ending a recording that it broke off raises another one."""
    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return error


def problem(model: Body, objective: Objective, attached: nn.Module | None, world: World, compute: Compute, *,
            compiled: bool, checkpointing: Checkpointing) -> str | None:
    """Why micro-batches cannot be CUDA graphs here, or None. What only shows when they run: see `Graphed`."""
    if compute.device.type != "cuda":
        return f"CUDA graphs are for a GPU, and this trains on {compute.device.type}"
    if world.size > 1 or world.mesh is not None:
        return "processes that train together send messages in the middle of a micro-batch"
    if type(objective) is not CausalLM or attached is not None:
        return f"what {type(objective).__name__} computes hangs on the data; graphs are for the plain causal_lm"
    if not isinstance(model, Decoder):
        return f"graphs are for decoders, and this is a {type(model).__name__}"
    if expert_layers(model):
        return "which experts work hangs on the data"
    if model.rotary is not None and model.rotary.dynamic:
        return "dynamic rope scaling asks the device how long the text is"
    if checkpointing != "none" and not compiled:
        return ("activation checkpointing keeps the state of random numbers, which a graph may not read; compiled "
                "blocks do without")
    return None


def wanted(model: Body, objective: Objective, attached: nn.Module | None, world: World, compute: Compute, *,
           compiled: bool, checkpointing: Checkpointing) -> bool:
    """Whether micro-batches are to be graphs. Raises UserError where they are asked for (`always`) and cannot be."""
    choice = compute.runtime.cuda_graphs
    if choice not in CHOICES:
        raise UserError(f"cuda_graphs {choice!r} is unknown", fix=f"choose one of {', '.join(CHOICES)}")
    if choice == "never":
        return False
    why = problem(model, objective, attached, world, compute, compiled=compiled, checkpointing=checkpointing)
    if why is not None and choice == "always":
        raise UserError(why, where="cuda_graphs: always", fix="use --cuda-graphs auto or never")
    return why is None


def refuse_graphs_of_many_shapes(choice: str, where: str, *, batches_grow: bool, rows_grow: bool) -> None:
    """UserError where graphs are asked for (`always`) of a training whose micro-batches change their shape on the way.
    With `auto` the first few shapes get a graph."""
    growing = [name for name, grows in (("batch_warmup", batches_grow), ("curriculum.short_rows", rows_grow)) if grows]
    if choice == "always" and growing:
        raise UserError(f"micro-batches change their shape with {' and '.join(growing)}, and a graph has one",
                        where=f"{where}: cuda_graphs: always", fix=f"use --cuda-graphs auto, or leave out {growing[0]}")


@dataclass
class Shape:
    """A micro-batch of one shape: where its graph reads, and what it gives."""

    inputs: dict[str, Tensor]
    known: Known
    seen: int = 0
    sums: Sums = field(default_factory=dict)
    metrics: Metrics = field(default_factory=dict)
    repeat: Work | None = None


@dataclass
class Graphed(Accumulation):
    """Micro-batches in order, each shape recorded when it comes for the third time.

    A model that waits for the device, or whose graph cannot be recorded, goes on as written; where graphs are asked
    for (`strict`), that is a MachineError, or torch's OutOfMemoryError where fewer rows would do. Gradients are the
    same tensors in every update.
    """

    recorder: Recorder | None = None
    """Default torch's, made when it is needed."""
    strict: bool = False
    refused: str | None = None
    """Why there are no more graphs."""
    shapes: dict[Any, Shape] = field(default_factory=dict)
    gradients: dict[nn.Parameter, Tensor] = field(default_factory=dict)
    factors: dict[str, Tensor] = field(default_factory=dict)

    def run(self, window: Sequence[Batch], factors: Mapping[str, Tensor | float]) -> tuple[Sums, Metrics]:
        self._begin(factors)
        sums: Sums = {}
        metrics: Metrics = {}
        for at, batch in enumerate(window):
            found, measured = self._one(batch)
            add(sums, metrics, found, measured)
            if self.after is not None:
                self.after(at)
        return sums, metrics

    def forget(self) -> None:
        if self.recorder is not None:
            self.recorder.finish()
        self.shapes.clear()

    def _begin(self, factors: Mapping[str, Tensor | float]) -> None:
        """Put gradients and factors where graphs expect them."""
        fresh = []
        for parameter in self.module.parameters():
            if not parameter.requires_grad:
                continue
            fixed = self.gradients.get(parameter)
            if fixed is None:
                fixed = self.gradients[parameter] = torch.zeros_like(parameter)
            if parameter.grad is None:
                fresh.append(fixed)
            elif parameter.grad is not fixed:
                fixed.copy_(parameter.grad)
            parameter.grad = fixed
        if fresh:
            torch._foreach_zero_(fresh)
        for name, factor in factors.items():
            if name not in self.factors:
                self.factors[name] = torch.zeros((), device=self.compute.device)
            if isinstance(factor, Tensor):
                self.factors[name].copy_(factor)
            else:
                self.factors[name].fill_(factor)

    def _one(self, batch: Batch) -> tuple[Sums, Metrics]:
        shape = None if self.refused else self._shape(batch)
        if shape is None:
            there = self._moved(batch)
            return self._pass(there, Known.of(batch, there, self.compute.moved))
        shape.seen += 1

        def work() -> None:
            shape.sums, shape.metrics = self._pass(shape.inputs, shape.known)

        if shape.repeat is None and shape.seen > WATCHED:
            self._record(shape, work)
        if shape.repeat is not None:
            shape.repeat()
        elif shape.seen == WATCHED:
            waits = self._with().waits(work)
            if waits:
                self._refuse(f"the host waits for the device at {', '.join(sorted(set(waits))[:3])}")
        else:
            self._with().run(work)
        # Copied: the next micro-batch writes into the same tensors.
        return ({name: value.clone() for name, value in shape.sums.items()},
                {name: (value.clone(), unit) for name, (value, unit) in shape.metrics.items()})

    def _shape(self, batch: Batch) -> Shape | None:
        """The one of this batch, filled with it; None where there are too many already."""
        # Where some targets are ignored the graph is another one, which weighs them.
        weighed = bool((batch["targets"] == IGNORED).any())
        key = (weighed, *((name, tensor.shape, tensor.dtype) for name, tensor in sorted(batch.items())))
        shape = self.shapes.get(key)
        if shape is None:
            if len(self.shapes) == SHAPES:
                return None
            inputs = {name: torch.empty_like(tensor, device=self.compute.device) for name, tensor in batch.items()}
            shape = self.shapes[key] = Shape(inputs, Known(inputs["targets"], weighed=weighed))
        for name, tensor in batch.items():
            shape.inputs[name].copy_(self.compute.moved(tensor))
        return shape

    def _pass(self, batch: Batch, known: Known | None) -> tuple[Sums, Metrics]:
        """Forward and backward. Nothing of the graph of autograd is left: what gradients are added by would belong to
        another stream when the next one is recorded."""
        with knows(known), self.compute.autocast():
            found, measured = self.module(batch)
        loss = sum(self.factors[name] * value for name, value in found.items())
        loss.backward()  # type: ignore[union-attr]
        return {name: value.detach() for name, value in found.items()}, measured

    def _record(self, shape: Shape, work: Work) -> None:
        try:
            shape.repeat = self._with().record(work)
        except RuntimeError as error:
            full = no_memory(error)
            if self.strict and full is not None:
                raise full from None
            self._refuse(f"recording failed: {str(full or error).splitlines()[0]}", error)

    def _with(self) -> Recorder:
        if self.recorder is None:
            self.recorder = Graphs(self.compute.device)
        return self.recorder

    def _refuse(self, why: str, error: Exception | None = None) -> None:
        if self.strict:
            raise MachineError(why, where="cuda_graphs: always", fix="use --cuda-graphs auto or never") from error
        self.refused = why
        self.forget()
