"""A head's loss on CPUs with AVX512-BF16: from hidden states to losses and gradients, or only the middle of it, from
logits in bf16 to losses and their gradient, in place (cpu_head.cpp; docs/decisions.md, "Cross-entropy")."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gristmill.core import native

SOURCE = Path(__file__).with_suffix(".cpp")
FROM = torch.float32, torch.bfloat16
"""What the head may be."""
UNIT = 32
"""Both sides of a head are multiples of this where its products are made here too."""


def takes(hidden: Tensor, head: Tensor) -> bool:
    """Whether logits of these are bf16, as the head is cast to it, on a CPU that has the instructions; compiles the
    code at the first call."""
    return (hidden.device.type == "cpu" and hidden.dtype == torch.bfloat16 and type(hidden) is Tensor
            and head.dtype in FROM and type(head) in (Tensor, torch.nn.Parameter)
            and native.library(SOURCE) is not None)


def takes_whole(hidden: Tensor, head: Tensor) -> bool:
    """Whether the products are made here as well; the head may then be fp32."""
    return all(side % UNIT == 0 for side in head.shape) and takes(hidden, head)


def head_loss(hidden: Tensor, head: Tensor, targets: Tensor, chunk: int, *, of_hidden: bool,
              of_head: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """-log softmax(hidden headᵀ)[target], (tokens,) fp32, whether the target is the first of the largest, (tokens,)
    int64, and the gradients of the sum of the losses by `hidden`, in bf16, and by `head`, in fp32, where asked for.

    hidden (tokens, inner) bf16; head (vocab, inner) fp32 or bf16; targets (tokens,). Logits of `chunk` tokens exist at
    one time.
    """
    _check(targets, len(head))
    if hidden.stride(1) != 1 or hidden.stride(0) % 2:  # numbers are read in pairs
        hidden = hidden.contiguous()
    head, targets = head.contiguous(), targets.contiguous()
    losses, hits = torch.empty(len(hidden), dtype=torch.float32), torch.empty(len(hidden), dtype=torch.int64)
    slopes = (torch.empty_like(hidden, memory_format=torch.contiguous_format) if of_hidden else None,
              (torch.empty if len(hidden) else torch.zeros)(head.shape, dtype=torch.float32) if of_head else None)
    native.call(SOURCE, "head_loss", hidden, hidden.stride(0), *hidden.shape, head, head.dtype == torch.float32,
                len(head), targets, chunk, losses, hits, *slopes)
    return losses, hits, *slopes


def head_rows(logits: Tensor, targets: Tensor, slopes: bool) -> tuple[Tensor, Tensor]:
    """-log softmax(logits)[target], (rows,) fp32, and whether the target is the first of the largest, (rows,) int64.

    logits (rows, vocab) bf16, overwritten by the gradient of the sum of the losses where `slopes`; targets (rows,).
    """
    rows, size = logits.shape
    _check(targets, size)
    targets = targets.contiguous()
    losses, hits = torch.empty(rows, dtype=torch.float32), torch.empty(rows, dtype=torch.int64)
    native.call(SOURCE, "head_rows", logits, targets, losses, hits, rows, size, logits.stride(0), slopes)
    return losses, hits


def _check(targets: Tensor, size: int) -> None:
    """The code trusts its indices, as an indexing operator of torch would not."""
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < size:
        raise IndexError(f"targets must be from 0 to {size - 1}")
