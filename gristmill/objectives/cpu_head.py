"""The middle of a head's loss on CPUs with AVX512-BF16: from logits in bf16 to losses and their gradient, in place
(cpu_head.cpp; docs/decisions.md, "Cross-entropy")."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from gristmill.core import native

SOURCE = Path(__file__).with_suffix(".cpp")


def takes(hidden: Tensor, head: Tensor) -> bool:
    """Whether logits of these are bf16 on a CPU that has the instructions; compiles the code at the first call."""
    return (hidden.device.type == "cpu" and hidden.dtype == head.dtype == torch.bfloat16
            and type(hidden) is type(head) is Tensor and native.library(SOURCE) is not None)


def head_rows(logits: Tensor, targets: Tensor, slopes: bool) -> tuple[Tensor, Tensor]:
    """-log softmax(logits)[target], (rows,) fp32, and whether the target is the first of the largest, (rows,) int64.

    logits (rows, vocab) bf16, overwritten by the gradient of the sum of the losses where `slopes`; targets (rows,).
    """
    found = native.library(SOURCE)
    assert found is not None
    rows, size = logits.shape
    # The code trusts its indices, as an indexing operator of torch would not.
    if rows and not 0 <= int(targets.min()) <= int(targets.max()) < size:
        raise IndexError(f"targets must be from 0 to {size - 1}")
    targets = targets.contiguous()
    losses, hits = torch.empty(rows, dtype=torch.float32), torch.empty(rows, dtype=torch.int64)
    found.head_rows(*(ctypes.c_void_p(x.data_ptr()) for x in (logits, targets, losses, hits)), ctypes.c_int64(rows),
                    ctypes.c_int64(size), ctypes.c_int64(logits.stride(0)), ctypes.c_int64(slopes))
    return losses, hits
