"""Whole matrices for optimizers whose weights are cut over processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from gristmill.core.errors import UserError
from gristmill.core.files import read_jsonl
from gristmill.objectives import CausalLM
from gristmill.training import ScheduleConfig, Trainer, TrainingConfig
from gristmill.training.optimizers import Adafactor, AdamW8bit, OptimizerConfig, build_optimizer
from gristmill.training.optimizers.sharded import on_matrices
from gristmill.training.parallel import Layout
from tests.training.parallel.parity import COMPUTE, made, rows, tiny
from tests.training.parallel.ranks import run_ranks, world_of

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
    found = run_ranks(_dealt, size, name, shape, count, lengths)
    assert [matrices for _, matrices in found] == worked
    assert all(difference < 1e-6 for difference, _ in found)


Cut = tuple[tuple[int, ...], list[int | None], tuple[int, ...]]
"""Lengths of a mesh, the dimension that each of its axes cuts, and the shape that is cut."""


def _pair(lengths: tuple[int, ...], dims: list[int | None], shape: tuple[int, ...],
          ) -> tuple[torch.nn.Parameter, torch.nn.Parameter, list[tuple[Tensor, Tensor]]]:
    """A parameter whole and cut, and four gradients of both; rows and columns are of unequal sizes."""
    mesh = init_device_mesh("cpu", lengths)
    placements = [Replicate() if dim is None else Shard(dim) for dim in dims]
    generator = torch.Generator().manual_seed(0)
    large = torch.linspace(0.1, 30, shape[0]).view(-1, *[1] * (len(shape) - 1))
    weight = torch.randn(shape, generator=generator) * large
    gradients = [torch.randn(shape, generator=generator) * torch.linspace(0.1, 3, shape[-1]) for _ in range(4)]
    return (torch.nn.Parameter(weight.clone()), torch.nn.Parameter(distribute_tensor(weight.clone(), mesh, placements)),
            [(gradient, distribute_tensor(gradient.clone(), mesh, placements)) for gradient in gradients])


def _factored(rank: int, cuts: list[Cut]) -> list[float]:
    """Adafactor's largest difference to one process over four steps, of weights and states, for each cut."""
    found = []
    for lengths, dims, shape in cuts:
        whole, parts, gradients = _pair(lengths, dims, shape)
        weight = whole.detach().clone()
        optimizers = [Adafactor([parameter], lr=0.1, weight_decay=0.1) for parameter in (whole, parts)]
        for whole.grad, parts.grad in gradients:
            for optimizer in optimizers:
                optimizer.step()
        pairs = [(whole, parts), *((value, optimizers[1].state[parts][name])
                                   for name, value in optimizers[0].state[whole].items())]
        assert not torch.equal(whole, weight)
        found.append(max(float((one - (many.full_tensor() if hasattr(many, "full_tensor") else many)).abs().max()
                               / one.abs().max()) for one, many in pairs))
    return found


@pytest.mark.parametrize("cuts", [
    [((2,), [0], (6, 4)), ((2,), [0], (7, 4)), ((2,), [1], (6, 5)), ((2,), [0], (5,)), ((2,), [None], (6, 4)),
     ((2,), [0], (3, 6, 4)), ((2,), [0], (1, 4)), ((2,), [1], (4, 1))],
    [((2, 2), [0, 1], (6, 4)), ((2, 2), [None, 0], (7, 4)), ((4,), [0], (6, 4))],
])
def test_adafactor_sees_whole_rows_and_columns(cuts):
    for differences in run_ranks(_factored, max(torch.Size(lengths).numel() for lengths, _, _ in cuts), cuts):
        assert max(differences) < 1e-6, differences


def _in_blocks(rank: int, cuts: list[Cut]) -> list[bool]:
    """Whether the 8-bit AdamW has the bits of one process, for each cut; after two steps the state is read again."""
    found = []
    for lengths, dims, shape in cuts:
        whole, parts, gradients = _pair(lengths, dims, shape)
        one, many = (build_optimizer([("blocks.0.weight", parameter)], OptimizerConfig(
            kind="adamw8bit", learning_rate=0.01, weight_decay=0.1)) for parameter in (whole, parts))
        for step, (whole.grad, parts.grad) in enumerate(gradients):
            one.step()
            many.step()
            if step == 1:  # as from a checkpoint: what has another shape than its parameter is whole
                names = {parts: "blocks.0.weight"}
                many.load_tensors({name: value.full_tensor() if name.endswith("scales") and hasattr(
                    value, "full_tensor") else value for name, value in many.tensors(names).items()}, names)
        states = [optimizer.parts[0].state[parameter] for optimizer, parameter in ((one, whole), (many, parts))]
        pairs = [(whole, parts), *((states[0][name], states[1][name]) for name in states[0])]
        assert isinstance(many.parts[0], AdamW8bit)
        assert ("root_codes" in states[0]) == (whole.numel() >= 4096)
        found.append(all(torch.equal(a, b.full_tensor() if hasattr(b, "full_tensor") else b) for a, b in pairs))
    return found


@pytest.mark.parametrize("cuts", [
    [((2,), [0], (32, 256)), ((2,), [None], (32, 256)), ((2,), [0], (8192,)), ((2,), [0], (5, 4)),
     ((2,), [0], (4, 16, 128)), ((2,), [1], (6, 4))],
    [((2, 2), [None, 0], (64, 128)), ((4,), [0], (64, 128))],
])
def test_eight_bits_a_number_are_those_of_one_process(cuts):
    for same in run_ranks(_in_blocks, max(torch.Size(lengths).numel() for lengths, _, _ in cuts), cuts):
        assert all(same), same


def _refused(rank: int, dim: int, shape: tuple[int, ...]) -> str:
    mesh = init_device_mesh("cpu", (2,))
    parameter = torch.nn.Parameter(distribute_tensor(torch.zeros(shape), mesh, [Shard(dim)]))
    try:
        build_optimizer([("blocks.0.weight", parameter)], OptimizerConfig(kind="adamw8bit"))
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("dim", "shape"), [(0, (33, 256)), (0, (34, 128)), (1, (32, 256))])
def test_blocks_that_would_be_cut_are_refused(dim, shape):
    for error in run_ranks(_refused, 2, dim, shape):
        assert "would cut such blocks of blocks.0.weight" in error


class _Windows:
    """Two rows an update, decided by the step."""

    def window(self, step: int) -> list[dict[str, Tensor]]:
        return [rows(tiny(dim=64), 2, seed=step)]


def _trained(rank: int, folder: str, kind: str, steps: int, layout: str) -> None:
    """Up to so many updates, from the checkpoint that is there."""
    config = TrainingConfig(optimizer=OptimizerConfig(kind=kind, learning_rate=0.003),  # type: ignore[arg-type]
                            schedule=ScheduleConfig(kind="constant", warmup=0.0), evaluations=1)
    Trainer(model=made(tiny(dim=64)), objective=CausalLM(), source=_Windows(), steps=steps, compute=COMPUTE,
            folder=Path(folder), checkpoints=Path(folder) / "checkpoints", config=config,
            world=world_of(Layout.parse(layout))).fit()


@pytest.mark.parametrize("kind", ["adamw8bit", "adafactor"])
def test_a_training_goes_on_from_its_checkpoint_on_the_same_and_on_another_layout(tmp_path, kind):
    losses = {}
    for name, stops in {"undisturbed": [(6, "shard=2")], "again": [(3, "shard=2"), (6, "shard=2")],
                        "other": [(3, "shard=2"), (6, "replicate=2")]}.items():
        for steps, layout in stops:
            run_ranks(_trained, 2, str(tmp_path / name), kind, steps, layout)
        losses[name] = [record["loss"] for record in read_jsonl(tmp_path / name / "trace.jsonl")]
    assert len(losses["undisturbed"]) == 6
    assert losses["again"] == losses["undisturbed"]
    assert losses["other"] == pytest.approx(losses["undisturbed"], rel=1e-6)
