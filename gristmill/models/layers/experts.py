"""Feed-forward experts, each over the tokens that chose it: one grouped matrix product, or a loop where there is none.

`reference` is the slow, obvious form that the tests compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.models.layers.mlp import ACTIVATIONS, GATES

ALIGNMENT = 16
"""The grouped product wants rows of a multiple of this many bytes."""


class Experts(nn.Module):
    """Stacked feed-forward layers: gate and up (experts, inner, dim), down (experts, dim, inner)."""

    def __init__(self, experts: int, dim: int, inner: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.gate = nn.Parameter(torch.empty(experts, inner, dim)) if activation in GATES else None
        self.up = nn.Parameter(torch.empty(experts, inner, dim))
        self.down = nn.Parameter(torch.empty(experts, dim, inner))
        for weight in self.parameters():
            nn.init.uniform_(weight, -weight.shape[-1] ** -0.5, weight.shape[-1] ** -0.5)

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor, kept: Tensor | None = None) -> Tensor:
        """The weighted sum of each token's experts.

        x (tokens, dim); chosen (tokens, active) of int64; weights like chosen; kept like chosen, of bool: choices that
        are carried out, default all. Returns (tokens, dim).
        """
        tokens, active = chosen.shape
        # A choice that is dropped goes to an expert after the last, so that its row comes last.
        flat = (chosen if kept is None else chosen.where(kept, len(self.up))).flatten()
        order = flat.argsort(stable=True)
        counts = torch.zeros(len(self.up) + 1, dtype=torch.int64, device=x.device)
        counts = counts.scatter_add_(0, flat, torch.ones_like(flat))[:-1]
        rows = x.index_select(0, order // active)
        if kept is None:
            made = self.transform(rows, counts)
        else:
            made = self.transform(rows[: int(counts.sum())], counts)
            made = torch.cat([made, made.new_zeros(len(rows) - len(made), made.shape[1])])
        # Back into the order of tokens, so that each token's sum is taken over its own choices in a fixed order.
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        made = made.index_select(0, back).unflatten(0, (tokens, active))
        return (made * weights.to(made.dtype)[..., None]).sum(1)

    def transform(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Rows (rows, dim) in the order of their experts, counts (experts,) of them each -> (rows, dim)."""
        return transformed(rows, counts, [w for w in (self.gate, self.up, self.down) if w is not None], self.activation)


def transformed(rows: Tensor, counts: Tensor, stacks: Sequence[Tensor], activation: str) -> Tensor:
    """`Experts.transform` with these stacks: (gate,) up, down."""
    if torch.is_autocast_enabled(rows.device.type):  # the grouped product is not among the casted operations
        dtype = torch.get_autocast_dtype(rows.device.type)
        rows, stacks = rows.to(dtype), [weight.to(dtype) for weight in stacks]
    return (grouped if can_group(rows, stacks) else looped)(rows, counts, stacks, activation)


def can_group(rows: Tensor, stacks: Sequence[Tensor]) -> bool:
    """Whether torch has a grouped product for these tensors here."""
    if not hasattr(F, "grouped_mm") or len(rows) == 0:
        return False
    if any(size * rows.itemsize % ALIGNMENT for stack in stacks for size in stack.shape[1:]):
        return False
    if torch.compiler.is_compiling() and rows.dtype != torch.bfloat16:  # the compiler knows it for bf16 only
        return False
    if rows.device.type == "cpu":
        return rows.dtype in (torch.float32, torch.bfloat16)
    return (rows.device.type == "cuda" and rows.dtype == torch.bfloat16
            and torch.cuda.get_device_capability(rows.device) >= (8, 0))


def grouped(rows: Tensor, counts: Tensor, stacks: Sequence[Tensor], activation: str) -> Tensor:
    """All experts in one product a matrix; no expert's count has to be known on the host."""
    ends = counts.cumsum(0).to(torch.int32)

    def product(x: Tensor, weight: Tensor) -> Tensor:
        return F.grouped_mm(x, weight.transpose(-2, -1), offs=ends)

    return _feed_forward(rows, stacks, activation, product)


def looped(rows: Tensor, counts: Tensor, stacks: Sequence[Tensor], activation: str) -> Tensor:
    """One expert after the other, those without rows left out; never compiled, as their numbers change."""
    if torch.compiler.is_compiling():  # not as a decorator, which would import torch._dynamo with this file
        return torch.compiler.disable(_looped)(rows, counts, stacks, activation)
    return _looped(rows, counts, stacks, activation)


def _looped(rows: Tensor, counts: Tensor, stacks: Sequence[Tensor], activation: str) -> Tensor:
    made = [rows.new_zeros(0, stacks[-1].shape[1])]
    # Unbound once: the gradient of an indexed stack would be as large as the stack, for every expert.
    for part, weights in zip(rows.split(counts.tolist()), zip(*(s.unbind() for s in stacks), strict=True), strict=True):
        if len(part):
            made.append(_feed_forward(part, weights, activation, F.linear))
    return torch.cat(made)


def reference(x: Tensor, chosen: Tensor, weights: Tensor, stacks: Sequence[Tensor], activation: str) -> Tensor:
    """The sum written out, expert by expert over all tokens; arguments as in `Experts.forward`."""
    total = torch.zeros_like(x)
    for expert in range(len(stacks[0])):
        share = (weights * (chosen == expert)).sum(1, keepdim=True)
        total = total + share * _feed_forward(x, [stack[expert] for stack in stacks], activation, F.linear)
    return total


def _feed_forward(
    x: Tensor, weights: Sequence[Tensor], activation: str, product: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    *inner, down = weights
    if len(inner) == 2:
        return product(GATES[activation](product(x, inner[0])) * product(x, inner[1]), down)
    return product(ACTIVATIONS[activation](product(x, inner[0])), down)
