"""Reading through torch.distributed.checkpoint: its planner says which stretches of which pieces make up what a process
holds now, and this copies them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import LoadPlan, LoadPlanner, Metadata, StorageReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.futures import Future

from gristmill.training.checkpoints.format import Entry, Index, Place
from gristmill.training.checkpoints.store import Store


class Reader(StorageReader):
    """One checkpoint whose checksums were found to hold."""

    def __init__(self, store: Store, step: int, index: Index) -> None:
        self.store, self.step, self.index = store, step, index
        self.places: dict[MetadataIndex, tuple[Place, tuple[int, ...], torch.dtype]] = {}

    # -- what torch.distributed.checkpoint asks, in this order --------------------------------------------------------

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def read_metadata(self, *args: Any) -> Metadata:
        tensors: dict[str, Any] = {}
        for name, entry in self.index.items():
            chunks = []
            for offsets, sizes, place in entry.pieces:
                chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
                self.places[MetadataIndex(name, torch.Size(offsets))] = place, sizes, entry.dtype
            tensors[name] = TensorStorageMetadata(TensorProperties(dtype=entry.dtype), torch.Size(entry.shape), chunks)
        return Metadata(tensors)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in plan.items:
            place, sizes, dtype = self.places[MetadataIndex(item.storage_index.fqn, item.storage_index.offset)]
            target = planner.resolve_tensor(item).detach()
            if target.numel():
                target.copy_(self._stretch(place, sizes, dtype, item.storage_offsets, item.lengths))
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True

    # -- tensors -------------------------------------------------------------------------------------------------------

    def whole(self, entry: Entry) -> Tensor:
        """A tensor put together on the CPU."""
        out = torch.empty(entry.shape, dtype=entry.dtype)
        for offsets, sizes, place in entry.pieces:
            target = out
            for dimension, (first, length) in enumerate(zip(offsets, sizes, strict=True)):
                target = target.narrow(dimension, first, length)
            if target.numel():
                target.copy_(self._stretch(place, sizes, entry.dtype, (0,) * len(sizes), sizes))
        return out

    def _stretch(self, place: Place, sizes: tuple[int, ...], dtype: torch.dtype, offsets: Any,
                 lengths: Any) -> Tensor:
        """A box out of a piece; of the first dimension only what is asked for is read."""
        first, rows = (offsets[0], lengths[0]) if sizes else (0, 1)
        row = math.prod(sizes[1:]) * dtype.itemsize
        begin = place.begin + first * row
        data = self.store.read(self.step, place.file, begin, begin + rows * row).view(dtype)
        if not sizes:
            return data.view(())
        data = data.view(rows, *sizes[1:])
        for dimension in range(1, len(sizes)):
            data = data.narrow(dimension, offsets[dimension], lengths[dimension])
        return data
