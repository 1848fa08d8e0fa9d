"""Where a loss or a gradient that is not finite comes from: the layer, the micro-batch, the row and its documents.

Nothing here runs while all is well. When a number is found to be bad, the update is run again with hooks, once forward
and, where that is fine, once backward. All processes do so together: each runs a model as often as the others, and
what one finds all are told.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gristmill.core.errors import UserError
from gristmill.objectives.base import Batch, rows_per_item
from gristmill.training.accumulate import Accumulation, minimised
from gristmill.training.compile import eager
from gristmill.training.parallel.agreement import told_ranks
from gristmill.training.parallel.world import World

ROWS = 64
"""So many items of a bad micro-batch are tried one by one."""
NAMED = 5
"""So many names stand in a message."""


@dataclass(frozen=True)
class Finding:
    """What the second run of an update showed, the same on all processes."""

    searched: bool = True
    """Whether there was a second run."""
    weights: Sequence[str] = ()
    """Parameters that are themselves not finite; what follows from them is not searched."""
    place: str | None = None
    """Where the first bad number appeared; None if the second run was fine."""
    process: str = ""
    """Which one saw it, in words; empty where that says nothing."""
    micro_batch: int | None = None
    """Of that process; None where micro-batches cannot be told apart."""
    rows: Sequence[int] = ()
    """Rows of the micro-batch that give it by themselves, the first of each item; empty where all do, or none."""
    unit: int = 1
    """Rows of an item."""
    documents: Sequence[str] = ()
    """What the first item of `rows` holds."""

    def sentence(self, micro_batches: int) -> str:
        """For an error message."""
        if not self.searched:
            return "Where it comes from was not searched."
        if self.weights:
            return f"Weights are not finite{self.process}: {_some(self.weights)}; an earlier step broke them."
        if self.place is None:
            return "A second run of the same update was finite: memory or a kernel gave another result."
        parts = [f"First not finite: {self.place}{self.process}" + (
            "." if self.micro_batch is None else f", in micro-batch {self.micro_batch + 1} of {micro_batches}.")]
        if self.rows:
            first = self.rows[0] + 1
            rows, gives, holds = (f"Row {first}", "gives", "holds") if self.unit == 1 else (
                f"Rows {first} to {first + self.unit - 1}", "give", "hold")
            own = f", which {holds} {_some(self.documents)}" if self.documents else ""
            parts.append(f"{rows} of it {gives} this alone{own}.")
        return " ".join(parts)


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


class _Sign(NamedTuple):
    """The first bad number that a process saw."""

    when: tuple[float, ...]
    """Before which others it came, on whatever process: what is bad further on follows from it."""
    place: str
    stage: int
    summed: bool = False
    """Whether it may come from another process, or from a micro-batch before."""


def find(model: nn.Module, loss: Callable[[Batch], Tensor], window: Sequence[Batch], *, world: World | None = None,
         unit: int = 1, begin: Callable[[], object] = lambda: None, stages: Mapping[int, nn.Module] | None = None,
         back: Callable[[], object] | None = None, documents: Callable[[int], Sequence[str]] = lambda row: ()
         ) -> Finding:
    """Run the micro-batches of `window` again, hooked, and say where the first number that is not finite appears.

    All processes of `world` (default this one alone) call it together. model: whose parts are named. loss: what is
    minimised of a micro-batch on the model's device, with its graph. unit: rows of an item, see
    `objectives.base.rows_per_item`. begin: called before each round, to draw the same random numbers. stages: where
    processes hold stages of a model, those of this one by number; `loss` then has no graph, and `back` runs the
    whole window forward and backward. documents: what a row of the window holds. Gradients are gone afterwards.
    """
    world = world or World.alone()
    held = {0: model} if stages is None else stages
    broken = world.gather({name: stage for stage, part in held.items() for name, parameter in part.named_parameters()
                           if not _finite(parameter)})
    if any(broken):
        ranks = [rank for rank, names in enumerate(broken) if names]
        everywhere = stages is None and len(ranks) == world.size
        names = {name: stage for names in broken for name, stage in names.items()}
        return Finding(weights=[*names], process="" if everywhere else _process(
            ranks, None if stages is None else set(names.values())))

    def forward(batch: Batch | None) -> _Sign | None:
        assert batch is not None
        with torch.no_grad(), _watched(held) as seen:
            value = loss(batch)
        return seen.sign or (None if _finite(value) else _Sign((0, math.inf), "the loss itself", max(held)))

    def backward(batch: Batch | None) -> _Sign | None:
        with _watched(held, backward=True) as seen:
            if back is not None:
                back()
            else:
                assert batch is not None
                loss(batch).backward()
        return seen.sign or _bad_sum(held)

    rounds: list[int | None] = [*range(max(world.gather(len(window))))]
    try:
        with eager(*held.values()):
            for run, numbers in ((forward, rounds), (backward, rounds if back is None else [None])):
                begin()
                for number in numbers:
                    # A process with fewer micro-batches runs its last one again while others go on.
                    own = None if number is None else min(number, len(window) - 1)
                    found = _first(world, run(None if own is None else window[own]))
                    if found is None:
                        continue
                    rank, sign = found
                    rows: Sequence[int] = ()
                    if own is not None and not sign.summed:
                        rows = _rows(world, run, window[own], unit)
                    before = sum(len(batch["input_ids"]) for batch in window[:own])
                    named = documents(before + rows[0]) if rows else ()
                    own, rows, named = world.gather((own, rows, named))[rank]
                    process = "" if world.size == 1 or (sign.summed and stages is None) else _process(
                        [rank], None if stages is None else {sign.stage})
                    return Finding(place=sign.place, process=process, micro_batch=own, rows=rows, unit=unit,
                                   documents=named)
    finally:
        model.zero_grad(set_to_none=True)
    return Finding()


def _process(ranks: Sequence[int], stages: set[int] | None) -> str:
    if stages is None:
        return f" on {told_ranks(ranks)}"
    numbers = ", ".join(str(stage + 1) for stage in sorted(stages))
    return f" in stage {numbers} ({told_ranks(ranks)})"


def _first(world: World, sign: _Sign | None) -> tuple[int, _Sign] | None:
    """The rank that saw the first bad number of all processes, and what it saw."""
    signs = [(rank, sign) for rank, sign in enumerate(world.gather(sign)) if sign is not None]
    return min(signs, key=lambda found: (found[1].when, found[0]), default=None)


def _rows(world: World, run: Callable[[Batch], _Sign | None], batch: Batch, unit: int) -> Sequence[int]:
    """Rows, the first of each item, that are not finite by themselves; none where that says nothing."""
    count = max(1, len(batch["input_ids"]) // unit)
    bad = []
    for item in range(min(ROWS, max(world.gather(count)))):
        row = min(item, count - 1) * unit  # the last again where others have more
        sign = run({name: tensor[row:row + unit] for name, tensor in batch.items()})
        if sign is not None and not sign.summed and item < count:
            bad.append(row)
    return bad if len(bad) < min(ROWS, count) else ()


def _bad_sum(held: Mapping[int, nn.Module]) -> _Sign | None:
    """What no hook could see: gradients that were summed elsewhere before they came to a parameter."""
    for stage, part in held.items():
        for name, parameter in part.named_parameters():
            if parameter.grad is not None and not _finite(parameter.grad):
                return _Sign((2, -stage), f"the gradient of {name}", stage, summed=True)
    return None


@dataclass
class _Seen:
    sign: _Sign | None = None
    stack: list[str] = field(default_factory=list)
    calls: int = 0

    def look(self, stage: int, place: Callable[[], str], tensors: Sequence[Tensor], backward: bool = False) -> None:
        """Note a bad number, if there is none before it. place: where these tensors are."""
        self.calls += 1
        when = (1, -stage, self.calls) if backward else (0, stage, self.calls)
        if (self.sign is None or when < self.sign.when) and not all(map(_finite, tensors)):
            self.sign = _Sign(when, place(), stage)


@contextlib.contextmanager
def _watched(held: Mapping[int, nn.Module], backward: bool = False) -> Iterator[_Seen]:
    """Inside, the first bad number that modules take, give or, backward, get as a gradient is noted. held: by stage."""
    seen = _Seen()
    with contextlib.ExitStack() as hooks:
        for stage, part in held.items():
            for name, module in part.named_modules():
                before, after = _around(seen, stage, name or "the model", backward)
                for handle in (module.register_forward_pre_hook(before, with_kwargs=True),
                               module.register_forward_hook(after)):
                    hooks.callback(handle.remove)
            if backward:
                for name, parameter in part.named_parameters():
                    if parameter.requires_grad:
                        hook = _gradient(seen, stage, f"the gradient of {name}")
                        hooks.callback(parameter.register_hook(hook).remove)
        yield seen


def _around(seen: _Seen, stage: int, name: str, backward: bool) -> tuple[Callable[..., None], Callable[..., None]]:
    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.look(stage, lambda: f"what {seen.stack[-1] if seen.stack else 'the loss'} gives to {name}",
                  _tensors((args, kwargs)))
        seen.stack.append(name)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        seen.stack.pop()
        tensors = _tensors(output)
        seen.look(stage, lambda: f"the output of {name}", tensors)
        for tensor in tensors:
            if backward and tensor.requires_grad:
                tensor.register_hook(_gradient(seen, stage, f"the gradient that reaches the output of {name}"))

    return before, after


def _gradient(seen: _Seen, stage: int, place: str) -> Callable[[Tensor], None]:
    return lambda gradient: seen.look(stage, lambda: place, [gradient], backward=True)


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
    All processes call it together, and get the same."""
    passes, source = trainer.passes, trainer.source
    window = next((window for number, window in trainer.recent if number == step), ())
    finding = Finding(searched=False)
    if window:
        trainer.optimizer.zero_grad()
        trainer.model.train()
        factors = trainer.factors_of(window)
        options = {"world": trainer.together, "unit": rows_per_item(trainer.objective),
                   "begin": lambda: trainer.draw(step)}
        if hasattr(source, "documents"):
            options["documents"] = lambda row: source.documents(step, row)
        if isinstance(passes, Accumulation):
            finding = find(trainer.model, lambda batch: passes.loss(batch, factors), window, **options)
        elif trainer.together.layout.pipeline > 1:
            finding = find(trainer.model, lambda batch: minimised(passes.score(batch)[0], factors), window,
                           stages={stage.index: stage.model for stage in passes.stages},
                           back=lambda: passes.run(window, factors), **options)
    return error(finding, step=step + 1, values=values, norm=norm, micro_batches=len(window), label=trainer.label,
                 clip=trainer.config.clip)


def error(finding: Finding, *, step: int, values: Mapping[str, float], norm: float, micro_batches: int, label: str,
          clip: float) -> UserError:
    """What the user is told. step: counted from 1; values: the terms of the loss."""
    told = ", ".join(f"{name} {value:g}" for name, value in values.items())
    fix = "lower optimizer.learning_rate or lengthen schedule.warmup"
    if not clip:
        fix += ", set clip (now off)"
    if finding.documents:
        fix = "look at these documents; if they are as they should be, " + fix
    elif finding.weights:
        fix += "; with skip_outliers: 6 a bad update is not made, and this message can name the layer"
    return UserError(
        f"step {step} is not finite: {told}, gradient norm {norm:g}. {finding.sentence(micro_batches)}",
        where=label,
        fix=f"{fix}. The last checkpoint is from before; the same recipe stops here again")
