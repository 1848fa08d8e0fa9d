"""Copies in the CPU's memory that a checkpoint is written from while the training goes on.

torch's `DefaultStager` is not used: on a CPU it copies before it returns, and it copies whatever hangs on a parameter
as an attribute too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class Staging:
    """One set of buffers, made by the first checkpoint and used again; pinned where tensors come from a GPU."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}
        self.stream: torch.cuda.Stream | None = None
        self.copied: torch.cuda.Event | None = None

    def copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This process's part of each tensor. From a GPU the copies are only under way: see `allow` and `finish`."""
        kept: dict[str, Tensor] = {}
        local = {name: _local(tensor) for name, tensor in tensors.items()}
        devices = [part.device for part in local.values() if part.device.type == "cuda"]
        if devices and self.stream is None:
            self.stream, self.copied = torch.cuda.Stream(devices[0]), torch.cuda.Event()
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
        with torch.no_grad(), torch.cuda.stream(self.stream):  # nothing for None
            for name, part in local.items():
                buffer = self.buffers.get(name)
                if buffer is None or buffer.shape != part.shape or buffer.dtype != part.dtype:
                    buffer = torch.empty(part.shape, dtype=part.dtype, pin_memory=part.device.type == "cuda")
                kept[name] = buffer.copy_(part, non_blocking=True)
        if self.copied is not None and self.stream is not None:
            self.copied.record(self.stream)
            for part in local.values():
                if part.device.type == "cuda":
                    part.record_stream(self.stream)
        self.buffers = kept
        return kept

    def allow(self) -> None:
        """From here on tensors may change: a GPU's next work waits for the copies, this process does not."""
        if self.copied is not None and self.stream is not None:
            torch.cuda.current_stream(self.stream.device).wait_event(self.copied)

    def finish(self) -> None:
        """Wait until the copies can be read."""
        if self.copied is not None:
            self.copied.synchronize()


def _local(tensor: Tensor) -> Tensor:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
