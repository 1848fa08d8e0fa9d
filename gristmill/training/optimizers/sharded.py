"""What an optimizer needs of a whole matrix where processes hold parts of it (DTensors)."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import Placement

from gristmill.core.errors import UserError


def kind(tensor: Tensor) -> Hashable:
    """Equal for tensors that can be worked on together: plain ones, or DTensors that are cut in the same way."""
    return (tensor.device_mesh, tensor.placements) if isinstance(tensor, DTensor) else None


def local(tensor: Tensor) -> Tensor:
    """What of a tensor lies on this process; changes in place are changes of the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_sum(values: Tensor, dims: Sequence[int], keepdim: bool = False) -> Tensor:
    """Sum over dimensions, a plain tensor; of a DTensor all processes call it together and have the same."""
    total = values.sum(list(dims), keepdim=keepdim)
    if not isinstance(total, DTensor):
        return total
    for axis, placement in enumerate(total.placements):  # one by one: torch warns of two sums at a time
        if placement.is_partial():
            settled = [Replicate() if at == axis else p for at, p in enumerate(total.placements)]
            total = total.redistribute(placements=settled)
    return total.full_tensor()


def times(values: Tensor, whole: Tensor) -> Tensor:
    """The product with a plain tensor that every process has whole, cut as `values` is."""
    if not isinstance(values, DTensor):
        return values * whole
    copies = [Replicate()] * values.device_mesh.ndim
    product = values * DTensor.from_local(whole, values.device_mesh, copies, run_check=False)
    assert isinstance(product, DTensor)
    return product.redistribute(placements=values.placements)  # torch takes a single row for a copy on every process


def mean_square(tensor: Tensor) -> float:
    """Of all numbers of a tensor, in double precision; of a DTensor, all processes call it together."""
    total = tensor.detach().double().square().sum()
    return float(total.full_tensor() if isinstance(total, DTensor) else total) / tensor.numel()


def on_matrices(function: Callable[[Tensor], Tensor], updates: Sequence[Tensor], like: Tensor) -> Sequence[Tensor]:
    """`function` of whole matrices, (count, rows, columns) -> the same shape, of tensors of one shape and `kind`.

    updates: the local parts, cut as `like` is, of matrices or of stacks of them (experts, rows, columns); returns the
    parts of the results. The matrices are dealt out: each process receives whole ones of its own, does them, and sends
    the parts back, so that all do an equal share and none does another's.
    """
    stacked = torch.stack(list(updates))
    if not isinstance(like, DTensor):
        return function(stacked.reshape(-1, *like.shape[-2:])).view(-1, *like.shape).unbind()
    cut = [placement for placement in like.placements if not placement.is_replicate()]
    if not cut or all(type(placement) is Shard and placement.dim < like.ndim - 2 for placement in cut):
        made = function(stacked.reshape(-1, *like.shape[-2:])) if stacked.numel() else stacked
        return made.view_as(stacked).unbind()
    sides = [placement.dim for placement in cut if type(placement) is Shard]
    if len({*sides}) < len(cut):
        raise UserError(f"a matrix {tuple(like.shape)} is cut twice along one side, by tensor and by shard",
                        where="parallel", fix="choose shard x context among the divisors of the model's dim, or adamw")
    # Filled up, so that every process has equal parts: torch sends nothing from one that has none, and all would wait.
    mesh, filled = like.device_mesh, list(stacked.shape)
    owners, first = 1, 0
    for at, placement in enumerate(like.placements):
        if type(placement) is Shard:
            filled[placement.dim + 1] = -(-like.shape[placement.dim] // mesh.size(at))
            owners, first = owners * mesh.size(at), first * mesh.size(at) + mesh.get_local_rank(at)
    each = -(-len(updates) // owners)
    filled[0] = each * owners
    parts = DTensor.from_local(_resized(stacked, filled), mesh, [_behind(p) for p in like.placements], run_check=False)
    dealt = [p if p.is_replicate() else Shard(0) for p in like.placements]
    whole = parts.redistribute(placements=dealt).to_local()
    count = max(min(len(updates) - first * each, each), 0)
    made = whole[:count, ..., : like.shape[-2], : like.shape[-1]]
    if count:
        made = function(made.reshape(-1, *like.shape[-2:])).reshape(made.shape)
    results = DTensor.from_local(_resized(made, whole.shape), mesh, dealt, run_check=False)
    return _resized(results.redistribute(placements=parts.placements).to_local(), stacked.shape).unbind()


def _behind(placement: Placement) -> Placement:
    """The same cut where another dimension stands in front."""
    return Shard(placement.dim + 1) if type(placement) is Shard else placement


def _resized(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Cut off or filled up with zeros at the end of each dimension."""
    if tuple(tensor.shape) == tuple(shape):
        return tensor.contiguous()
    made = tensor.new_zeros(shape)
    common = tuple(slice(min(a, b)) for a, b in zip(tensor.shape, shape, strict=True))
    made[common] = tensor[common]
    return made


def joined_parts(part: Tensor, like: Tensor, shape: Sequence[int]) -> Tensor:
    """Of a DTensor `like` that is cut along its rows: the parts that its processes have, one behind the other."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(part, like.device_mesh, _along_rows(like), run_check=False, shape=torch.Size(shape),
                              stride=torch.empty(tuple(shape), device="meta").stride())


def cut_blocks(whole: Tensor, like: Tensor) -> Tensor:
    """`whole` (blocks,), which every process has, cut as the rows of `like` are; nothing is sent."""
    if not isinstance(like, DTensor) or isinstance(whole, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, _along_rows(like), src_data_rank=None)


def _along_rows(like: DTensor) -> list[Placement]:
    return [Replicate() if placement.is_replicate() else Shard(0) for placement in like.placements]


def refuse_cut_blocks(name: str, parameters: Iterable[tuple[str, Tensor]], block: int, smallest: int) -> None:
    """UserError where a process would have a part of a block of so many numbers. smallest: parameters with fewer
    numbers have no blocks."""
    for label, parameter in parameters:
        if not isinstance(parameter, DTensor) or parameter.numel() < smallest:
            continue
        cut = [(at, placement) for at, placement in enumerate(parameter.placements) if not placement.is_replicate()]
        processes = math.prod(parameter.device_mesh.size(at) for at, _ in cut)
        rows = all(type(placement) is Shard and placement.dim == 0 for _, placement in cut)
        check_blocks(name, label, parameter.shape, processes, block, rows)


def check_blocks(name: str, label: str, shape: torch.Size, processes: int, block: int, rows: bool = True) -> None:
    """UserError where a parameter of this shape, cut for so many processes, leaves one a part of a block. rows: whether
    only its rows are dealt out."""
    if not rows or shape[0] % processes or shape.numel() // processes % block:
        raise UserError(
            f"{name} shares a scale among {block} numbers, and {processes} processes would cut such blocks of "
            f"{label} {tuple(shape)}", where="training.optimizer.kind",
            fix="shard over a divisor of its rows that leaves each process whole blocks, without tensor; or use "
                "another kind, such as adamw, muon or adafactor; or replicate")
