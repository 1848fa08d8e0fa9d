"""Expert parallelism: the experts of a layer lie on several processes, and tokens are sent to those that they chose.

Each of `expert` neighbouring processes holds so many of a layer's experts, one after another (Lepikhin et al. 2020,
arXiv:2006.16668, section 3.2). Router and shared experts stay everywhere, so choices are those of one process; rows are
sent to their experts in order and come back in order, so the sums are too. A capacity counts the tokens of a
process's micro-batch, before anything is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

from gristmill.core.errors import InternalError, UserError
from gristmill.models.layers.experts import Experts, transformed
from gristmill.models.layers.moe import expert_layers
from gristmill.training.parallel.collectives import exchange, exchanged
from gristmill.training.parallel.world import World


def spread_experts(model: nn.Module, world: World) -> None:
    """Leave this process its share of every layer's experts, in place.

    The stacks become DTensors, cut along their first axis over the mesh `expert`; names stay. All processes start from
    the same weights, or from shapes on meta. Raises UserError where there are no experts, or they cannot be dealt out.
    """
    size, where = world.layout.expert, f"parallel: {world.layout.describe()}"
    config: Any = getattr(model, "config", None)
    settings = getattr(config, "moe", None)
    if settings is None:
        raise UserError("the model has no experts to deal out", where=where, fix="leave expert at 1")
    if settings.experts % size:
        raise UserError(f"{settings.experts} experts cannot be dealt out to {size} processes in equal parts",
                        where=where, fix=f"choose expert among the divisors of {settings.experts}")
    # Here and not where stacks are cut, so that stages of a pipeline without experts refuse it too.
    rest = world.layout.shard * world.layout.context // size
    for rows in (settings.width, config.dim):
        if rows % rest:
            raise UserError(f"experts of {rows} rows cannot be cut over {rest} processes that hold the same ones",
                            where=where, fix=f"choose a width that is a multiple of {rest}, or a larger expert")
    if world.experts is None:
        raise InternalError("the world has no mesh for experts")
    mesh = world.experts["expert"]
    for layer in expert_layers(model):
        for name, stack in list(layer.experts.named_parameters(recurse=False)):
            # Copied, so that the memory of the others' experts is given back.
            own = stack.detach().chunk(size)[mesh.get_local_rank()].clone()
            cut = DTensor.from_local(own, mesh, [Shard(0)], run_check=False)
            setattr(layer.experts, name, nn.Parameter(cut, requires_grad=stack.requires_grad))
        exchange_ = Exchange(layer.experts, mesh.get_group(), size)
        layer.experts.transform = exchange_.transform  # type: ignore[method-assign]


def shard_experts(model: nn.Module, world: World, **options: Any) -> None:
    """`fully_shard` every layer's experts over the processes that hold the same ones, before their blocks are.

    Over those alone: the processes of an expert group hold different experts already. Stacks are cut along their second
    axis, so that each process keeps a part of each of its experts. options: of `fully_shard`.
    """
    assert world.experts is not None
    mesh = world.experts["replicate", "rest"] if world.layout.replicate > 1 else world.experts["rest"]
    for layer in expert_layers(model):
        fully_shard(layer.experts, mesh=mesh, shard_placement_fn=lambda stack: Shard(1), **options)


@dataclass
class Exchange:
    """Takes the place of `Experts.transform`: rows go to the processes of their experts and come back."""

    experts: Experts
    group: Any
    size: int

    def transform(self, rows: Tensor, counts: Tensor) -> Tensor:
        """rows (rows, dim) in the order of all experts, counts (experts,) of them each -> (rows, dim).

        Sends twice, and before that how many rows come; the host waits for those numbers. It is never compiled.
        """
        if torch.compiler.is_compiling():  # not as a decorator, which would import torch._dynamo with this file
            return torch.compiler.disable(self._transform)(rows, counts)
        return self._transform(rows, counts)

    def _transform(self, rows: Tensor, counts: Tensor) -> Tensor:
        if torch.is_autocast_enabled(rows.device.type):  # what is sent is half as large
            rows = rows.to(torch.get_autocast_dtype(rows.device.type))
        # (source, own expert): how many rows each process has for each expert that is here.
        coming = exchange(counts, None, None, self.group).view(self.size, -1)
        given, taken = torch.stack([counts.view(self.size, -1).sum(1), coming.sum(1)]).tolist()
        arrived, here = exchanged(rows, given, taken, self.group), coming.sum(0)
        if len(arrived):
            # By process and expert -> by expert and process: the order that they would have in one process.
            owners = torch.arange(coming.shape[1], device=rows.device).repeat(self.size)
            order = owners.repeat_interleave(coming.flatten(), output_size=len(arrived)).argsort(stable=True)
            back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
            made = self._made(arrived.index_select(0, order), here).index_select(0, back)
        else:
            # Nobody chose an expert that is here. Others wait in backward for gradients from here, and for those of
            # the weights: an empty row of zeros has both.
            made = self._made(F.pad(arrived, (0, 0, 0, 1)), F.pad(here[:-1], (0, 1), value=1))[:0]
        return exchanged(made, taken, given, self.group)

    def _made(self, rows: Tensor, counts: Tensor) -> Tensor:
        stacks = [_here(stack) for stack in (self.experts.gate, self.experts.up, self.experts.down)
                  if stack is not None]
        return transformed(rows, counts, stacks, self.experts.activation)


def _here(stack: Tensor) -> Tensor:
    return stack.to_local() if isinstance(stack, DTensor) else stack
