"""A layout for a training, from the planner's memory model, and why that one.

The rule: of the layouts that fit, and that the training can be cut into, the one whose processes talk least. Whole
copies exchange gradients once an update; shards gather weights for every pass; matrices cut over a computer's devices
exchange activations in every layer; stages of a pipeline wait for each other; shares of a row exchange keys and values.
So they are tried in this order, tensor parallelism only within a computer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from gristmill.core.errors import UserError
from gristmill.models.loading import skeleton
from gristmill.objectives.base import Objective
from gristmill.objectives.causal_lm import CausalLM
from gristmill.objectives.r_drop import RDrop
from gristmill.planning.memory import USABLE, Batch, Memory
from gristmill.tokens.positions import check_shares
from gristmill.training.activation_checkpointing import Checkpointing
from gristmill.training.config import TrainingConfig
from gristmill.training.fit_memory import container_limits, expected, to_planned
from gristmill.training.noise_scale import check_whole_gradients
from gristmill.training.optimizers.adamw8bit import WHOLE
from gristmill.training.optimizers.blockwise import BLOCK
from gristmill.training.optimizers.sharded import check_blocks
from gristmill.training.parallel.layout import Layout

WHY = {
    "replicate": "whole copies talk least: gradients, once an update",
    "shard": "shares of weights, gradients and optimizer states",
    "tensor": "matrices are cut over the devices of a computer",
    "pipeline": "blocks are dealt to stages",
    "context": "the tokens of every row are shared out",
}
"""Kind of layout -> what it is, the one that talks least first."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is to be trained, as far as memory and the ways to cut it hang on it."""

    config: Any
    rows: int
    """Of an update."""
    context: int
    micro_batch: int = 1
    """Rows that go through a replica at once, at most."""
    optimizer: str = "adamw"
    """As the planner calls it."""
    average: bool = False
    precision: str = "bf16"
    checkpointing: Checkpointing = "none"
    objective: Objective = field(default_factory=CausalLM)
    fewest_rows: int | None = None
    """Of the smallest update; default as all."""
    shortest: int | None = None
    """Tokens of the shortest rows; default as all."""
    noise_scale: bool = False
    """Whether gradients of single processes are compared."""
    scores_whole: bool = False
    """Whether whole models are scored on the way, which no process of a pipeline has."""

    @classmethod
    def of(cls, config: Any, training: TrainingConfig, *, rows: int, context: int,
           micro_batch: int | Literal["auto"] | None, objective: Objective, **more: Any) -> Workload:
        """As a stage trains. config: of the model. micro_batch: None for all rows at once; auto, which is settled when
        the layout is, counts as one."""
        return cls(config=config, rows=rows, context=context,
                   micro_batch=1 if micro_batch == "auto" else micro_batch or rows,
                   optimizer=training.optimizer.planned, average=bool(training.ema),
                   checkpointing=training.activation_checkpointing, noise_scale=training.noise_scale,
                   objective=RDrop(objective, training.r_drop) if training.r_drop else objective, **more)


@dataclass(frozen=True)
class Proposal:
    """A layout and its reasons."""

    layout: Layout
    memory: Memory
    why: str

    def line(self) -> str:
        """For a person."""
        available = f" of {self.memory.available / 1e9:.1f}" if self.memory.available else ""
        return (f"parallel: {self.layout.describe()}, {self.memory.total / 1e9:.2f}{available} GB on the fullest "
                f"process; {self.why}")


def propose(work: Workload, processes: int, *, per_host: int, available: float, device: str = "cuda") -> Proposal:
    """The layout of `processes` that fits with least talk. per_host: processes of one computer; available: bytes for
    each. Raises UserError that names the closest one where none fits, and why others are impossible."""
    refused: dict[str, tuple[Layout, str]] = {}
    tried: dict[str, Proposal] = {}
    for layout, kind in layouts(processes, per_host):
        try:
            check(work, layout)
        except UserError as error:
            refused.setdefault(kind, (layout, error.what))
            continue
        found = Proposal(layout, predicted(work, layout, available=available, device=device), WHY[kind])
        if found.memory.fits:
            return Proposal(layout, found.memory, WHY[kind] + _because(refused, tried, kind))
        if kind not in tried or found.memory.total < tried[kind].memory.total:
            tried[kind] = found
    if not tried:
        raise UserError(f"no layout of {processes} processes can train this{_because(refused, tried)}",
                        where="parallel", fix="raise batch, or use fewer processes")
    closest = min(tried.values(), key=lambda one: one.memory.total)
    raise UserError(
        f"no layout of {processes} processes fits: {closest.layout.describe()} would need "
        f"{closest.memory.total / 1e9:.1f} GB of {USABLE * available / 1e9:.1f} that can be used", where="parallel",
        fix="use more processes, a smaller micro_batch, activation checkpointing, or another optimizer")


def _because(refused: dict[str, tuple[Layout, str]], tried: dict[str, Proposal], kind: str | None = None) -> str:
    """What stood against the kinds before this one (default all): of each the closest layout that was too large, else
    the first that is impossible."""
    against: dict[str, list[str]] = {}
    for other in WHY:
        if other == kind:
            break
        if other in tried:
            layout, what = tried[other].layout, f"{tried[other].memory.total / 1e9:.2f} GB"
        elif other in refused:
            layout, what = refused[other]
        else:
            continue
        against.setdefault(what, []).append(layout.describe())
    return "".join(f"; {' and '.join(names)}: {what}" for what, names in against.items())


def layouts(processes: int, per_host: int) -> Iterator[tuple[Layout, str]]:
    """Every layout worth a try, least talk first, with its kind."""
    sizes = [size for size in range(1, processes + 1) if processes % size == 0]
    inside = [size for size in sizes if min(per_host, processes) % size == 0]
    yield Layout(replicate=processes), "replicate"
    if 1 < per_host < processes and processes % per_host == 0:
        yield Layout(replicate=processes // per_host, shard=per_host), "shard"
    yield Layout(shard=processes), "shard"
    for tensor in inside[1:]:
        yield Layout(shard=processes // tensor, tensor=tensor), "tensor"
    for pipeline in sizes[1:]:
        for tensor in inside:
            if pipeline <= 16 and processes % (tensor * pipeline) == 0:
                yield Layout(pipeline=pipeline, shard=processes // (tensor * pipeline), tensor=tensor), "pipeline"
    for context in sizes[1:]:
        yield Layout(shard=processes // context, context=context), "context"


def check(work: Workload, layout: Layout) -> None:
    """Raise UserError where a training of `work` on `layout` would."""
    from gristmill.training.parallel import pipeline, tensor
    from gristmill.training.parallel.context import check_context
    from gristmill.training.parallel.stages import Scored

    fewest = work.fewest_rows or work.rows
    check_shares(fewest, layout.replicate * layout.shard)
    if work.noise_scale:
        check_whole_gradients(layout)
    if layout.tensor > 1:
        tensor.check(work.config, work.objective, layout)
        if layout.sequence and layout.pipeline > 1:
            tensor.check_rows(work.shortest or work.context, layout.tensor)
    if layout.pipeline > 1:
        if work.scores_whole:
            raise UserError("whole models are scored on the way, and no process of a pipeline has one",
                            where=f"parallel: {layout.describe()}", fix="use other axes than pipeline")
        pipeline.check(work.config, layout)
        Scored(work.objective)
        layout.check_micro_batches(-(-_share(fewest, layout) // work.micro_batch))
    if layout.context > 1:
        check_context(work.config, work.objective, layout.context_method)
    if work.optimizer == "adamw8bit":
        _check_eight_bits(work.config, layout)


def _check_eight_bits(config: Any, layout: Layout) -> None:
    """UserError where the states of `AdamW8bit` would be cut within blocks; tensor cuts columns of outward matrices."""
    processes = layout.shard * layout.context * layout.tensor
    for name, parameter in skeleton(config).named_parameters() if processes > 1 else ():
        if parameter.numel() >= WHOLE:
            check_blocks("adamw8bit", name, parameter.shape, processes, BLOCK,
                         rows=layout.tensor == 1 or parameter.ndim == 1)


def _share(rows: int, layout: Layout) -> int:
    """Of an update's rows those that one replica reads, at most."""
    return -(-rows // (layout.replicate * layout.shard))


def predicted(work: Workload, layout: Layout, *, available: float | None = None, device: str = "cuda") -> Memory:
    """Memory of the fullest process."""
    batch = Batch(context=work.context, rows=work.rows, micro_batch=min(work.micro_batch, _share(work.rows, layout)))
    return expected(work.config, batch, to_planned(layout), work.optimizer, work.precision, work.checkpointing,
                    work.average, device, available)


def memory_of_a_process(device: torch.device, per_host: int) -> float:
    """Bytes that this process may take, the same for all of a computer at any time: its memory, or less where a
    container has a limit."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    physical = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min([physical, *(limit for limit, _ in container_limits())]) / per_host
