"""Weights that one process holds and the others only know the shapes of: a model that is held whole once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from gristmill.models.layers.rotary import Tables
from gristmill.training.parallel.world import World

Withheld = dict[str, Tensor]


def withhold(module: nn.Module, world: World) -> Withheld | None:
    """Where any process holds weights on meta: take them from all, so that the axes cut shapes only. Returns what the
    first process had (nothing elsewhere), or None where every process has its own, or nobody has any."""
    missing = torch.tensor(float(any(p.is_meta for p in module.parameters())), device=world.device)
    if world.groups is not None:
        torch.distributed.all_reduce(missing)
    if not float(missing) or world.imagined:
        return None
    weights = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()} if world.main else {}
    module.to("meta")
    return weights


def fill(module: nn.Module, weights: Withheld, world: World, strict: bool = True) -> None:
    """Give every process its part of the first one's weights, tensor by tensor. strict: every process has all of the
    names; the stages of a pipeline have some."""
    offloaded = world.layout.offload and world.device.type != "cpu"
    module.to_empty(device="cpu" if offloaded else world.device)
    for part in module.modules():
        if isinstance(part, Tables):
            part.build_tables(world.device)
    state: dict[str, Any] = dict(weights)
    set_model_state_dict(module, state, options=StateDictOptions(
        full_state_dict=True, broadcast_from_rank0=True, strict=strict))
    if world.layout.tensor > 1:
        from gristmill.training.parallel import tensor

        tensor.finish_sums(module)
