"""What one layout saved, any other reads: weights, optimizer states, and the public folder, bit for bit."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from gristmill.core.errors import GristmillError, MachineError, UserError
from gristmill.models.loading import build, load_model
from gristmill.models.saving import save_model
from gristmill.objectives.causal_lm import CausalLM
from gristmill.training.checkpoints import Checkpoints, store
from gristmill.training.optimizers import OptimizerConfig, build_optimizer
from gristmill.training.parallel import Layout, World
from gristmill.training.parallel.apply import parallelise
from tests.training.parallel.parity import COMPUTE, made, rows, tiny, together, whole
from tests.training.parallel.ranks import RanksFailed, run_ranks, world_of

LAYOUTS = {
    "dense": ["none", "replicate=2", "shard=2", "tensor=2", "pipeline=2", "context=2", "shard=4",
              "replicate=2,shard=2", "shard=2,tensor=2", "tensor=4", "pipeline=2,shard=2", "pipeline=2,tensor=2"],
    "experts": ["none", "shard=2", "shard=2,expert=2", "tensor=2", "pipeline=2", "shard=4,expert=2",
                "replicate=2,shard=2,expert=2"],
}
# Sizes that do not divide by the number of processes: the last shares are smaller, or empty.
CONFIGS = {"dense": tiny(layers=3, vocab_size=64, mlp_dim=48, tied_head=True), "experts": tiny(moe=True, qk_norm=True)}
STEP = 3


def size_of(layout: str) -> int:
    return Layout.parse(layout).processes


def everywhere(function, layout: str, *args: Any) -> list[Any]:
    """`function(layout, *args)` on as many processes as the layout has; one is this process."""
    if layout == "none":
        return [function(0, layout, *args)]
    return run_ranks(function, size_of(layout), layout, *args)


def _world(layout: str) -> World:
    return World.alone() if layout == "none" else world_of(Layout.parse(layout))


def _started(layout: str, kind: str, seed: int = 1) -> tuple[Any, Any, dict[str, Tensor], Any]:
    """World, update, this process's weights by name, and their optimizer."""
    config, world, objective = CONFIGS[kind], _world(layout), CausalLM()
    model = made(config, seed)
    passes = parallelise(model, objective, None, world, COMPUTE)
    optimizer = build_optimizer(model, OptimizerConfig(kind="adamw", learning_rate=0.01))
    names = {parameter: name for name, parameter in model.named_parameters()}

    def update(step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"]
        together(passes, objective, rows(config, seed=step), world, micro=2)
        optimizer.step()
        optimizer.zero_grad()

    weights = dict(model.named_parameters()) | {
        name: buffer for name, buffer in model.named_buffers() if name in model.state_dict()}
    return world, update, weights, (optimizer, names)


def _digits(tensors: dict[str, Tensor]) -> dict[str, list[float]]:
    """Whole tensors, so that results of processes can be compared; all take part."""
    return {name: whole(tensor).double().flatten().tolist() for name, tensor in tensors.items()}


def _save(rank: int, layout: str, kind: str, folder: str, asynchronous: bool = False) -> dict[str, list[float]]:
    """Two updates and a checkpoint; returns the weights that it holds, as this process knows them."""
    world, update, weights, (optimizer, names) = _started(layout, kind)
    update(1)
    update(2)
    checkpoints = Checkpoints(folder, world, asynchronous=asynchronous)
    checkpoints.save(STEP, {"model": weights, "optimizer": optimizer.tensors(names)}, {"tokens": 7},
                     overlap=asynchronous)
    kept = _digits(weights | optimizer.tensors(names))
    checkpoints.staged()
    update(3)  # changes what was saved, while an asynchronous one is written
    checkpoints.close()
    return kept


def _load(rank: int, layout: str, kind: str, folder: str) -> dict[str, list[float]]:
    """Read it into other weights and an optimizer that has not stepped, and save what came of it."""
    world, update, weights, (optimizer, names) = _started(layout, kind, seed=9)
    checkpoints = Checkpoints(folder, world)
    found = checkpoints.newest()
    assert found is not None
    assert (found.step, found.state) == (STEP, {"tokens": 7})
    state = checkpoints.empty(found, "optimizer", {name: p for p, name in names.items()})
    checkpoints.load_into(found, {"model": weights, "optimizer": state})
    optimizer.load_tensors(state, names)
    kept = _digits(weights | optimizer.tensors(names))
    update(3)  # the state is one that an optimizer can go on with
    Checkpoints(f"{folder}-again", world).save(STEP, {"model": weights, "optimizer": optimizer.tensors(names)}, {})
    return kept


def joined(results: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """What all processes know together; where two know the same tensor, they know the same numbers."""
    found: dict[str, list[float]] = {}
    for result in results:
        for name, numbers in result.items():
            assert found.setdefault(name, numbers) == numbers, name
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Layout, kind -> folder and content of what it saved."""
    kept: dict[tuple[str, str], tuple[str, dict[str, list[float]]]] = {}

    def save(layout: str, kind: str) -> tuple[str, dict[str, list[float]]]:
        if (layout, kind) not in kept:
            folder = str(tmp_path_factory.mktemp("saved"))
            kept[layout, kind] = folder, joined(everywhere(_save, layout, kind, folder, layout != "none"))
        return kept[layout, kind]

    return save


PAIRS = [(kind, one, other) for kind, layouts in LAYOUTS.items() for one, other in itertools.product(layouts, layouts)]
DAILY = [(kind, layout, layouts[(at + 5) % len(layouts)]) for kind, layouts in LAYOUTS.items()
         for at, layout in enumerate(layouts)]
"""Each layout as writer and as reader; the rest in `make verify`."""


@pytest.mark.parametrize(("kind", "one", "other"), [
    pytest.param(*pair, marks=[] if pair in DAILY else pytest.mark.verify, id="-".join(pair)) for pair in PAIRS])
def test_every_layout_reads_every_other_one(saved, kind, one, other):
    folder, content = saved(one, kind)
    shutil.rmtree(f"{folder}-again", ignore_errors=True)
    assert joined(everywhere(_load, other, kind, folder)) == content
    again, before = (Checkpoints(place, World.alone()) for place in (f"{folder}-again", folder))
    found = again.newest()
    assert set(found.index) == set(before.newest().index)
    assert found.layout == Layout.parse(other).describe()


@pytest.mark.parametrize(("kind", "layout"), [(kind, layout) for kind in LAYOUTS for layout in LAYOUTS[kind]])
def test_every_layout_becomes_a_public_folder_of_the_same_weights(saved, tmp_path, kind, layout):
    folder, content = saved(layout, kind)
    checkpoints = Checkpoints(folder, World.alone())
    weights = checkpoints.read(checkpoints.newest(), "model")
    save_model(build(CONFIGS[kind], weights), tmp_path)
    public = load_model(tmp_path).state_dict()
    compared = [name for name in public if name in content]
    assert len(compared) > 15
    for name in compared:
        assert public[name].double().flatten().tolist() == content[name], name
    assert not set(dict(made(CONFIGS[kind]).named_parameters())) - set(weights)
    assert not [path for path in Path(folder).rglob("*") if path.suffix not in ("", ".json", ".safetensors")]


def test_work_is_shared_out_and_nothing_is_written_twice(saved):
    for layout in ("replicate=2", "replicate=2,shard=2", "tensor=2"):
        folder, _ = saved(layout, "dense")
        state = json.loads((Path(folder) / f"step-{STEP:08d}" / "state.json").read_text())
        sizes = [about["bytes"] for name, about in state["files"].items() if name.startswith("optimizer")]
        assert len(sizes) == size_of(layout)
        assert max(sizes) < 1.5 * min(sizes), sizes
        whole_folder, _ = saved("none", "dense")
        alone = (Path(whole_folder) / f"step-{STEP:08d}" / "optimizer.safetensors").stat().st_size
        assert sum(sizes) < 1.2 * alone + 30_000, sizes


# -- shapes that no model here has -------------------------------------------------------------------------------------

SHAPES = [(5,), (1,), (3, 4), (4, 3), (7, 5), (1, 9), (2, 2, 3), (0, 4), ()]


def _placements(shape: tuple[int, ...]) -> list[list[Any]]:
    one = [Replicate(), *(Shard(d) for d in range(len(shape)))]
    return [list(pair) for pair in itertools.product(one, one)]


def _uneven(rank: int, folder: str) -> int:
    """Every placement on a mesh of 2 x 2 into every other one; shapes that do not divide."""
    mesh = init_device_mesh("cpu", (2, 2))
    tried = 0
    for number, shape in enumerate(SHAPES):
        data = torch.arange(1, 1 + max(1, torch.Size(shape).numel()), dtype=torch.float32)[:torch.Size(shape).numel()]
        data = data.view(shape)
        every = {f"t{at}": distribute_tensor(data, mesh, placements)
                 for at, placements in enumerate(_placements(shape))}
        world = world_of(Layout(shard=2, tensor=2))
        checkpoints = Checkpoints(f"{folder}/{number}", world, asynchronous=number % 2 > 0)
        checkpoints.save(1, {"model": every}, {})
        found = checkpoints.newest()
        for turn in range(len(every)):
            other = list(every.values())[turn:] + list(every.values())[:turn]
            into = {f"t{at}": torch.zeros_like(tensor) for at, tensor in enumerate(other)}
            checkpoints.load_into(found, {"model": into})
            for tensor in into.values():
                assert torch.equal(tensor.full_tensor(), data), (shape, turn)
                tried += 1
        assert torch.equal(checkpoints.read(found, "model")["t0"], data)
        checkpoints.close()
    return tried


def test_shares_that_are_uneven_or_empty(tmp_path):
    assert min(run_ranks(_uneven, 4, str(tmp_path))) > 500


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def _content(rank: int, world: World, number: float) -> dict[str, dict[str, Tensor]]:
    assert world.mesh is not None
    data = torch.full((6, 2), number)
    return {"model": {"whole": data.clone(), "cut": distribute_tensor(data, world.mesh["shard"], [Shard(0)]),
                      f"only.{rank}": torch.full((2,), number + rank)}}


def _one_is_damaged(rank: int, folder: str) -> tuple[int, float, list[int]]:
    world = world_of(Layout(shard=2))
    checkpoints = Checkpoints(folder, world, keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, _content(rank, world, step), {"tokens": step})
    if rank == 1:
        victim = Path(folder) / "step-00000003" / "model-00001-of-00002.safetensors"
        victim.write_bytes(victim.read_bytes()[:-1] + b"!")
        (Path(folder) / "step-00000002" / "state.json").unlink()
    dist.barrier()
    found = checkpoints.newest()
    into = _content(rank, world, 0)
    checkpoints.load_into(found, into)
    checkpoints.save(2, _content(rank, world, 2), {})
    return found.step, float(into["model"]["cut"].full_tensor().sum()), checkpoints.store.steps()


def test_all_processes_pass_over_the_same_damage(tmp_path):
    assert run_ranks(_one_is_damaged, 2, str(tmp_path)) == [(1, 12.0, [1, 2])] * 2


def _names_do_not_fit(rank: int, folder: str) -> list[str]:
    world = world_of(Layout(shard=2))
    checkpoints = Checkpoints(folder, world)
    checkpoints.save(1, _content(rank, world, 1), {})
    found, told = checkpoints.newest(), []
    for name, shape in (("missing", (2,)), ("whole", (7, 2))):
        into = _content(rank, world, 0)
        if rank == 1:
            into["model"][name] = torch.zeros(shape)
        try:
            checkpoints.load_into(found, into)
        except UserError as error:
            told.append(error.what)
    into = _content(rank, world, 0)
    if rank == 1:
        del into["model"]["only.1"]
    try:
        checkpoints.load_into(found, into)
    except UserError as error:
        told.append(error.what)
    return told


def test_what_one_process_asks_wrongly_all_are_told(tmp_path):
    one, other = run_ranks(_names_do_not_fit, 2, str(tmp_path))
    assert one == other
    assert "model/missing is not in the checkpoint" in one[0]
    assert "(7, 2) here" in one[1]
    assert "model/only.1 of the checkpoint is not asked for" in one[2]


def _disk_of_one_is_full(rank: int, folder: str, asynchronous: bool, where: str) -> tuple[list[str], list[int], float]:
    world = world_of(Layout(shard=2))
    checkpoints = Checkpoints(folder, world, asynchronous=asynchronous)
    checkpoints.save(1, _content(rank, world, 1), {})
    checkpoints.wait()
    kept, told = getattr(store.Disk, where), []

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    if rank == (1 if where == "writing" else 0):
        setattr(store.Disk, where, full)
    try:
        checkpoints.save(2, _content(rank, world, 2), {})
        checkpoints.wait()
    except GristmillError as error:
        told = [type(error).__name__, error.what]
    finally:
        setattr(store.Disk, where, kept)
    found = checkpoints.newest()
    into = _content(rank, world, 0)
    checkpoints.load_into(found, into)
    checkpoints.save(3, _content(rank, world, 3), {})
    checkpoints.close()
    return told, [found.step, *checkpoints.store.steps()], float(into["model"]["cut"].full_tensor().sum())


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("where", ["writing", "begin", "commit"])
def test_one_full_disk_is_told_to_all_and_leaves_the_one_before(tmp_path, asynchronous, where):
    assert run_ranks(_disk_of_one_is_full, 2, str(tmp_path), asynchronous, where) == [
        ([MachineError.__name__, "the disk is full"], [1, 1, 3], 12.0)] * 2


def _not_shared(rank: int, folder: str) -> str:
    try:
        checkpoints = Checkpoints(Path(folder) / str(rank), world_of(Layout(shard=2)))
        (Path(folder) / str(rank) / ".step-00000001.tmp").mkdir(parents=True, exist_ok=True)
        checkpoints.store.begin = lambda step: None  # type: ignore[method-assign]
        checkpoints.save(1, _content(rank, world_of(Layout(shard=2)), 1), {})
    except MachineError as error:
        return error.fix or ""
    return "it was saved"


def test_folders_that_only_one_machine_sees_are_noticed(tmp_path):
    assert run_ranks(_not_shared, 2, str(tmp_path)) == ["keep runs on storage that all machines share"] * 2
    assert Checkpoints(tmp_path / "0", World.alone()).newest() is None


def _killed_while_writing(rank: int, folder: str, victim: int) -> None:
    world = world_of(Layout(shard=2))
    checkpoints = Checkpoints(folder, world)
    checkpoints.save(1, _content(rank, world, 1), {"tokens": 1})
    if rank == victim:
        store.Disk.writing = lambda *args: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    checkpoints.save(2, _content(rank, world, 2), {"tokens": 2})


def _found(rank: int, folder: str) -> tuple[int, float]:
    world = world_of(Layout(shard=2))
    checkpoints = Checkpoints(folder, world)
    found = checkpoints.newest()
    into = _content(rank, world, 0)
    checkpoints.load_into(found, into)
    return found.step, float(into["model"]["cut"].full_tensor().sum())


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_killed_while_it_writes_leaves_the_one_before(tmp_path, victim):
    with pytest.raises(RanksFailed, match=f"rank {victim}: the process died"):
        run_ranks(_killed_while_writing, 2, str(tmp_path), victim, fresh=True)
    assert (tmp_path / ".step-00000002.tmp").is_dir()  # it was under way
    assert run_ranks(_found, 2, str(tmp_path)) == [(1, 12.0)] * 2


def test_a_dtensor_comes_back_as_it_is(tmp_path):
    assert run_ranks(_kinds, 2, str(tmp_path)) == [[True, True]] * 2


def _kinds(rank: int, folder: str) -> list[bool]:
    """A state that does not exist yet is laid out like its parameter."""
    world = world_of(Layout(shard=2))
    checkpoints = Checkpoints(folder, world)
    parameter = _content(rank, world, 1)["model"]["cut"]
    checkpoints.save(1, {"optimizer": {"cut/average": parameter.half(), "cut/step": torch.tensor(2.0)}}, {})
    found = checkpoints.newest()
    state = checkpoints.empty(found, "optimizer", {"cut": parameter})
    checkpoints.load_into(found, {"optimizer": state})
    average = state["cut/average"]
    return [isinstance(average, DTensor) and average.placements == parameter.placements
            and average.dtype == torch.float16 and float(average.to_local().sum()) == 6.0,
            not isinstance(state["cut/step"], DTensor) and float(state["cut/step"]) == 2.0]
