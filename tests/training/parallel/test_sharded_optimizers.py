"""Whole matrices for optimizers whose weights are cut over processes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from gristmill.training.optimizers.sharded import on_matrices
from tests.training.parallel.ranks import run_ranks

CUTS = {
    "rows": [("a", 0)], "columns": [("a", 1)], "both": [("a", 1), ("b", 0)], "copies": [("a", None), ("b", 0)],
}


def _dealt(rank: int, name: str, shape: tuple[int, ...], count: int, lengths: tuple[int, ...]) -> tuple[float, int]:
    """Largest difference to the function of whole matrices, and how many of them this process worked on."""
    mesh = init_device_mesh("cpu", lengths)
    placements = [Replicate() if dim is None else Shard(dim) for _, dim in CUTS[name]]
    generator = torch.Generator().manual_seed(3)
    wholes = [torch.randn(shape, generator=generator) for _ in range(count)]
    seen = []

    def function(matrices: Tensor) -> Tensor:
        assert matrices.ndim == 3
        seen.append(len(matrices))
        return matrices / matrices.norm(dim=(1, 2), keepdim=True) + matrices.sum(1, keepdim=True)

    cut = [distribute_tensor(whole, mesh, placements) for whole in wholes]
    parts = on_matrices(function, [tensor.to_local() for tensor in cut], cut[0])
    worked = sum(seen)
    expected = function(torch.stack(wholes).reshape(-1, *shape[-2:])).view(-1, *shape)
    wanted = [distribute_tensor(matrix, mesh, placements).to_local() for matrix in expected]
    return max((float((a - b).abs().max()) for a, b in zip(parts, wanted, strict=True) if a.numel()), default=0), worked


@pytest.mark.parametrize(("name", "shape", "count", "lengths", "worked"), [
    ("rows", (6, 4), 4, (2,), [2, 2]), ("columns", (6, 4), 3, (2,), [2, 1]), ("rows", (7, 4), 1, (2,), [1, 0]),
    ("rows", (4, 6, 8), 2, (2,), [4, 4]), ("rows", (3, 6, 8), 2, (2,), [4, 2]), ("rows", (1, 4), 2, (2,), [1, 1]),
    ("rows", (8, 4), 3, (4,), [1, 1, 1, 0]), ("rows", (6, 4), 5, (4,), [2, 2, 1, 0]),
    ("both", (8, 6), 4, (2, 2), [1, 1, 1, 1]), ("both", (6, 8), 3, (2, 2), [1, 1, 1, 0]),
    ("copies", (6, 4), 4, (2, 2), [2, 2, 2, 2]),
])
def test_whole_matrices_are_dealt_out_and_parts_come_back(name, shape, count, lengths, worked):
    size = len(worked)
    found = run_ranks(_dealt, size, name, shape, count, lengths, timeout=60)
    assert [matrices for _, matrices in found] == worked
    assert all(difference < 1e-6 for difference, _ in found)
