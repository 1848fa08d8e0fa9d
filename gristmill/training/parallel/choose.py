"""From what a user writes to a layout for the processes that are there."""

from __future__ import annotations

import os

import torch.distributed as dist

from gristmill.training.device import Compute
from gristmill.training.parallel.auto import Proposal, Workload, memory_of_a_process, propose
from gristmill.training.parallel.layout import Layout


def choose_layout(text: str, work: Workload | None = None, compute: Compute | None = None, *,
                  processes: int | None = None) -> tuple[Layout, Proposal | None]:
    """`auto`, `none` or `shard=4,tensor=2` -> Layout, and for auto why it is that one.

    auto: of the layouts that fit the one that talks least (`auto.propose`); all of them along `shard` where nobody said
    what is trained (`work`) and on what (`compute`). processes: default those that torchrun started. Raises UserError
    for text that is not understood, and where nothing fits.
    """
    if text.strip() != "auto":
        return Layout.parse(text), None
    if processes is None:
        processes = dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", 1))
    if processes == 1 or work is None or compute is None:
        return Layout(shard=processes), None
    per_host = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    found = propose(work, processes, per_host=per_host, available=memory_of_a_process(compute.device, per_host),
                    device=compute.device.type)
    return found.layout, found
