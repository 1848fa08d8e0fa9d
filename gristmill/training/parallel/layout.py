"""How many processes stand along each axis."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from gristmill.core.config import config, require
from gristmill.core.errors import UserError

AXES = ("pipeline", "replicate", "shard", "context", "tensor")
"""From the outermost to the innermost: neighbours along the last ones talk most and should share a machine."""


@config
class Layout:
    """A run-time choice: the same training on any layout. The product of the axes is the number of processes."""

    pipeline: int = 1
    """Stages of blocks, one after another (GPipe, arXiv:1811.06965)."""
    replicate: int = 1
    """Whole copies of the model that read other rows (DDP); together with `shard`: HSDP."""
    shard: int = 1
    """Processes that share out weights, gradients and optimizer states, and read other rows (FSDP2; ZeRO-3,
    arXiv:1910.02054)."""
    context: int = 1
    """Processes that share out the tokens of a row; keys and values are gathered (arXiv:2407.21783, 3.3.2)."""
    tensor: int = 1
    """Processes that share out every matrix (Megatron-LM, arXiv:1909.08053)."""
    expert: int = 1
    """How many of the `shard` x `context` processes share out the experts of a layer (arXiv:2006.16668)."""
    schedule: Literal["gpipe", "1f1b", "interleaved", "zero_bubble"] = "1f1b"
    """Order of forward and backward passes of a pipeline."""
    context_method: Literal["all_gather", "ring"] = "all_gather"
    """Beside `context`: every process gathers the keys and values of whole rows, layer by layer; or they travel round
    in a ring and nobody ever holds a row (arXiv:2310.01889): for rows whose keys and values do not fit."""
    sequence: bool = True
    """Beside `tensor`: norms and residuals are shared out over the tokens (arXiv:2205.05198)."""
    offload: bool = False
    """Weights and optimizer states of `shard` wait in the CPU's memory."""

    def __post_init__(self) -> None:
        for name in (*AXES, "expert"):
            require(getattr(self, name) >= 1, name, "must be at least 1")
        require(self.shard * self.context % self.expert == 0, "expert",
                f"must divide shard x context = {self.shard * self.context}")

    @property
    def processes(self) -> int:
        return math.prod(getattr(self, axis) for axis in AXES)

    def check_micro_batches(self, count: int) -> None:
        """Raise UserError where the schedule of a pipeline cannot take `count` micro-batches an update."""
        if self.pipeline == 1:
            return
        where = f"parallel: {self.describe()}"
        fewer = f"(micro-batches = batch / (micro_batch x {self.replicate * self.shard}))"
        if self.schedule == "1f1b" and count < self.pipeline:
            raise UserError(
                f"an update has {count} micro-batches, and 1f1b needs one for each of {self.pipeline} stages",
                where=where, fix=f"lower micro_batch or raise batch {fewer}; or use schedule=gpipe")
        rounds = max(1, count // self.pipeline)
        if self.schedule in ("interleaved", "zero_bubble") and count % rounds:
            below, above = (count // self.pipeline * self.pipeline, -(-count // self.pipeline) * self.pipeline)
            raise UserError(
                f"{count} micro-batches an update do not go round {self.pipeline} processes", where=where,
                fix=f"choose micro_batch so that there are {below} or {above} {fewer}; or use schedule=1f1b")

    def describe(self) -> str:
        """As `parse` reads it: the axes that are longer than 1, and the choices that are not the usual ones."""
        said = [f"{f.name}={_text(getattr(self, f.name))}" for f in dataclasses.fields(self)
                if getattr(self, f.name) != f.default]
        return ",".join(said) or "none"

    @classmethod
    def parse(cls, text: str) -> Layout:
        """`shard=4,tensor=2` -> Layout; `none` is one process. Raises UserError that names the choices."""
        values: dict[str, object] = {}
        kinds: dict[str, type] = {f.name: type(f.default) for f in dataclasses.fields(cls)}
        for part in text.split(",") if text.strip() not in ("", "none") else ():
            name, _, value = (piece.strip() for piece in part.partition("="))
            if name not in kinds:
                raise UserError(f"{name!r} is no axis of a layout", where=f"parallel: {text}",
                                fix=f"use {', '.join(kinds)}, e.g. shard=4,tensor=2; or auto")
            try:
                values[name] = _value(kinds[name], value)
            except ValueError:
                raise UserError(f"{name}={value!r} is not understood", where=f"parallel: {text}",
                                fix=f"give {name} a {'number' if kinds[name] is int else 'true or false'}") from None
        if values.get("schedule", "1f1b") not in ("gpipe", "1f1b", "interleaved", "zero_bubble"):
            raise UserError(f"there is no schedule {values['schedule']!r}", where=f"parallel: {text}",
                            fix="use gpipe, 1f1b, interleaved or zero_bubble")
        if values.get("context_method", "ring") not in ("all_gather", "ring"):
            raise UserError(f"there is no context_method {values['context_method']!r}", where=f"parallel: {text}",
                            fix="use all_gather or ring")
        try:
            return cls(**values)  # type: ignore[arg-type]
        except ValueError as error:
            raise UserError(str(error), where=f"parallel: {text}") from None


def _value(kind: type, text: str) -> object:
    if kind is bool:
        return {"true": True, "false": False}[text.lower()] if text.lower() in ("true", "false") else _refuse(text)
    return int(text) if kind is int else text


def _refuse(text: str) -> object:
    raise ValueError(text)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
