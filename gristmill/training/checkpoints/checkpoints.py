"""The checkpoints of a run: saved, kept, found again, and read into whatever layout asks."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor

from gristmill.core.config import require
from gristmill.core.errors import MachineError, UserError
from gristmill.core.files import disk_errors
from gristmill.core.hashing import canonical_json
from gristmill.training.checkpoints.format import INDEX, Index, read_index, read_state
from gristmill.training.checkpoints.reader import Reader
from gristmill.training.checkpoints.staging import Staging
from gristmill.training.checkpoints.store import STATE, Store, open_store
from gristmill.training.checkpoints.writer import Planner, Writer
from gristmill.training.parallel.world import TIMEOUT, World

T = TypeVar("T")
Tensors = Mapping[str, Mapping[str, Tensor]]
"""Group -> name -> tensor. Of a DTensor each process has its part; of a plain tensor all that name it have the same."""

READING_THREADS = 4
NAMED = 6
"""How many names a message shows."""


@dataclass
class Found:
    """A checkpoint whose checksums hold."""

    step: int
    """Updates done."""
    state: dict[str, Any]
    """What `save` was given."""
    layout: str
    """Of the processes that wrote it."""
    processes: int
    where: str
    files: dict[str, Any] = field(repr=False)
    index: Index = field(repr=False)
    passed_over: list[str] = field(default_factory=list)
    """What is wrong with newer ones."""

    @property
    def groups(self) -> list[str]:
        return sorted({name.partition("/")[0] for name in self.index})

    def names(self, group: str) -> list[str]:
        """Of the tensors of a group, in any process."""
        return [name.partition("/")[2] for name in self.index if name.partition("/")[0] == group]


class Checkpoints:
    """Checkpoints `step-N` in a folder, or behind a URL that fsspec reads. Made, and called, by all processes alike.

    keep: the newest so many stay. keep_every: a step that it divides stays for good. asynchronous: `save` returns once
    the tensors are copied, and a thread writes; at most one is on its way, and what went wrong is raised by the next
    call. Raises UserError for storage that cannot be reached.
    """

    def __init__(self, folder: Path | str, world: World, keep: int = 2, keep_every: int | None = None,
                 asynchronous: bool = False) -> None:
        require(keep >= 1, "keep", "must be at least 1")
        require(keep_every is None or keep_every >= 1, "keep_every", "must be at least 1")
        self.store: Store = open_store(folder)
        self.place = str(folder)
        self.world, self.keep, self.keep_every, self.asynchronous = world, keep, keep_every, asynchronous
        # A group of its own: what the thread says must not come between what the training says.
        self.group = None if world.groups is None else dist.new_group(backend="gloo", timeout=TIMEOUT)
        self.staging = Staging()
        self._worker: ThreadPoolExecutor | None = None
        self._copying: Future | None = None
        self._saving: Future | None = None
        if self.group is None:
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")

    # -- saving --------------------------------------------------------------------------------------------------------

    def permanent(self, step: int) -> bool:
        """Whether the checkpoint of this step is kept for good."""
        return self.keep_every is not None and step % self.keep_every == 0

    def save(self, step: int, tensors: Tensors, state: Mapping[str, Any], overlap: bool = False) -> None:
        """Write `step-N`, then drop what is no longer kept. Raises what the one before failed with.

        tensors: this process's; stages of a pipeline give the names that they have. state: JSON-ready, the first
        process's counts. overlap: asynchronously, even the copying goes on after the return, and the caller calls
        `staged` before it changes a tensor. Raises MachineError where the disk is full.
        """
        self.wait()
        flat = {f"{group}/{name}": tensor.detach() for group, named in tensors.items()
                for name, tensor in named.items()}
        canonical_json(dict(state))
        kept = copy.deepcopy(dict(state))
        if not self.asynchronous:
            self._write(step, flat, None, kept)
            return
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "checkpoint")
        # A copy that a GPU makes is only asked for here; one that this processor makes would hold up the training.
        if overlap and all(tensor.device.type == "cpu" for tensor in flat.values()):
            self._copying = self._worker.submit(self.staging.copy, flat)
        else:
            self._copying = _done(lambda: self.staging.copy(flat))
        self._saving = self._worker.submit(self._write, step, flat, self._copying, kept)

    def staged(self) -> None:
        """Wait until the tensors of the last `save` may change."""
        if self._copying is not None:
            self._copying.exception()  # raised for all processes by `wait`
            self.staging.allow()
            self._copying = None

    def wait(self) -> None:
        """Wait for what a thread writes. Raises what it failed with."""
        self.staged()
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def close(self) -> None:
        """`wait`, and give back the thread and the buffers; another `save` makes them anew."""
        try:
            self.wait()
        finally:
            if self._worker is not None:
                self._worker.shutdown()
            self._worker, self.staging = None, Staging()

    def _write(self, step: int, tensors: dict[str, Tensor], copies: Future | None, state: dict[str, Any]) -> None:
        about = {"processes": self.world.size, "layout": self.world.layout.describe(), "state": state}
        writer = Writer(self.store, step, about, self.world.rank, self.world.size, self._drop)
        planner = Planner(None if copies is None else lambda: self._copied(copies))
        self._run(self.store.where(step), lambda: dcp.save(
            tensors, storage_writer=writer, planner=planner, process_group=self.group, no_dist=self.group is None))

    def _copied(self, copies: Future) -> dict[str, Tensor]:
        found = copies.result()
        self.staging.finish()
        return found

    def _drop(self, step: int) -> None:
        steps = self.store.steps()
        newest = [known for known in steps if known <= step][-self.keep:]
        for known in steps:
            # What is newer than this one was found to be damaged, or the run would have gone on from it.
            if known > step or (known not in newest and not self.permanent(known)):
                self.store.remove(known)

    # -- finding -------------------------------------------------------------------------------------------------------

    def newest(self) -> Found | None:
        """The newest checkpoint whose checksums hold, the same on all processes, or None where there is none; damaged
        ones are passed over. Raises UserError where all of them are damaged, MachineError where storage does not
        answer: what cannot be read now is not taken for damaged, since the next `save` would delete it."""
        self.wait()
        damaged: list[UserError] = []
        with _storage_errors(self.place):
            steps = self._first(self.store.steps)
        for step in reversed(steps):
            try:
                found = self._checked(step)
            except UserError as error:
                damaged.append(error)
            else:
                found.passed_over = [f"{error.where}: {error.what}" for error in damaged]
                return found
        if damaged:
            raise damaged[0]
        return None

    def _checked(self, step: int) -> Found:
        about = self._first(lambda: self._state(step))
        files: dict[str, Any] = about["files"]
        largest = sorted(files, key=lambda name: (-files[name]["bytes"], name))
        mine = largest[self.world.rank::self.world.size]
        with ThreadPoolExecutor(READING_THREADS) as threads:
            looks = dict(zip(mine, threads.map(
                lambda name: _done(lambda: self.store.digest(step, name)), mine), strict=True))
        unread = [(name, repr(error)) for name, look in looks.items() if (error := look.exception()) is not None]
        bad = [name for name, look in looks.items() if not look.exception() and look.result() != files[name]["sha256"]]
        everybody = self._all((unread, bad))
        for name, why in sorted(pair for pairs, _ in everybody for pair in pairs):
            raise _fails(why, self.store.where(step, name))
        for name in sorted(name for _, names in everybody for name in names):
            raise UserError("this checkpoint file is damaged or missing", where=self.store.where(step, name),
                            fix="delete the checkpoint's folder; training goes on from an older one or from the start")
        where = self.store.where(step, INDEX)
        index = read_index(bytes(self.store.read(step, INDEX, 0, files[INDEX]["bytes"]).numpy()), where)
        return Found(step, about["state"], about["layout"], about["processes"], self.store.where(step), files, index)

    def _state(self, step: int) -> dict[str, Any]:
        where = self.store.where(step, STATE)
        try:
            with _storage_errors(where):
                data = self.store.state(step)
        except FileNotFoundError as error:
            raise UserError("this checkpoint file is missing", where=where) from error
        return read_state(data, where)

    # -- reading -------------------------------------------------------------------------------------------------------

    def load_into(self, found: Found, tensors: Tensors) -> None:
        """Fill tensors in place, whatever layout wrote them. Of each group named here every tensor must be asked for
        by some process. Raises UserError, on all processes alike, where names, shapes or types do not fit."""
        self.wait()
        flat = {f"{group}/{name}": tensor.detach() for group, named in tensors.items()
                for name, tensor in named.items()}
        wrong = [f"{name} is not in the checkpoint" for name in flat if name not in found.index]
        for name, tensor in flat.items():
            entry = found.index.get(name)
            if entry is not None and (tuple(tensor.shape), tensor.dtype) != (entry.shape, entry.dtype):
                wrong.append(f"{name} is {_kind(entry.shape, entry.dtype)} in the checkpoint and "
                             f"{_kind(tuple(tensor.shape), tensor.dtype)} here")
        everybody = self._all((wrong, sorted(flat), sorted(tensors)))
        problems = sorted({line for lines, _, _ in everybody for line in lines})
        asked = {name for _, names, _ in everybody for name in names}
        groups = {group for _, _, names in everybody for group in names}
        problems += [f"{name} of the checkpoint is not asked for" for name in sorted(found.index)
                     if name.partition("/")[0] in groups and name not in asked]
        if problems:
            raise UserError("; ".join(problems[:NAMED]) + (f"; and {len(problems) - NAMED} more"
                                                           if len(problems) > NAMED else ""), where=found.where,
                            fix="go on with the model and optimizer that wrote it, or train anew in another folder")
        self._run(found.where, lambda: dcp.load(
            flat, storage_reader=Reader(self.store, found.step, found.index), process_group=self.group,
            no_dist=self.group is None,
            planner=dcp.DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)))

    def empty(self, found: Found, group: str, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors to load a group into that does not exist here yet, such as an optimizer's state before its first
        step: of names `parameter` or `parameter/quantity`. What has its parameter's shape is laid out like it; the rest
        is whole. Names of parameters that this process does not have are left out."""
        made = {}
        for name in found.names(group):
            like = parameters.get(name, parameters.get(name.rpartition("/")[0]))
            entry = found.index[f"{group}/{name}"]
            if like is not None and tuple(like.shape) == entry.shape:
                made[name] = torch.empty_like(like, dtype=entry.dtype, requires_grad=False)
            elif like is not None:
                made[name] = torch.empty(entry.shape, dtype=entry.dtype)
        return made

    def read(self, found: Found, group: str) -> dict[str, Tensor]:
        """Whole tensors of a group in the CPU's memory, for one process alone: nobody else takes part."""
        reader = Reader(self.store, found.step, found.index)
        return {name: reader.whole(found.index[f"{group}/{name}"]) for name in found.names(group)}

    # -- among processes -----------------------------------------------------------------------------------------------

    def _first(self, ask: Callable[[], T]) -> T:
        """What the first process finds, or raises, on all of them."""
        if self.group is None:
            return ask()
        box: list[Any] = [_done(ask) if self.world.main else None]
        if self.world.main:
            error = box[0].exception()
            box = [(None, error) if error else (box[0].result(), None)]
        dist.broadcast_object_list(box, src=0, group=self.group)
        value, error = box[0]
        if error is not None:
            raise error
        return value

    def _all(self, value: T) -> list[T]:
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.world.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    @staticmethod
    def _run(where: str, work: Callable[[], Any]) -> None:
        try:
            work()
        except dcp.CheckpointException as error:
            failures = [failure for _, (failure, _) in sorted(error.failures.items())]
            failures.sort(key=lambda failure: not isinstance(failure, OSError))  # what is told best comes first
            with _storage_errors(where):
                raise failures[0] from error


def _done(work: Callable[[], Any]) -> Future:
    """The outcome of `work`, as one that a thread would leave."""
    outcome: Future = Future()
    try:
        outcome.set_result(work())
    except BaseException as error:
        outcome.set_exception(error)
    return outcome


@contextlib.contextmanager
def _storage_errors(where: str) -> Iterator[None]:
    """Turn what storage fails with, but for a missing file, into a MachineError that says where."""
    try:
        with disk_errors(where):
            yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _fails(repr(error), where) from error


def _fails(error: str, where: str) -> MachineError:
    return MachineError(f"this storage fails ({error})", where=where,
                        fix="see to that, then run the same command again: training goes on from the last checkpoint")


def _kind(shape: tuple[int, ...], dtype: torch.dtype) -> str:
    return f"{str(dtype).removeprefix('torch.')} {shape}"
