"""Where a loss or a gradient that is not finite comes from: the layer, the micro-batch, the row and its documents.

Nothing here runs while all is well. When a number is found to be bad, the update is run again with hooks, once forward
and, where that is fine, once backward.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gristmill.core.errors import UserError
from gristmill.objectives.base import Batch
from gristmill.training.accumulate import Accumulation
from gristmill.training.compile import eager

ROWS = 64
"""So many rows of a bad micro-batch are tried one by one."""
NAMED = 5
"""So many names stand in a message."""


@dataclass(frozen=True)
class Finding:
    """What the second run of an update showed."""

    weights: Sequence[str] = ()
    """Parameters that are themselves not finite; what follows from them is not searched."""
    place: str | None = None
    """Where the first bad number appeared; None if the second run was fine."""
    micro_batch: int = 0
    rows: Sequence[int] = ()
    """Rows of the micro-batch that give it by themselves; empty where all do, or none."""

    def sentence(self, micro_batches: int, documents: Sequence[str] = ()) -> str:
        """For an error message; documents: of the first of `rows`."""
        if self.weights:
            return f"Weights are not finite: {_some(self.weights)}; an earlier step broke them."
        if self.place is None:
            return "A second run of the same update was finite: memory or a kernel gave another result."
        parts = [f"First not finite: {self.place}, in micro-batch {self.micro_batch + 1} of {micro_batches}."]
        if self.rows:
            own = f", which holds {_some(documents)}" if documents else ""
            parts.append(f"Row {self.rows[0] + 1} of it gives this alone{own}.")
        return " ".join(parts)


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def find(model: nn.Module, loss: Callable[[Batch], Tensor], window: Sequence[Batch], *, alone: bool = True,
         begin: Callable[[], object] = lambda: None) -> Finding:
    """Run the micro-batches of `window` again, hooked, and say where the first number that is not finite appears.

    model: whose parts are named. loss: what is minimised of a micro-batch on the model's device, with its graph. alone:
    whether this process can run what it likes; where several run a model together, each runs every micro-batch
    forward, once, and no more. begin: called before each round, to draw the same random numbers. Gradients are gone
    afterwards.
    """
    broken = [name for name, parameter in model.named_parameters() if not _finite(parameter)]
    if broken and alone:
        return Finding(weights=broken)
    with eager(model):
        begin()
        found: Finding | None = None
        for number, batch in enumerate(window):
            with torch.no_grad(), _watched(model) as seen:
                value = loss(batch)
            if found is None and (seen.place is not None or not _finite(value)):
                found = Finding(broken, seen.place or "the loss itself", number)
            if found is not None and alone:
                break
        if not alone:
            return found or Finding(broken)
        begin()
        for number, batch in enumerate(window):
            if found is not None:
                break
            with _watched(model, backward=True) as seen:
                loss(batch).backward()
            if seen.place is not None:
                found = Finding((), seen.place, number)
        model.zero_grad(set_to_none=True)
        if found is None:
            return Finding()
        rows = _rows(model, loss, window[found.micro_batch])
        model.zero_grad(set_to_none=True)
        return Finding((), found.place, found.micro_batch, rows)


def _rows(model: nn.Module, loss: Callable[[Batch], Tensor], batch: Batch) -> Sequence[int]:
    """Rows that are not finite by themselves; none where that says nothing."""
    count = len(batch["input_ids"])
    bad = []
    for row in range(min(count, ROWS)):
        with _watched(model, backward=True) as seen:
            value = loss({name: tensor[row:row + 1] for name, tensor in batch.items()})
            if _finite(value) and value.requires_grad:
                value.backward()
        if seen.place is not None or not _finite(value):
            bad.append(row)
    return bad if len(bad) < count else ()


@dataclass
class _Seen:
    place: str | None = None
    stack: list[str] = field(default_factory=list)

    def at(self, place: str) -> None:
        self.place = self.place or place


@contextlib.contextmanager
def _watched(model: nn.Module, backward: bool = False) -> Iterator[_Seen]:
    """Inside, the first bad number that modules take, give or, backward, get as a gradient is noted."""
    seen = _Seen()
    with contextlib.ExitStack() as hooks:
        for name, module in model.named_modules():
            before, after = _around(seen, name or "the model", backward)
            for handle in (module.register_forward_pre_hook(before, with_kwargs=True),
                           module.register_forward_hook(after)):
                hooks.callback(handle.remove)
        if backward:
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    hooks.callback(parameter.register_hook(_gradient(seen, f"the gradient of {name}")).remove)
        yield seen


def _around(seen: _Seen, name: str, backward: bool) -> tuple[Callable[..., None], Callable[..., None]]:
    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        if seen.place is None and not all(map(_finite, _tensors((args, kwargs)))):
            seen.at(f"what {seen.stack[-1] if seen.stack else 'the loss'} gives to {name}")
        seen.stack.append(name)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        seen.stack.pop()
        for tensor in _tensors(output):
            if seen.place is None and not _finite(tensor):
                seen.at(f"the output of {name}")
            if backward and tensor.requires_grad:
                tensor.register_hook(_gradient(seen, f"the gradient that reaches the output of {name}"))

    return before, after


def _gradient(seen: _Seen, place: str) -> Callable[[Tensor], None]:
    def hook(gradient: Tensor) -> None:
        if seen.place is None and not _finite(gradient):
            seen.at(place)

    return hook


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for part in value.values() for tensor in _tensors(part)]
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _tensors(part)]
    return []


def _finite(tensor: Tensor) -> bool:
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return not local.is_floating_point() or bool(local.detach().isfinite().all())


def trace_not_finite(trainer: Any, step: int, values: Mapping[str, float], norm: float) -> UserError:
    """The error for an update (0-based) of a `Trainer` whose loss or gradients are not finite, after running it again.
    All processes call it together."""
    window = next((window for number, window in trainer.recent if number == step), None)
    finding, documents = Finding(), []
    if window is not None and isinstance(trainer.passes, Accumulation):
        loss = trainer.loss_of(window)
        trainer.optimizer.zero_grad()
        trainer.model.train()
        finding = find(trainer.model, loss, window, alone=trainer.together.size == 1, begin=lambda: trainer.draw(step))
        if finding.rows and hasattr(trainer.source, "documents"):
            documents = trainer.source.documents(step, finding.micro_batch, finding.rows[0])
    return error(finding, step=step + 1, values=values, norm=norm, micro_batches=len(window or ()),
                 label=trainer.label, clip=trainer.config.clip, documents=documents)


def error(finding: Finding, *, step: int, values: Mapping[str, float], norm: float, micro_batches: int, label: str,
          clip: float, documents: Sequence[str] = ()) -> UserError:
    """What the user is told. step: counted from 1; values: the terms of the loss."""
    told = ", ".join(f"{name} {value:g}" for name, value in values.items())
    fix = "lower optimizer.learning_rate or lengthen schedule.warmup"
    if not clip:
        fix += ", set clip (now off)"
    if documents:
        fix = "look at these documents; if they are as they should be, " + fix
    elif finding.weights:
        fix += "; with skip_outliers: 6 a bad update is not made, and this message can name the layer"
    return UserError(
        f"step {step} is not finite: {told}, gradient norm {norm:g}. {finding.sentence(micro_batches, documents)}",
        where=label,
        fix=f"{fix}. The last checkpoint is from before; the same recipe stops here again")
