"""What lies between a head's two products on a GPU: from logits to losses and the gradient that takes their place, in
one compiled pass (docs/decisions.md, "Cross-entropy")."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gristmill.core.compiler import compiler_forbidden, compiler_problem

TOKENS, BYTES = 8192, 2**30
"""Most tokens whose logits exist at one time, and most that these may take: large products keep the device busy."""
LEAST = 2**24
"""Logits of a batch below which compiling is not worth its seconds."""


class Rows(NamedTuple):
    """What became of each row of logits, (rows,); None where it is not asked for."""

    losses: Tensor
    """-log softmax(logits)[wanted], fp32."""
    hits: Tensor
    """Whether the wanted one is the first of the largest."""
    spread: Tensor | None
    """The mean of -log softmax over all tokens, fp32."""
    z_squares: Tensor | None
    """log(Z)², fp32."""


def takes(hidden: Tensor, head: Tensor) -> bool:
    """Whether logits of these are worth it, on a device for which torch can and may compile."""
    return (hidden.device.type == "cuda" and type(hidden) is Tensor and type(head) in (Tensor, nn.Parameter)
            and len(hidden) * len(head) >= LEAST and not torch.compiler.is_compiling()
            and not compiler_forbidden() and _problem() is None)


def chunk_of(tokens: int, vocab: int, dtype: torch.dtype) -> int:
    """How many tokens' logits exist at one time; of few sizes, as each is compiled."""
    return max(1, min(1 << (tokens - 1).bit_length(), TOKENS, BYTES // (vocab * dtype.itemsize)))


def rows(logits: Tensor, wanted: Tensor, weights: Tensor | None, bias: Tensor | None, *, label_smoothing: float,
         z_loss: float, soft_cap: float | None, slopes: bool) -> Rows:
    """logits (rows, vocab), overwritten by the gradient of what is minimised, each row times its own of `weights`
    (rows,), where `slopes`; wanted (rows,). bias (vocab,) and the rest: as in `cross_entropy.head_loss`.
    """
    wide, wanted = logits.float(), wanted[:, None]
    if bias is not None:
        wide = wide + bias.float()
    if soft_cap is not None:
        wide = (wide / soft_cap).tanh() * soft_cap
    top = wide.amax(-1, keepdim=True)
    powers = (wide - top).exp()
    z = powers.sum(-1, keepdim=True)
    log_z = top + z.log()
    found = Rows((log_z - wide.gather(1, wanted)).squeeze(1), wide.argmax(-1, keepdim=True).eq(wanted).squeeze(1),
                 log_z.squeeze(1) - wide.mean(-1) if label_smoothing else None,
                 log_z.squeeze(1).square() if z_loss else None)
    if slopes:
        slope = powers / z
        if z_loss:
            slope = slope * (1 + 2 * z_loss * log_z)
        if label_smoothing:
            slope = slope - label_smoothing / logits.shape[1]
        slope = slope - (1 - label_smoothing) * (torch.arange(logits.shape[1], device=logits.device) == wanted)
        if soft_cap is not None:
            slope = slope * (1 - (wide / soft_cap).square())
        logits.copy_(slope if weights is None else slope * weights[:, None])
    return found


@functools.cache
def compiled_rows():  # type: ignore[no-untyped-def]
    """`rows`, compiled for the shapes that it is given."""
    return torch.compile(rows, dynamic=False)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total (rows, columns) fp32 plus a (rows, inner) @ b (inner, columns); not rounded to their type on a GPU."""
    if a.is_cuda and a.dtype in (torch.bfloat16, torch.float16):
        return torch.addmm(total, a, b, out_dtype=torch.float32)
    return total.add_(a @ b)


@functools.cache
def _problem() -> str | None:
    return compiler_problem(gpu=True)
