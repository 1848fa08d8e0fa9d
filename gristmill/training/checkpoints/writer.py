"""Writing through torch.distributed.checkpoint: its planner shares out what several processes hold twice, and this
writes each process's part as safetensors.

torch's own writers are not used: `FileSystemWriter` leaves a pickle behind, `HuggingFaceStorageWriter` builds every
file in memory first and keeps no whole shapes, so that a lost file is not noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint import DefaultSavePlanner, Metadata, SavePlan, SavePlanner, StorageWriter
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import WriteItem
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from gristmill.core.errors import MachineError
from gristmill.training.checkpoints.format import (
    INDEX,
    Entry,
    File,
    Index,
    Place,
    header,
    piece_name,
    raw,
    write_index,
    write_state,
)
from gristmill.training.checkpoints.store import Store


class Planner(DefaultSavePlanner):
    """Plans from the live tensors, whose layout says which piece this process has, and gives the bytes of `staged`
    copies where there are any: those are plain tensors in the CPU's memory."""

    def __init__(self, staged: Callable[[], Mapping[str, Tensor]] | None = None) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.staged = staged
        self.copies: Mapping[str, Tensor] | None = None

    def create_local_plan(self) -> SavePlan:
        if self.staged is not None:
            self.copies = self.staged()  # here a failure is told to all processes
        return super().create_local_plan()

    def resolve_data(self, write_item: WriteItem) -> Any:
        return super().resolve_data(write_item) if self.copies is None else self.copies[write_item.index.fqn]


@dataclass(frozen=True)
class Piece:
    """What a process tells the first one of a piece that it wrote."""

    place: Place
    file: File


class Writer(StorageWriter):
    """One checkpoint. One file a group and process; the first process writes the index, and the state last."""

    def __init__(self, store: Store, step: int, about: Mapping[str, Any], rank: int, size: int,
                 drop: Callable[[int], None]) -> None:
        self.store, self.step, self.about, self.rank, self.size, self.drop = store, step, about, rank, size, drop

    # -- what torch.distributed.checkpoint asks, in this order --------------------------------------------------------

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        self.store.begin(self.step)  # on the first process, before any other one writes
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        groups: dict[str, list[WriteItem]] = {}
        for item in plan.items:
            groups.setdefault(item.index.fqn.partition("/")[0], []).append(item)
        written = [result for group, items in groups.items() for result in self._write(group, items, planner)]
        done: Future[list[WriteResult]] = Future()
        done.set_result(written)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        pieces: dict[MetadataIndex, Piece] = {r.index: r.storage_data for part in results for r in part}
        index: Index = {}
        for name, tensor in metadata.state_dict_metadata.items():
            chunks = tensor.chunks  # type: ignore[union-attr]
            index[name] = Entry(tensor.properties.dtype, tuple(tensor.size), [  # type: ignore[union-attr]
                (tuple(c.offsets), tuple(c.sizes), pieces[MetadataIndex(name, c.offsets)].place) for c in chunks])
        files = {piece.file.name: piece.file for piece in pieces.values()}
        for file in files.values():
            seen = self.store.written(self.step, file.name)
            if seen != file.bytes:
                raise MachineError(f"another process wrote {file.bytes} bytes, and the first one sees {max(seen, 0)}",
                                   where=self.store.where(self.step, file.name),
                                   fix="keep runs on storage that all machines share")
        data = write_index(index)
        with self.store.writing(self.step, INDEX) as out:
            out.write(data)
        files[INDEX] = File(INDEX, len(data), sha256(data).hexdigest())
        self.store.commit(self.step, write_state({**self.about, "step": self.step, "files": {
            file.name: {"bytes": file.bytes, "sha256": file.sha256}
            for file in sorted(files.values(), key=lambda file: file.name)}}))
        self.drop(self.step)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True

    # -- a file --------------------------------------------------------------------------------------------------------

    def _write(self, group: str, items: list[WriteItem], planner: SavePlanner) -> list[WriteResult]:
        file = f"{group}.safetensors" if self.size == 1 else f"{group}-{self.rank:05d}-of-{self.size:05d}.safetensors"
        tensors: list[tuple[WriteItem, Tensor]] = []
        for item in items:
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor), item.index  # `save` takes nothing else
            tensors.append((item, tensor))
        tensors.sort(key=lambda pair: -pair[1].element_size())
        named = []
        for item, tensor in tensors:
            about = item.tensor_data
            assert about is not None, item.index
            name = piece_name(item.index.fqn.partition("/")[2], about.chunk.offsets, about.chunk.sizes, about.size)
            named.append((name, tensor))
        head, begins = header(named)
        total, found = len(head), sha256(head)
        with self.store.writing(self.step, file) as out, ThreadPoolExecutor(1) as hashing:
            out.write(head)
            hashed = None
            for _, tensor in tensors:
                data = raw(tensor.cpu())
                total += len(data)
                if hashed is not None:
                    hashed.result()  # so that no more than two pieces wait in memory
                hashed = hashing.submit(found.update, data)
                out.write(data)
            if hashed is not None:
                hashed.result()
        described = File(file, total, found.hexdigest())
        return [WriteResult(item.index, tensor.nbytes, Piece(Place(file, begin), described))
                for (item, tensor), begin in zip(tensors, begins, strict=True)]
