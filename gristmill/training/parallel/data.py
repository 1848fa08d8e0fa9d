"""Processes that read other rows: whole copies of the model (DDP), or shares of its weights (FSDP2, HSDP).

What is minimised is a sum over all processes, already divided by counts of the whole update, so gradients are added,
never averaged: unequal numbers of tokens need no further care.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel

from gristmill.models.body import Body
from gristmill.models.decoder import Attention, Decoder
from gristmill.models.layers.experts import Experts
from gristmill.models.layers.moe import expert_layers
from gristmill.training.device import Compute
from gristmill.training.micro_batch import MicroBatch
from gristmill.training.parallel.expert import shard_experts
from gristmill.training.parallel.world import World

NO_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers": False}
"""As torch 2.13 calls it, and as earlier versions do."""
KEPT_SHARE = 0.25
"""Share of a device's memory that whole weights (bf16) and whole gradients (fp32) of `shard` may take so that they are
kept between passes, which saves a gather of the weights a micro-batch and all but one reduction of the gradients."""


class Shared(NamedTuple):
    """What an `Accumulation` is made of."""

    called: nn.Module
    together: Callable[[bool], AbstractContextManager]
    settle: Callable[[], None]


def shares_weights(world: World) -> bool:
    """Whether weights are cut along `shard` (and `context`). Copies of a model whose matrices are cut are made so too:
    DDP knows plain tensors only."""
    layout = world.layout
    return world.mesh is not None and (layout.shard * layout.context > 1 or layout.offload or (
        layout.replicate > 1 and layout.tensor * layout.expert > 1))


def copies_weights(world: World) -> bool:
    """Whether there are whole copies and nothing else."""
    return world.layout.replicate > 1 and not shares_weights(world)


def replicate(module: MicroBatch, model: Body, world: World) -> Shared:
    """DDP (Li et al. 2020, arXiv:2006.15704): every process holds everything, gradients are added in buckets while
    the backward pass goes on."""
    group = world.group("replicate")
    # A decoder uses every weight; heads for pairs of texts or embeddings of languages may lie idle in a batch. Told to
    # look for those, torch keeps its buckets, where otherwise it lays them out anew after the first update: the sums of
    # three and more gradients would be taken in another order in the first update of a run that goes on, and a CPU
    # promises the bits of one that was never interrupted.
    idle = not isinstance(model, Decoder) or (world.device.type == "cpu" and world.layout.replicate > 2)
    copies = DistributedDataParallel(
        _WithIdle(module, world.device) if idle else module, process_group=group, gradient_as_bucket_view=True,
        # Buffers count what this process saw (the loads of experts) and are added up elsewhere.
        **NO_BUFFERS,
        find_unused_parameters=idle)
    copies.register_comm_hook(group, _added)

    @contextlib.contextmanager
    def together(last: bool) -> Iterator[None]:
        with contextlib.nullcontext() if last else copies.no_sync():
            yield

    return Shared(copies, together, lambda: None)


class _WithIdle(nn.Module):
    """A module and one weight that nothing uses: with none at all torch warns every process, by a line that nobody can
    turn off, of a search that found nothing."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.module, self.idle = module, nn.Parameter(torch.zeros(1, device=device))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def _added(group, bucket):  # type: ignore[no-untyped-def]
    """Sum rather than mean. (torch looks at annotations, and those of this file are text.)"""
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


def shard(module: MicroBatch, model: Body, world: World, compute: Compute) -> Shared:
    """FSDP2 (Zhao et al. 2023, arXiv:2304.11277): a block's weights are gathered for its passes, its gradients are
    summed where their share lies. With `replicate` too: HSDP, copies of such groups."""
    assert world.mesh is not None
    mesh = world.mesh["replicate", "shard"] if world.layout.replicate > 1 else world.mesh["shard"]
    kept = keeps_whole(module, world)
    offload: OffloadPolicy = OffloadPolicy()
    if world.layout.offload and world.device.type != "cpu":
        offload = CPUOffloadPolicy()
    # What autocast casts in every block is gathered in bf16. All else stays fp32, as in one process, and belongs to the
    # group around the blocks: norms and routers in a group of each block would be two messages more, a block. That
    # group is whole from the forward pass to the end of the backward pass, so where memory is short tables of value
    # embeddings do not belong to it: each is gathered for its reading, which is all that needs it.
    lower = compute.dtype if compute.dtype != torch.float32 else None
    inside = MixedPrecisionPolicy(param_dtype=lower, reduce_dtype=torch.float32, cast_forward_inputs=False)
    around = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)

    def along(parameter: nn.Parameter) -> Shard | None:
        return other_side(parameter, world.layout.shard * world.layout.context)

    if world.layout.expert > 1:
        shard_experts(model, world, reshard_after_forward=not kept, mp_policy=inside, offload_policy=offload)
    blocks = list(model.all_blocks)
    cast = {parameter for block in blocks for parameter in {*block.parameters()} - never_cast(block)}
    tables = [] if kept else [table for block in blocks for table in value_tables(block)]
    # The outer group first: later it would not find what lies inside of the others.
    fully_shard(module, mesh=mesh, reshard_after_forward=False, mp_policy=around, offload_policy=offload,
                shard_placement_fn=along, ignored_params=cast | {p for table in tables for p in table.parameters()})
    for table in tables:
        fully_shard(table, mesh=mesh, reshard_after_forward=True, mp_policy=around, offload_policy=offload,
                    shard_placement_fn=along).set_unshard_in_backward(False)  # its gradient needs no row of it
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=not kept, mp_policy=inside, offload_policy=offload,
                    shard_placement_fn=along, ignored_params=never_cast(block))
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum, and none is needed

    @contextlib.contextmanager
    def together(last: bool) -> Iterator[None]:
        # Exact either way: sums of all processes' gradients, taken once or once a micro-batch.
        module.set_requires_gradient_sync(last or not kept)  # type: ignore[operator]
        yield

    def settle() -> None:
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()

    return Shared(module, together, settle)


def never_cast(block: nn.Module) -> set[nn.Parameter]:
    """What autocast leaves in fp32: all but the weights of linear layers and experts. Routers are linear, and compute
    in fp32 all the same."""
    cast, routers = (nn.Linear, Experts), {layer.router for layer in expert_layers(block)}
    return {parameter for part in block.modules() if part in routers or not isinstance(part, cast)
            for parameter in part.parameters(recurse=False)}


def value_tables(block: nn.Module) -> list[nn.Embedding]:
    """The tables of value embeddings: a row for every token, as wide as the values, in every second block."""
    return [part.value_embedding for part in block.modules()
            if isinstance(part, Attention) and part.value_embedding is not None]


def other_side(parameter: nn.Parameter, size: int) -> Shard | None:
    """The columns, where `tensor` has cut the rows already: cut twice along one side, a matrix's parts would lie in
    an order of torch's own. None for the rows, as usual."""
    if isinstance(parameter, DTensor) and parameter.ndim == 2 and parameter.shape[1] % size == 0 and any(
            placement.is_shard(0) for placement in parameter.placements):
        return Shard(1)
    return None


def keeps_whole(module: nn.Module, world: World) -> bool:
    """Whether whole weights and gradients may stay between passes: `KEPT_SHARE` of the memory is enough for them."""
    numbers = sum(parameter.numel() for parameter in module.parameters()) / world.layout.tensor
    return (2 + 4) * numbers < KEPT_SHARE * _memory(world)


def _memory(world: World) -> float:
    if world.device.type == "cuda":
        return torch.cuda.get_device_properties(world.device).total_memory
    everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return everything / int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
