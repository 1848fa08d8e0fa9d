"""Eight bits a number: blocks, each with its largest magnitude, and a table of 256 levels.

Dettmers et al. 2022, arXiv:2110.02861, section 2: block-wise dynamic quantisation. The levels of a dynamic table lie
in seven decades, each linearly divided, more finely the larger its numbers are.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 256
"""Numbers that share a scale: an outlier costs the precision of so many others."""


@lru_cache
def levels(signed: bool, device: torch.device | None = None) -> Tensor:
    """The 256 values a code stands for, ascending, in [-1, 1] or [0, 1]; zero and one are exact.

    Of the code's bits, leading zeros count the decades below one, and what follows divides the decade.
    """
    values = [0.0, 1.0]
    for decade in range(7):
        bits = 2 ** (6 - decade if signed else 7 - decade)
        edges = torch.linspace(0.1, 1, bits + 1, dtype=torch.float64)
        middles = (10.0 ** -decade * (edges[:-1] + edges[1:]) / 2).tolist()
        values += middles + [-m for m in middles if signed]
    return torch.tensor(sorted(values), dtype=torch.float32, device=device)


def zeros(like: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes in the shape of `like`, and scales, of as many zeros."""
    code = int((levels(signed) == 0).nonzero())
    return (torch.full(like.shape, code, dtype=torch.uint8, device=like.device),
            torch.zeros(-(-like.numel() // BLOCK), device=like.device))


def quantise(values: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """values (n,) -> codes (n,) uint8 and scales (ceil(n / BLOCK),) fp32, to the nearest level.

    Unsigned, nothing but zero becomes zero: a divisor that vanished would make a step without bound.
    """
    blocks = _blocks(values)
    scales = blocks.abs().amax(1)
    relative = (blocks / torch.where(scales > 0, scales, 1).unsqueeze(1)).view(-1)[: len(values)]
    first, between = _search(signed, values.device)
    code = first.index_select(0, (relative.view(torch.int32) >> 16) + 2**15)
    return code + (relative > between.index_select(0, code.int())), scales


@lru_cache
def _search(signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Code of the smallest number with the same upper 16 bits, and the middles above each level: as no two middles
    share those bits, one comparison finds the nearest level, at a tenth of the time of a search."""
    table = levels(signed)
    between = F.pad((table[1:] + table[:-1]) / 2, (0, 1), value=torch.inf)
    if not signed:
        between[0] = 0
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32)
    # Cutting a negative number's lower bits off makes it larger: the smallest has them all set.
    smallest = torch.where(bits < 0, (bits << 16) | 0xFFFF, bits << 16).view(torch.float32).nan_to_num(0.0)
    return torch.bucketize(smallest, between).to(torch.uint8).to(device), between.to(device)


def _blocks(values: Tensor) -> Tensor:
    missing = -len(values) % BLOCK
    return (F.pad(values, (0, missing)) if missing else values).view(-1, BLOCK)


def restore(codes: Tensor, scales: Tensor, signed: bool) -> Tensor:
    """codes (n,) and their scales -> values (n,) fp32."""
    values = _blocks(levels(signed, codes.device).index_select(0, codes.int()))
    return (values * scales.unsqueeze(1)).view(-1)[: len(codes)]
