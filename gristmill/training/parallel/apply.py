"""A plain model and objective, spread over the processes of a world: the one place that says in which order.

Order: what cuts single layers comes first (tensor, expert, context), what wraps whole blocks after it (activation
checkpointing, compile), and what looks at finished modules last (FSDP2 or DDP). A pipeline cuts the model into stages
before all that.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from gristmill.models.body import Body
from gristmill.models.layers.float8 import float8_linears
from gristmill.objectives.base import Objective
from gristmill.training import cuda_graphs
from gristmill.training.accumulate import Accumulation, Everything, Part, Passes
from gristmill.training.activation_checkpointing import Checkpointing, checkpoint_activations
from gristmill.training.compile import compile_blocks, compile_last_norm
from gristmill.training.device import Compute
from gristmill.training.micro_batch import MicroBatch
from gristmill.training.parallel import data, weights
from gristmill.training.parallel.world import World


@dataclass(frozen=True)
class Settings:
    """What is done to the blocks, on one process as on many."""

    compile: bool = False
    float8: bool = False
    """Products of the blocks' linear layers in float8."""
    checkpointing: Checkpointing = "none"
    """Which activations are made anew in the backward pass."""


def parallelise(
    model: Body, objective: Objective, attached: nn.Module | None, world: World, compute: Compute,
    settings: Settings = Settings(),
) -> Passes:
    """Spread `model` (and what the objective brings, `attached`) over the processes of `world`, in place.

    Afterwards its parameters are what this process trains: plain tensors, or DTensors, by the same names as before.
    All processes call it together, with the same weights or, all but the first, with shapes on meta. Raises UserError
    where the model cannot be cut so.
    """
    layout = world.layout
    graphs = cuda_graphs.wanted(model, objective, attached, world, compute, compiled=settings.compile,
                                checkpointing=settings.checkpointing)
    if layout.pipeline > 1:
        from gristmill.training.parallel import pipeline

        return pipeline.split(model, objective, attached, world, compute, settings)
    module = MicroBatch(model, objective, attached)
    withheld = weights.withhold(module, world)
    part = cut(model, objective, attached, world)
    change_blocks(model, settings)
    if settings.compile and compute.device.type == "cuda" and layout.tensor == 1:
        compile_last_norm(model)
    if graphs:
        passes: Accumulation = cuda_graphs.Graphed(module, compute, strict=compute.runtime.cuda_graphs == "always")
    else:
        passes = Accumulation(module, compute, part=part)
    passes.knows_targets = compute.device.type == "cuda" and layout.tensor * layout.context == 1
    if data.shares_weights(world):
        passes.module, passes.together, passes.settle = data.shard(module, model, world, compute)
    if withheld is not None:
        weights.fill(module, withheld, world)
    if data.copies_weights(world):
        passes.module, passes.together, passes.settle = data.replicate(module, model, world)
    return passes


def cut(model: Body, objective: Objective, attached: nn.Module | None, world: World) -> Part:
    """The axes that act on single layers; returns what of a batch this process sees. A pipeline calls it for each of
    its stages."""
    layout = world.layout
    part: Part = Everything()
    if layout.tensor > 1:
        from gristmill.training.parallel import tensor

        tensor.split_matrices(model, objective, attached, world)
    if layout.expert > 1:
        from gristmill.training.parallel import expert

        expert.spread_experts(model, world)
    if layout.context > 1:
        from gristmill.training.parallel import context

        part = context.share_context(model, world, objective)
    return part


def change_blocks(model: Body, settings: Settings) -> None:
    """Float8, activation checkpointing and compile, block by block."""
    if settings.float8:
        float8_linears(model)
    if settings.checkpointing != "none":
        checkpoint_activations(model, settings.checkpointing, compiled=settings.compile)
    if settings.compile:
        compile_blocks(model)
