"""The plan of a training run: memory, time, money, energy, carbon, storage, and what else it could run on."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from gristmill.core.errors import UserError
from gristmill.planning.activations import CHECKPOINTING, Checkpointing
from gristmill.planning.anatomy import anatomy
from gristmill.planning.cost import Account, account
from gristmill.planning.flops import Flops, flops
from gristmill.planning.inputs import Cluster, Given, Used, rates
from gristmill.planning.interval import Interval
from gristmill.planning.layout import Layout
from gristmill.planning.memory import OPTIMIZERS, Batch, Memory
from gristmill.planning.ranking import Option, cheapest_count, options
from gristmill.planning.similar import similar_runs
from gristmill.planning.storage import Storage, storage
from gristmill.planning.tables import Device, Tables

LONGEST_ASSUMED = 8192
"""Tokens a row where nobody said: models meant for longer texts are mostly trained on shorter ones."""
LATEST_DAYS = 90.0
"""Longest run that is proposed where nobody named a number of devices or an end."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be trained, and what is known of where."""

    name: str
    config: Any = None
    """Config of the model; None where only its size is known, and then nothing is said of memory."""
    parameters: float | None = None
    """Size of a model without config."""
    tokens: float
    context: int | None = None
    """Tokens a row; default the model's, but not more than 8,192."""
    batch_tokens: float | None = None
    """Tokens an update; default 2^19 below 3 B parameters, 2^22 below 100 B, else 2^24."""
    micro_batch: int = 1
    """Rows that go through a replica at once."""
    documents: bool = True
    epochs: float = 1.0
    cluster: Cluster | None = None
    """None: whatever is cheapest."""
    layout: Layout | None = None
    checkpointing: Checkpointing | None = None
    """None: the lightest that fits."""
    optimizer: str = "adamw"
    precision: str = "bf16"
    average: bool = False
    predicted: float = 1.0
    """Share of the tokens that are predicted (0.15 for masked language models)."""
    region: str | None = None
    days: float | None = None
    """Latest end; devices are added until the expected time is shorter."""
    given: Given = field(default_factory=Given)

    def __post_init__(self) -> None:
        def must(holds: bool, where: str, what: str, fix: str) -> None:
            if not holds:
                raise UserError(what, where=where, fix=fix)

        must(math.isfinite(self.tokens) and self.tokens > 0, "--tokens", f"{self.tokens:g} tokens",
             "a run reads at least one token")
        must(self.config is not None or (self.parameters or 0) > 0, "model", "there is no model and no size",
             "name a model, or give parameters")
        must(self.context is None or self.context >= 1, "--context", "rows have at least one token", "raise it")
        must(self.batch_tokens is None or self.batch_tokens >= 1, "--batch-tokens",
             "an update reads at least one token", "raise it")
        must(self.micro_batch >= 1, "--micro-batch", "at least one row", "raise it")
        must(self.epochs > 0, "--epochs", "must be positive", "1 reads every token once")
        must(self.optimizer in OPTIMIZERS, "--optimizer", f"{self.optimizer!r} is not known",
             f"choose one of {', '.join(OPTIMIZERS)}")
        must(self.precision in ("bf16", "fp32"), "--precision", f"{self.precision!r} is not known", "bf16 or fp32")
        must(self.checkpointing is None or self.checkpointing in CHECKPOINTING, "--checkpointing",
             f"{self.checkpointing!r} is not known", f"choose one of {', '.join(CHECKPOINTING)}")
        must(self.days is None or self.days > 0, "--within-days", "must be positive", "give a number of days")

    @property
    def size(self) -> float:
        return anatomy(self.config).total if self.config is not None else float(self.parameters or 0)

    @property
    def row(self) -> int:
        """Tokens a row."""
        return self.context or min(self.config.context, LONGEST_ASSUMED)

    @property
    def rows(self) -> int:
        """Rows an update."""
        usual = 2**19 if self.size < 3e9 else 2**22 if self.size < 1e11 else 2**24
        return max(1, round((self.batch_tokens or min(usual, self.tokens)) / self.row))

    def batch(self, layout: Layout) -> Batch:
        """What an update reads; without a wish, at least one micro-batch for each replica."""
        rows = self.rows
        if self.batch_tokens is None:
            rows = max(rows, layout.replicas * self.micro_batch)
        return Batch(context=self.row, rows=rows, micro_batch=min(self.micro_batch, rows), documents=self.documents)


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Everything about one run; `as_json` is documented in docs/planning.md and stable."""

    request: Request
    device: Device
    devices: int
    flops_total: Interval
    flops_per_token: Flops | None
    memory: Memory | None
    option: Option | None
    batch: Batch | None
    mfu: Interval
    mfu_6nd: Interval
    """The same, counting 6 FLOPs a parameter and token, as reports do."""
    time_s: Interval
    run: Account
    """The final run alone."""
    development: Account
    """With everything that is trained before it."""
    storage: Storage | None
    assumptions: tuple[Used, ...]
    alternatives: tuple[dict[str, Any], ...]
    similar: tuple[dict[str, Any], ...]
    calibration: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        request = self.request
        parts = {p: n for p, n in anatomy(request.config).parameters.items() if n} if request.config is not None else {}
        return {
            "name": request.name,
            "parameters": {"total": int(request.size), **parts},
            "tokens": request.tokens,
            "flops_per_token": {"train": self.flops_total.expected / request.tokens}
            if self.flops_per_token is None else self.flops_per_token.as_json(),
            "flops_total": self.flops_total.as_json(),
            "hardware": {"name": self.device.name, "title": self.device.title, "devices": self.devices,
                         "peak_flops": dict(self.device.peak_flops), "memory_bytes": self.device.memory_bytes,
                         "watts": self.device.watts, "source": self.device.source, "date": self.device.date},
            "layout": None if self.option is None else {
                **self.option.layout.as_json(), "text": self.option.layout.text(),
                "cost": self.option.cost.as_json()},
            "batch": None if self.batch is None else {**dataclasses.asdict(self.batch), "tokens": self.batch.tokens},
            "memory_bytes": None if self.memory is None else self.memory.as_json(),
            "mfu": self.mfu.as_json(), "mfu_6nd": self.mfu_6nd.as_json(),
            "time_s": self.time_s.as_json(), **self.run.as_json(),
            "with_development": self.development.as_json(),
            "storage_bytes": None if self.storage is None else self.storage.as_json(),
            "region": request.region, "assumptions": [used.as_json() for used in self.assumptions],
            "alternatives": list(self.alternatives), "similar_runs": list(self.similar),
            "calibration": self.calibration,
        }


def plan_training(request: Request, tables: Tables, *, alternatives: bool = True) -> TrainingPlan:
    """Plan a run; UserError where a wish cannot be met at all.

    alternatives: whether other layouts and hardware are looked at for the table of the cheapest.
    """
    if request.config is None:
        return _sized(request, tables)
    if (request.cluster is None or request.cluster.count is None) and request.days is None and request.layout is None:
        request = dataclasses.replace(request, days=LATEST_DAYS)
    ranked: list[TrainingPlan] = []
    if request.cluster is None:
        names = [n for n in tables.devices if n in tables.prices and tables.devices[n].kind != "cpu"]
        for name in names:
            try:
                ranked.append(_on(request, tables, Cluster(tables.devices[name], None)))
            except UserError:
                continue  # does not fit it, in whatever number
        if not ranked:
            raise UserError(f"{request.name} fits none of the known devices in whatever number, or none ends within "
                            f"{request.days:g} days", where="--hardware",
                            fix="choose a smaller model, fewer tokens, a shorter --context, or more --within-days")
        ranked.sort(key=lambda p: p.run.cost_usd.expected if p.run.cost_usd else float("inf"))
        chosen = ranked[0]
    else:
        chosen = _on(request, tables, request.cluster)
        ranked = [chosen]
    rows = [_alternative(plan) for plan in ranked]
    if alternatives:
        rows += _others(request, tables, chosen)
    return dataclasses.replace(chosen, alternatives=tuple(rows))


def _others(request: Request, tables: Tables, chosen: TrainingPlan) -> list[dict[str, Any]]:
    """Other layouts on the chosen devices, and, where hardware was named, what other hardware would cost."""
    rows = []
    if request.layout is None:
        for option in options(request, chosen.device, chosen.devices, tables)[1:6]:
            rows.append(_alternative(_with(request, tables, chosen.device, chosen.devices, option)))
    if request.cluster is not None:
        for name, device in tables.devices.items():
            if name in tables.prices and name != chosen.device.name and device.kind != "cpu":
                # About as fast, so that the rows can be compared.
                days = request.days or 1.25 * chosen.time_s.expected / 86_400
                free = dataclasses.replace(request, layout=None, days=days, given=_free(request.given))
                try:
                    rows.append(_alternative(_on(free, tables, Cluster(device, None))))
                except UserError:
                    continue
    return sorted(rows, key=lambda r: r["cost_usd"]["expected"] if r["cost_usd"] else float("inf"))


def _free(given: Given) -> Given:
    """What still holds on other hardware."""
    return dataclasses.replace(given, mfu=None, achieved_tflops=None, device_hours=None, device_watts=None,
                               usd_per_hour=None, embodied_device_kg=None, embodied_host_kg=None)


def _alternative(plan: TrainingPlan) -> dict[str, Any]:
    assert plan.option is not None
    assert plan.memory is not None
    return {"hardware": f"{plan.device.name}:{plan.devices}", "layout": plan.option.layout.text(),
            "checkpointing": plan.memory.checkpointing, "memory_bytes": plan.memory.total, "fits": plan.memory.fits,
            "time_s": plan.time_s.as_json(), **{k: v for k, v in plan.run.as_json().items() if k != "embodied_kg"}}


def _on(request: Request, tables: Tables, cluster: Cluster) -> TrainingPlan:
    device, count = cluster.device, cluster.count
    if request.layout is not None:
        count = count or request.layout.devices
        if request.layout.devices != count:
            raise UserError(f"{request.layout.text()} needs {request.layout.devices} devices, but there are {count}",
                            where="--parallel", fix="the product of the degrees is the number of devices")
    if count is None:
        count = cheapest_count(request, device, tables)
        if count is None:
            raise UserError(f"{request.name} does not fit {device.title} in whatever number, or does not end within "
                            f"{request.days or 0:g} days", where="--hardware",
                            fix="name other devices, a shorter --context, a smaller --micro-batch, more --within-days")
    return _with(request, tables, device, count, options(request, device, count, tables)[0])


def _with(request: Request, tables: Tables, device: Device, count: int, option: Option) -> TrainingPlan:
    counted = flops(request.config, request.row, predicted=request.predicted)
    total = request.given.flops or Interval.of(counted.train * request.tokens)
    return _accounted(request, tables, device, count, total, option, counted,
                      storage(request.config, request.tokens, tables, epochs=request.epochs,
                              optimizer=request.optimizer, average=request.average))


def _sized(request: Request, tables: Tables) -> TrainingPlan:
    """A run of which only the size is known: no memory, no layout."""
    if request.cluster is None or request.cluster.count is None:
        raise UserError("without a model, the hardware and its number must be named", where="--hardware",
                        fix="write for example a100-80:384")
    total = request.given.flops or Interval.of(6 * request.size * request.tokens)
    return _accounted(request, tables, request.cluster.device, request.cluster.count, total, None, None, None)


def _accounted(request: Request, tables: Tables, device: Device, count: int, total: Interval, option: Option | None,
               counted: Flops | None, stored: Storage | None) -> TrainingPlan:
    given = request.given
    per_hour, used = rates(device, request.region, given, tables)
    peak = device.peak(request.precision)
    if given.device_hours is not None:
        hours = given.device_hours
        used.insert(0, Used("device_hours", hours, "h", given.said("device_hours")))
        mfu = total / (hours * 3600 * peak)
    else:
        mfu, where = assumed_mfu(device, given, tables, peak)
        used.insert(0, Used("mfu", mfu, "of the peak", where))
        slower = option.cost.factor if option is not None and where.startswith("published") else 1.0
        if slower > 1:
            used.insert(1, Used("layout_factor", Interval.of(slower), "times longer",
                                "recomputed blocks, idle stages and traffic of this layout, to first order"))
        hours = total * slower / (mfu * peak * 3600.0)
    spent = account(hours, per_hour)
    assumption = tables.assumptions["development"]
    factor = given.development or assumption.value
    used.append(Used("development", factor, assumption.unit,
                     "given" if given.development else f"{assumption.source}, {assumption.date}"))
    return TrainingPlan(
        request=request, device=device, devices=count, flops_total=total, flops_per_token=counted,
        memory=None if option is None else option.memory, option=option,
        batch=None if option is None else request.batch(option.layout), mfu=mfu,
        mfu_6nd=Interval.of(6 * request.size * request.tokens) / (hours * 3600 * peak),
        time_s=hours * 3600 * (1 / count),
        run=spent, development=spent.times(factor), storage=stored, assumptions=tuple(used), alternatives=(),
        similar=tuple(similar_runs(request.size, request.tokens, tables)))


def assumed_mfu(device: Device, given: Given, tables: Tables, peak: float) -> tuple[Interval, str]:
    """Share of the peak, and where it comes from."""
    if given.mfu is not None:
        if given.mfu.high > 1:
            raise UserError(f"an MFU of {given.mfu.high:g}", where="--mfu", fix="it is a share of the peak, at most 1")
        return given.mfu, "given"
    if given.achieved_tflops is not None:
        return given.achieved_tflops * (1e12 / peak), "given, as FLOPs a second"
    if device.mfu is not None:
        return device.mfu, f"measured: {device.source}, {device.date}"
    if device.kind == "cpu":
        raise UserError(f"nobody measured how fast {device.title} trains, and there is no honest guess",
                        where="--hardware", fix="add --calibrate to measure it here, or say --mfu")
    return tables.mfu(), f"published runs ({len([r for r in tables.runs if r.mfu])}), 10th, 50th and 90th percentile"
