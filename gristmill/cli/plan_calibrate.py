"""Planning for this machine: short measured runs with the real training loop take the place of assumptions."""

from __future__ import annotations

import dataclasses
import os
import platform
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gristmill.cli.plan_batches import RandomTokens, loss_of
from gristmill.core.errors import UserError
from gristmill.core.stage import Runtime
from gristmill.planning.calibration import Calibration, calibrate
from gristmill.planning.inputs import Cluster, Given
from gristmill.planning.interval import Interval
from gristmill.planning.tables import Device, Tables
from gristmill.planning.train import Request, TrainingPlan, plan_training

if TYPE_CHECKING:
    from gristmill.cli.plan_source import Source
    from gristmill.training.device import Compute
    from gristmill.training.loop import TrainingConfig

SQUARE = 2048
"""Rows and columns of the product whose rate is called the peak of a CPU."""
WARM = 2
"""Updates before the measured ones: they allocate, and compile if that is wanted."""
CACHE = 2**26
"""Bytes that are written before each measured update. A deep model finds none of its optimizer's states in the cache;
a shallow one would, and promise too much."""


class Measuring:
    """Updates of the one training loop on this machine, timed; the measure function of `planning.calibration`."""

    def __init__(self, compute: Compute, training: TrainingConfig, source: RandomTokens, objective: Any = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """objective: as a recipe says it, with its options. clock: seconds that pass."""
        self.compute, self.training, self.source, self.objective = compute, training, source, objective
        self.clock = clock
        self.compiled = False

    def trainer(self, config: Any, folder: Path, steps: int) -> Any:
        """A loop around a fresh model of this config."""
        from gristmill.models.families import FAMILIES
        from gristmill.training.compile import compile_blocks
        from gristmill.training.loop import Trainer

        model = FAMILIES[config.family].body(config)
        model.initialise(0)
        model.to(self.compute.device)
        if self.compiled:
            compile_blocks(model)
        return Trainer(model=model, objective=loss_of(config, self.objective, self.source.objective),
                       source=self.source, steps=steps, compute=self.compute, folder=folder,
                       checkpoints=folder / "checkpoints", config=self.training)

    def __call__(self, config: Any) -> Callable[[], float]:
        folder = tempfile.TemporaryDirectory()
        trainer, numbers, elsewhere = self.trainer(config, Path(folder.name), 10_000), count(), torch.zeros(CACHE // 4)
        for _ in range(WARM):
            trainer.update(self.source.window(next(numbers)))

        def update() -> float:
            elsewhere.add_(1)
            window = self.source.window(next(numbers))
            start = self.clock()
            trainer.update(window)
            return self.clock() - start

        weakref.finalize(update, folder.cleanup)
        return update


def plan_here(source: Source, wanted: Mapping[str, Any], given: Mapping[str, Any], tokens: float | None,
              tables: Tables, *, calibrate: bool, hardware: str | None) -> TrainingPlan:
    """A plan for this machine's CPU, measured if asked."""
    from gristmill.cli.plan_source import request_for
    from gristmill.training.device import prepare

    if hardware not in (None, "cpu"):
        raise UserError(f"--calibrate measures this machine, not {hardware}", where="--hardware",
                        fix="leave --hardware out, or say cpu")
    if not calibrate and given["mfu"] is None:
        raise UserError("nobody measured how fast this machine trains, and there is no honest guess",
                        where="--hardware cpu", fix="add --calibrate: about 20 short steps")
    compute = prepare(Runtime(device="cpu", precision=wanted["precision"] or "auto"))
    wanted = {**wanted, "precision": "bf16" if compute.dtype == torch.bfloat16 else "fp32"}
    if source.rows is None:
        context = wanted["context"] or min(source.config.context, 256)
        rows = max(1, 4096 // context)  # as the stage pretrain has it
        source = dataclasses.replace(source, context=context, rows=rows, micro_batch=rows)
    minutes = source.minutes if tokens is None and source.tokens is None else None
    first = request_for(source, wanted, given, tokens or (1.0 if minutes else None), tables)
    found = _measure(first, source, compute, minutes) if calibrate else None
    if found is not None and minutes is not None:
        step = found.step(_blocks(first.config)).expected
        first = dataclasses.replace(first, tokens=max(1, int(minutes * 60 / step)) * first.rows * first.row)
    device = this_device(compute, tables, found)
    request = dataclasses.replace(first, cluster=Cluster(device, 1), given=_known(first, compute, tables, found))
    plan = plan_training(request, tables, alternatives=False)
    return plan if found is None else dataclasses.replace(plan, calibration={
        **found.as_json(), "step_s": found.step(_blocks(first.config)).as_json(),
        "peak_flops": dict(device.peak_flops)})


def _blocks(config: Any) -> int:
    from gristmill.planning.anatomy import anatomy

    return len(anatomy(config).per_block)


def _measure(request: Request, source: Source, compute: Compute, minutes: float | None) -> Calibration:
    """As a run would go: compiled where it is long enough to pay."""
    from gristmill.training.compile import should_compile

    measuring = measuring_for(request, source, compute)
    found = calibrate(request.config, measuring, _joules)
    steps = request.tokens / (request.rows * request.row)
    expected = minutes * 60 if minutes else found.step(_blocks(request.config)).expected * steps
    if should_compile(Runtime(device="cpu"), expected):
        measuring.compiled = True
        found = calibrate(request.config, measuring, _joules)
    return found


def measuring_for(request: Request, source: Source | None, compute: Compute) -> Measuring:
    """The measure function for a request: its batch, its optimizer."""
    from gristmill.models.families import FAMILIES
    from gristmill.training.loop import TrainingConfig
    from gristmill.training.optimizers import OptimizerConfig

    stage = source.stage if source is not None else None
    kind = {"momentum": "sgd", "adamw-8bit": "adamw8bit"}.get(request.optimizer, request.optimizer)
    training = stage.training if stage is not None else TrainingConfig(optimizer=OptimizerConfig(
        kind=kind, momentum=0.0 if request.optimizer == "sgd" else 0.95))  # type: ignore[arg-type]
    objective = source.objective if source is not None else FAMILIES[request.config.family].objective
    tokens = RandomTokens(request.config, objective, request.rows, request.row, min(request.micro_batch, request.rows))
    return Measuring(compute, training, tokens, getattr(stage, "objective", None))


def this_device(compute: Compute, tables: Tables, found: Calibration | None) -> Device:
    """This machine as a device of one: its memory, and its peak as a large product reaches it."""
    assumption = tables.assumptions["cpu_watts_per_thread"]
    watts = found.watts if found is not None and found.watts else assumption.value.expected * compute.threads
    return Device(
        name="cpu", title=f"this machine ({platform.processor() or platform.machine()}, {compute.threads} threads)",
        kind="cpu", memory_bytes=_memory(), bandwidth=1.0, watts=watts,
        peak_flops={"bf16" if compute.dtype == torch.bfloat16 else "fp32": square_rate(compute.dtype)},
        source=f"measured here, a product of {SQUARE} x {SQUARE}", date=time.strftime("%Y-%m-%d"))


def square_rate(dtype: torch.dtype, size: int = SQUARE, rounds: int = 3) -> float:
    """FLOPs a second of the best of some square products."""
    a, b = (torch.ones(size, size, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(rounds):
        start = time.monotonic()
        a @ b
        best = min(best, time.monotonic() - start)
    return 2 * size**3 / best


def _known(request: Request, compute: Compute, tables: Tables, found: Calibration | None) -> Given:
    """What is known of this machine: hours of the whole run, and power where it could be read."""
    given, sources = request.given, dict[str, str]()
    hours, watts = given.device_hours, given.device_watts
    if found is not None:
        steps = request.tokens / (request.rows * request.row)
        hours = found.step(_blocks(request.config)) * (steps / 3600)
        sources["device_hours"] = "measured by a calibration"
    if watts is None and found is not None and found.watts:
        watts, sources["device_watts"] = Interval.of(found.watts), "measured by a calibration"
    elif watts is None:
        assumption = tables.assumptions["cpu_watts_per_thread"]
        watts = assumption.value * compute.threads
        sources["device_watts"] = f"{compute.threads} threads: {assumption.source}, {assumption.date}"
    return dataclasses.replace(given, device_hours=hours, device_watts=watts, sources=sources)


def _memory() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _joules() -> float | None:
    """Energy that the processor counted since its start (RAPL), where this process may read it."""
    total = 0.0
    counters = list(Path("/sys/class/powercap").glob("intel-rapl:[0-9]"))
    for counter in counters:
        try:
            total += int((counter / "energy_uj").read_text()) / 1e6
        except (OSError, ValueError):
            return None
    return total if counters else None
