"""Who this process is among the others."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from gristmill.core.errors import InternalError, MachineError, UserError
from gristmill.training.parallel.layout import AXES, Layout

TIMEOUT = datetime.timedelta(minutes=30)
"""A collective that waits longer than this ends the run: a process is gone or hangs."""
BEAT, SILENCE = 10.0, 600.0
"""Seconds between two signs of life of a first process that works alone, and without one until it is given up."""
POLL = 0.1
"""Seconds between two looks for them."""
Made = TypeVar("Made")


@dataclass
class World:
    """The processes of a training and the groups that they talk in. One process alone is a world too: everything that
    would talk does nothing then."""

    layout: Layout
    device: torch.device
    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None
    """Of the weights, ("pipeline", "replicate", "shard", "tensor"): `shard` counts the context axis too, whose
    processes hold the same weights and see other tokens. None for one process alone."""
    experts: DeviceMesh | None = None
    """Of the weights of experts, ("pipeline", "replicate", "rest", "expert", "tensor"): `rest` x `expert` are the
    processes of `shard`; those along `rest` and `replicate` hold the same experts. None where they are not spread."""
    places: dict[str, int] | None = None
    """Where this process stands on each axis."""
    groups: dict[str, Any] | None = None
    """Axis, or `tokens`, `updates` or `all`, -> its process group, where it has more than one process. None for one
    process without a process group."""
    imagined: bool = False
    """Whether the others are not there (a dry run): shapes are spread, nothing is computed."""

    @classmethod
    def alone(cls, device: torch.device | str = "cpu") -> World:
        return cls(Layout(), torch.device(device))

    @classmethod
    def join(cls, layout: Layout, device: torch.device) -> World:
        """Join the processes that torchrun started (RANK, WORLD_SIZE, MASTER_ADDR, ...), or use a process group that
        is there. A world of one without torchrun is `alone`. Raises UserError where the layout needs another number."""
        size = dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", 1))
        if size != layout.processes:
            raise UserError(f"the layout {layout.describe()} is for {layout.processes} processes, and there are {size}",
                            where="parallel", fix="start as many with `gristmill launch` (or torchrun), or use "
                                                  "--parallel auto")
        if not dist.is_initialized() and "RANK" not in os.environ:
            return cls(layout, device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT, **_meeting())
        return cls._placed(layout, device)

    @classmethod
    def _placed(cls, layout: Layout, device: torch.device) -> World:
        lengths = [getattr(layout, axis) for axis in AXES]
        ranks = torch.arange(layout.processes).view(lengths)
        mesh = _mesh(device, pipeline=layout.pipeline, replicate=layout.replicate,
                     shard=layout.shard * layout.context, tensor=layout.tensor)
        rank = dist.get_rank()
        places = dict(zip(AXES, (int(place) for place in (ranks == rank).nonzero()[0]), strict=True))
        wanted = {**{axis: (axis,) for axis in AXES}, "tokens": ("replicate", "shard", "context"),
                  "updates": ("pipeline", "replicate", "shard", "context"), "all": AXES}
        groups = {name: _group(ranks, axes) for name, axes in wanted.items()
                  if any(getattr(layout, axis) > 1 for axis in axes)}
        experts = _mesh(device, pipeline=layout.pipeline, replicate=layout.replicate,
                        rest=layout.shard * layout.context // layout.expert, expert=layout.expert,
                        tensor=layout.tensor) if layout.expert > 1 else None
        return cls(layout, device, rank, layout.processes, mesh, experts, places, groups)

    # -- places ----------------------------------------------------------------------------------------------------

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def place(self, axis: str) -> int:
        return 0 if self.places is None else self.places[axis]

    @property
    def data_size(self) -> int:
        """Into how many shares the rows of an update are dealt."""
        return self.layout.replicate * self.layout.shard

    @property
    def data_rank(self) -> int:
        """Which of them this process reads."""
        return self.place("replicate") * self.layout.shard + self.place("shard")

    def group(self, name: str) -> Any:
        """The process group of an axis, of `tokens` (all that see other tokens with the same weights' stage), of
        `updates` (those and the stages of the pipeline) or of `all`. Raises InternalError where this process is the
        only one of it."""
        if self.groups is None or name not in self.groups:
            raise InternalError(f"a process alone has no group {name}")
        return self.groups[name]

    # -- talking ---------------------------------------------------------------------------------------------------

    def sum(self, values: Tensor, group: str = "tokens") -> Tensor:
        """All-reduce `values` in place over a group; returns it."""
        if self.groups is not None and group in self.groups:
            dist.all_reduce(values, group=self.groups[group])
        return values

    def of_stages(self, values: Tensor) -> Tensor:
        """values (n,) of every stage of the pipeline, (stages, n)."""
        rows = values.new_zeros(self.layout.pipeline, len(values))
        rows[self.place("pipeline")] = values
        return self.sum(rows, "pipeline")

    def barrier(self) -> None:
        """Wait for all."""
        if self.groups is not None:
            dist.barrier()

    def tell(self, value: Any) -> Any:
        """What the first process says, on all of them; JSON-ready values."""
        if self.groups is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """What every process says, on all of them, by rank; values that can be pickled."""
        if self.groups is None:
            return [value]
        said: list[Any] = [None] * self.size
        dist.all_gather_object(said, value)
        return said

    def alike(self, make: Callable[[], Made]) -> Made:
        """What `make` gives. A UserError that it raises on some processes is raised on all, which would wait for those;
        its own collectives have to be through by then."""
        made: Any = None
        refused: UserError | None = None
        try:
            made = make()
        except UserError as error:
            refused = error
        for said in self.gather(refused):
            if said is not None:
                raise said
        return made

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """The first process runs the body before the others do: what it caches, they find. They wait for as long as it
        lives, which no collective would. Raises MachineError where it is gone."""
        if self.groups is None:
            yield
            return
        store, key = dist.distributed_c10d._get_default_store(), f"gristmill/first/{next(_turns)}"
        if self.main:
            with _beating(store, key):
                yield
        else:
            _await(store, key)
            yield

    def close(self) -> None:
        """Leave the process group."""
        if self.groups is not None and dist.is_initialized():
            dist.destroy_process_group()


def _meeting() -> dict[str, Any]:
    """Where processes meet that torchrun has started again: its launcher keeps one store over its restarts, in which
    the addresses of dead processes still stand (torch 2.11 to 2.13)."""
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if again == "0" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":  # other launchers may have counted otherwise
        raise UserError("torchrun started this again with the addresses of processes that are gone", where="parallel",
                        fix="set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 where torchrun is started, on every machine")
    store, rank, size = next(iter(dist.rendezvous("env://", timeout=TIMEOUT)))
    return {"store": dist.PrefixStore(f"start {again}", store), "rank": rank, "world_size": size}


_turns = itertools.count()
"""How often the others have waited for the first process; the same number on all of them."""
_THROUGH = "through"


@contextlib.contextmanager
def _beating(store: dist.Store, key: str) -> Iterator[None]:
    """Inside, the value of `key` changes every few seconds; afterwards it is `_THROUGH`."""
    through = threading.Event()

    def beat() -> None:
        for number in itertools.count():
            store.set(key, str(number))
            if through.wait(BEAT):
                return

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        through.set()
        thread.join()
        store.set(key, _THROUGH)


def _await(store: dist.Store, key: str) -> None:
    seen, since = None, time.monotonic()
    while (said := store.get(key) if store.check([key]) else None) != _THROUGH.encode():
        if said != seen:
            seen, since = said, time.monotonic()
        elif time.monotonic() - since > SILENCE:
            raise MachineError(f"the first process, which works for all, has given no sign of life for {SILENCE:.0f} s",
                               where="parallel", fix="its own output says why; what it has done is kept")
        time.sleep(POLL)


_made: dict[Any, Any] = {}
"""Groups and meshes of this process, by what they join; of the process group under `None`."""


def _mesh(device: torch.device, **lengths: int) -> DeviceMesh:
    """The mesh of these axes, outermost first."""
    _forget_others()
    key = (device.type, *lengths.items())
    if key not in _made:
        ranks = torch.arange(math.prod(lengths.values())).view(*lengths.values())
        groups = [_group_along(ranks, (at,)) for at in range(ranks.ndim)]
        _made[key] = DeviceMesh.from_group(groups, device.type, mesh=ranks, mesh_dim_names=tuple(lengths))
    return _made[key]


def _group(ranks: Tensor, axes: tuple[str, ...]) -> Any:
    return _group_along(ranks, tuple(AXES.index(axis) for axis in axes))


def _group_along(ranks: Tensor, axes: tuple[int, ...]) -> Any:
    """This process's group along some axes. Every process makes all groups, in the same order, and each once: a group
    costs connections and a thread, whatever it is called."""
    _forget_others()
    others = [at for at in range(ranks.ndim) if at not in axes]
    rows = ranks.permute(*others, *axes).reshape(-1, math.prod(ranks.shape[at] for at in axes)).tolist()
    if len(rows) == 1 and rows[0] == sorted(rows[0]):
        return dist.group.WORLD
    key = tuple(map(tuple, rows))
    if key not in _made:
        _made[key] = dist.new_subgroups_by_enumeration(rows, timeout=TIMEOUT)[0]
    return _made[key]


def _forget_others() -> None:
    """What was made in a process group that is gone is gone too."""
    if _made.get(None) is not dist.group.WORLD:
        _made.clear()
        _made[None] = dist.group.WORLD
