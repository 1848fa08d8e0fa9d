"""How tensors of ours become public ones and back: the same, transposed, joined, stacked; each exactly invertible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Turn = Callable[[Sequence[Tensor], Any], list[Tensor]]
"""(tensors of one side, config) -> tensors of the other."""


@dataclass(frozen=True)
class Form:
    """Both directions; each undoes the other."""

    to_public: Turn
    from_public: Turn


SAME = Form(lambda tensors, config: list(tensors), lambda tensors, config: list(tensors))
"""One to one."""

TRANSPOSED = Form(lambda tensors, config: [t.t().contiguous() for t in tensors],
                  lambda tensors, config: [t.t().contiguous() for t in tensors])
"""Matrices that the public format stores as (in, out)."""


def joined(sizes: Callable[[Any], Sequence[int]], transposed: bool = False) -> Form:
    """Several of ours stacked along their rows into one public tensor; sizes: rows of each. transposed: the public one
    is stored as (in, out)."""

    def to_public(tensors: Sequence[Tensor], config: Any) -> list[Tensor]:
        whole = torch.cat(list(tensors))
        return [whole.t().contiguous() if transposed else whole]

    def from_public(tensors: Sequence[Tensor], config: Any) -> list[Tensor]:
        whole = tensors[0].t() if transposed else tensors[0]
        return [part.contiguous() for part in whole.split(list(sizes(config)))]

    return Form(to_public, from_public)


STACKED = Form(lambda tensors, config: [part.contiguous() for part in tensors[0].unbind()],
               lambda tensors, config: [torch.stack(list(tensors))])
"""One of ours, (experts, ...), as one public tensor an expert."""


def paired(heads: Callable[[Any], int]) -> Form:
    """Rows of a query or key projection in the rotary order of neighbouring channels, where ours pairs channel i with
    i + head_dim/2; heads: how many the projection has."""

    def turned(shape: Callable[[int], tuple[int, int]]) -> Turn:
        def turn(tensors: Sequence[Tensor], config: Any) -> list[Tensor]:
            rows = tensors[0].shape[0] // heads(config)
            return [t.reshape(heads(config), *shape(rows), *t.shape[1:]).transpose(1, 2).reshape(t.shape).contiguous()
                    for t in tensors]
        return turn

    return Form(turned(lambda rows: (2, rows // 2)), turned(lambda rows: (rows // 2, 2)))
