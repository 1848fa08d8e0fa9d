"""How many rows fit through the model at once, and what to say when too many were tried.

The planner's count of what a forward pass keeps says it in advance; on a GPU the answer is then tried out. Gradients
add up over micro-batches, so that the choice changes nothing but speed and the last digits.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gristmill.core.errors import MachineError, UserError
from gristmill.planning import layout as planned
from gristmill.planning.activations import Checkpointing as Kept
from gristmill.planning.memory import Batch, Memory, memory
from gristmill.training.activation_checkpointing import Checkpointing
from gristmill.training.parallel.layout import Layout


class OutOfMemory(MachineError):
    """The device has no room for this."""


FIX = ("set micro_batch: auto or a smaller number, then training.activation_checkpointing: selective or full; "
       "gradients are the same either way")


@dataclass(frozen=True)
class Fit:
    """A micro-batch and why it was chosen."""

    rows: int
    memory: Memory
    """What the planner expects of it."""
    tried: bool = False
    """Whether updates of this size really ran."""

    def note(self) -> str:
        """For people."""
        assert self.memory.available is not None
        return (f"micro_batch = {self.rows}: {self.memory.total / 1e9:.2f} GB expected of "
                f"{self.memory.available / 1e9:.2f} GB{', and tried' if self.tried else ''}")


def candidates(rows: int) -> list[int]:
    """Micro-batches that divide an update of `rows` rows as evenly as possible into 1, 2, 3, ... parts."""
    return sorted({-(-rows // parts) for parts in range(1, rows + 1)}, reverse=True)


def fitting(config: Any, rows: int, context: int, *, available: float, optimizer: str = "adamw",
            precision: str = "bf16", checkpointing: Checkpointing = "none", average: bool = False,
            device: str = "cuda", layout: Layout | None = None, fewest: int | None = None) -> list[Fit]:
    """All micro-batches of `candidates` that should fit, the largest first; in a pipeline those that are as many as its
    schedule takes, if any are.

    config: of the model. rows: of an update on one replica; fewest: of the smallest update. available: bytes of the
    device that training can have. Raises MachineError where not even one row does.
    """
    layout = layout or Layout()
    spread = to_planned(layout)
    sizes = [size for size in candidates(rows) if all(
        _takes(layout, -(-update // size)) for update in (rows, fewest or rows))] or candidates(rows)
    replicas = max(1, spread.replicas)
    found = []
    least: Memory | None = None
    for size in sizes:
        least = expected(config, Batch(context=context, rows=rows * replicas, micro_batch=size), spread, optimizer,
                         precision, checkpointing, average, device, available)
        if least.fits:
            found.append(Fit(size, least))
    if not found:
        assert least is not None
        raise MachineError(
            f"one row of {context} tokens needs {least.total / 1e9:.2f} GB, and {available / 1e9:.2f} GB are there: "
            f"weights, gradients and optimizer {(least.weights + least.gradients + least.optimizer) / 1e9:.2f}, "
            f"activations {(least.activations + least.logits) / 1e9:.2f}, buffers {least.buffers / 1e9:.2f}",
            where="micro_batch: auto", fix="set training.activation_checkpointing: full, a shorter context, an "
            "optimizer with smaller states (docs/optimizers.md), or a smaller model")
    return found


def _takes(layout: Layout, micro_batches: int) -> bool:
    try:
        layout.check_micro_batches(micro_batches)
    except UserError:
        return False
    return True


def expected(config: Any, batch: Batch, layout: planned.Layout, optimizer: str, precision: str,
             checkpointing: Checkpointing, average: bool, device: str, available: float | None) -> Memory:
    """The planner's memory of an update; a budget lies between its neighbours as it says."""
    def of(kept: Kept) -> Memory:
        return memory(config, batch, layout=layout, optimizer=optimizer, precision=precision, checkpointing=kept,
                      average=average, device=device, available=available)

    if not isinstance(checkpointing, (int, float)):
        return of(checkpointing)
    none, full = of("none"), of("full")
    activations = full.activations + checkpointing * max(0.0, none.activations - full.activations)
    return Memory(weights=none.weights, gradients=none.gradients, optimizer=none.optimizer, activations=activations,
                  logits=none.logits, buffers=none.buffers if checkpointing == 1 else full.buffers,
                  checkpointing="full", available=available)


def to_planned(layout: Layout) -> planned.Layout:
    """The same layout in the planner's words."""
    return planned.Layout(**{name: getattr(layout, name) for name in planned.DEGREES})


def settle(fits: Sequence[Fit], attempt: Callable[[int], object], device: torch.device) -> Fit:
    """The largest of `fits` with which `attempt(rows)` does not run out of memory.

    Only for GPUs: a CPU that runs out begins to swap, or is killed. Raises MachineError where none does.
    """
    for fit in fits:
        try:
            attempt(fit.rows)
            return Fit(fit.rows, fit.memory, tried=True)
        except (torch.OutOfMemoryError, OutOfMemory):
            pass
        # Outside of `except`, so that the traceback holds none of what is to be freed.
        torch.compiler.reset()  # blocks share their code, and from the ninth size on would run as written
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    raise MachineError("out of memory with a single row at a time", where="micro_batch: auto",
                       fix="set training.activation_checkpointing: full, a shorter context or a smaller model")


def try_out(trainer: Any, fits: Sequence[Fit], source: Callable[[int], Any], *, full: int = 0,
            gpu: bool | None = None) -> Fit:
    """The largest of `fits` that a `Trainer` can really run, whole updates with the optimizer's states; the trainer is
    as before afterwards, but for its `source`, which is that of the result.

    source: from rows at once to windows. full: the first update that has all of its rows. gpu: whether to try; default
    on one GPU alone, for of several processes one that fails would leave the others waiting.
    """
    if gpu is None:
        gpu = trainer.compute.device.type == "cuda" and trainer.together.size == 1

    def attempt(rows: int) -> None:
        trainer.source = source(rows)
        with put_back(trainer):
            # In the second the optimizer has its states, in the third a CUDA graph is recorded.
            for step in range(full, full + 3):
                trainer.update(trainer.source.window(step))

    found = settle(fits, attempt, trainer.compute.device) if gpu else fits[0]
    trainer.source = source(found.rows)
    return found


@contextlib.contextmanager
def put_back(trainer: Any) -> Iterator[None]:
    """Whatever updates inside do to a `Trainer`'s weights is undone; the copies wait in the CPU's memory."""
    steps, trainer.steps = trainer.steps, 10_000
    before = {name: tensor.detach().to("cpu", copy=True) for name, tensor in trainer.state().items()}
    try:
        yield
    finally:
        trainer.optimizer.zero_grad()
        getattr(trainer.passes, "forget", lambda: None)()
        with torch.no_grad():
            for name, tensor in trainer.state().items():
                tensor.copy_(before[name])
        trainer.steps = steps
        trainer.begin()


def available_bytes(device: torch.device) -> float:
    """Memory that training on this device can have: all of a GPU; of a CPU what can be used without swapping, within
    the limit of a container, shared out among the processes that torchrun started here."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return float(free + torch.cuda.memory_reserved(device))
    known = [most - now for most, now in container_limits()]
    if (unused := _available(Path("/proc/meminfo"))) is not None:
        known.append(unused)
    if not known:
        raise MachineError("this system does not say how much memory is free", where="micro_batch: auto",
                           fix="give micro_batch as a number")
    return min(known) / int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def container_limits() -> list[tuple[float, float]]:
    """Bytes that the control groups around this process (version 1 or 2) may take, and that they have taken; of those
    that have a limit."""
    found = []
    for group in _control_groups():
        for limit, used in (("memory.max", "memory.current"),
                            ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            most, now = _number(group / limit), _number(group / used)
            if most is not None and now is not None:
                found.append((most, now))
    return found


def _control_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[Path]:
    """Folders of the groups that this process is in. Inside of a container its own group often is the root."""
    found = {root: None, root / "memory": None}
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "memory" in controllers.split(","):
                inner = Path(path.lstrip("/"))
                found |= dict.fromkeys((root / ("memory" if controllers else "") / part) for part in
                                       (inner, *inner.parents))
    return list(found)


def _available(path: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    return None


def _number(path: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        return float(path.read_text())
    return None


@contextlib.contextmanager
def out_of_memory_told(rows: int, context: int, where: str) -> Iterator[None]:
    """Inside, running out of memory is an OutOfMemory that says what was tried and how to mend it."""
    told = None
    try:
        yield
    except torch.OutOfMemoryError as error:
        told = str(error).split(". ")[0]
    except RuntimeError as error:
        if "can't allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        told = str(error).splitlines()[0]
    if told is not None:
        raise OutOfMemory(f"out of memory with {rows} rows of {context} tokens at once ({told})", where=where, fix=FIX)

