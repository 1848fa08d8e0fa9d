"""The truth that predictions of activation memory are held against: what autograd really keeps, storage by storage."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from gristmill.models.families import FAMILIES
from gristmill.planning.activations import forward

PROJECTIONS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten._grouped_mm.default}


def small(config: Any) -> Any:
    """A config of the same kind that a CPU runs in no time, wide enough that blocks are most of it."""
    changes: dict[str, Any] = {"vocab_size": 320}
    if config.dim > 256:
        changes |= {"dim": 128, "layers": 2, "heads": 2, "head_dim": 64, "mlp_dim": 512}
    return dataclasses.replace(config, **changes)


class Storages:
    """Storages seen so far, parameters excepted; bytes of each counted once."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.ignored = {p.untyped_storage()._cdata for p in model.parameters()}
        self.seen: dict[int, Any] = {}

    def note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.ignored:
            self.seen[storage._cdata] = storage
        return tensor

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.seen.values())


def really_saved(config: Any, rows: int, time: int, precision: str, mode: str, documents: bool = False) -> int:
    """Bytes that autograd keeps after a real forward pass on the CPU, with torch's own checkpointing."""
    model = FAMILIES[config.family].body(config)
    model.initialise(0)
    model.train()
    storages, caches = Storages(model), []
    for block in model.all_blocks:
        if mode != "none":
            block.forward = _checkpointed(block.forward, mode, caches, storages)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(storages.note, lambda x: x), autocast:
        states = forward(model, rows, time, documents)
    for cache in caches:
        for kept in _tensors(cache.storage):
            storages.note(kept)
    assert states.requires_grad
    return storages.bytes


def _checkpointed(block: Any, mode: str, caches: list[Any], storages: Storages) -> Any:
    def contexts() -> Any:
        if mode == "full":
            return contextlib.nullcontext(), contextlib.nullcontext()
        keeping, replaying = create_selective_checkpoint_contexts(
            lambda context, operation, *args, **kwargs: CheckpointPolicy.MUST_SAVE if operation in PROJECTIONS
            else CheckpointPolicy.PREFER_RECOMPUTE)
        caches.append(keeping)
        return keeping, replaying

    def run(*args: Any, **kwargs: Any) -> Tensor:
        # Tensors inside tuples and keyword arguments are held by the closure, not by the hooks.
        for tensor in _tensors((args, kwargs)):
            storages.note(tensor)
        return checkpoint(block, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return run


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in _tensors(v)]
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in _tensors(v)]
    return _tensors(value.val) if hasattr(value, "val") else []
