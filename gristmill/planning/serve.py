"""The plan of a service: memory, the two limits of its speed, and what a million tokens cost.

Writing a token reads all weights and the caches of everybody who is being answered: that is bound by the memory's rate.
Reading prompts is bound by products. A step of B answers takes the longer of both times (Pope et al. 2022,
arXiv:2211.05102, section 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from gristmill.core.errors import UserError
from gristmill.planning.anatomy import Anatomy, anatomy
from gristmill.planning.flops import flops
from gristmill.planning.inputs import Cluster, Given, Used, rates
from gristmill.planning.interval import Interval
from gristmill.planning.memory import CONTEXT_BYTES, USABLE, WEIGHT_BYTES
from gristmill.planning.model import CACHE_BYTES, cache_tokens
from gristmill.planning.tables import Device, Tables

MOST_DEVICES = 1024
"""Devices that one copy of a model may be split over."""
MOST_ANSWERS = 512
"""Answers that an engine writes at once, however much memory there is."""


@dataclass(frozen=True, kw_only=True)
class ServiceRequest:
    """What is served, to how many."""

    name: str
    config: Any
    rps: float
    """Requests a second."""
    context: int
    """Tokens of a request: its prompt and its answer."""
    answer: int | None = None
    """Tokens of its answer; default a quarter of the context."""
    cluster: Cluster
    weights: str = "bf16"
    """Precision of the weights."""
    cache: str = "bf16"
    """Precision of the cache."""
    region: str | None = None
    given: Given = field(default_factory=Given)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rps) and self.rps > 0):
            raise UserError(f"{self.rps:g} requests a second", where="--rps", fix="must be positive")
        if self.context < 2:
            raise UserError(f"requests of {self.context} tokens", where="--context",
                            fix="at least 2: a prompt, an answer")
        if self.context > self.config.context:
            raise UserError(f"{self.name} is meant for at most {self.config.context:,} tokens", where="--context",
                            fix="lower it, or choose another model")
        if self.answer is not None and not 1 <= self.answer < self.context:
            raise UserError(f"answers of {self.answer} tokens in a context of {self.context}", where="--answer",
                            fix="at least 1, and less than the context")
        for where, value, known in (("--weights", self.weights, WEIGHT_BYTES), ("--cache", self.cache, CACHE_BYTES)):
            if value not in known:
                raise UserError(f"the precision {value!r} is not known", where=where, fix=f"choose {', '.join(known)}")

    @property
    def written(self) -> int:
        return self.answer or max(1, self.context // 4)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One more token for each of `answers` answers: seconds, and its two limits alone."""

    answers: int
    compute_s: Interval
    bandwidth_s: Interval

    @property
    def seconds(self) -> Interval:
        pairs = zip((self.compute_s.low, self.compute_s.expected, self.compute_s.high),
                    (self.bandwidth_s.low, self.bandwidth_s.expected, self.bandwidth_s.high), strict=True)
        return Interval(*(max(pair) for pair in pairs))


@dataclass(frozen=True, kw_only=True)
class ServicePlan:
    """Everything about a service; `as_json` is documented in docs/planning.md and stable."""

    request: ServiceRequest
    device: Device
    per_replica: int
    weights: float
    cache_per_request: float
    answers: int
    step: Step
    prefill_s: Interval
    """To read one prompt."""
    rps_per_replica: Interval
    replicas: Interval
    usd_per_hour: Interval | None
    energy_kw: Interval
    co2e_kg_per_hour: Interval
    assumptions: tuple[Used, ...]

    @property
    def available(self) -> float:
        return self.per_replica * self.device.memory_bytes

    @property
    def memory(self) -> float:
        """Bytes of a replica at its largest batch."""
        return self.weights + self.answers * self.cache_per_request + self.per_replica * CONTEXT_BYTES

    def as_json(self) -> dict[str, Any]:
        request, step = self.request, self.step
        tokens = request.rps * request.context
        return {
            "name": request.name, "requests_per_second": request.rps, "context": request.context,
            "answer": request.written,
            "hardware": {"name": self.device.name, "devices_per_replica": self.per_replica},
            "memory_bytes": {"weights": self.weights, "cache_per_request": self.cache_per_request,
                             "cache": self.answers * self.cache_per_request,
                             "buffers": self.per_replica * CONTEXT_BYTES, "total": self.memory,
                             "available": self.available, "fits": True},
            "answers_at_once": self.answers,
            "throughput_tokens_per_s": {
                "compute_bound": (step.answers / step.compute_s).as_json(),
                "bandwidth_bound": (step.answers / step.bandwidth_s).as_json(),
                "written": (step.answers / step.seconds).as_json()},
            "time_to_first_token_s": self.prefill_s.as_json(), "time_s_per_token": step.seconds.as_json(),
            "requests_per_second_per_replica": self.rps_per_replica.as_json(), "replicas": self.replicas.as_json(),
            "devices": (self.replicas * self.per_replica).as_json(),
            "cost_usd_per_hour": None if self.usd_per_hour is None else self.usd_per_hour.as_json(),
            "cost_usd_per_million_tokens": None if self.usd_per_hour is None else {
                "all": (self.usd_per_hour * (1e6 / (3600 * tokens))).as_json(),
                "written": (self.usd_per_hour * (1e6 / (3600 * request.rps * request.written))).as_json()},
            "power_kw": self.energy_kw.as_json(),
            "co2e_kg_per_million_tokens": (self.co2e_kg_per_hour * (1e6 / (3600 * tokens))).as_json(),
            "assumptions": [used.as_json() for used in self.assumptions],
        }


def plan_service(request: ServiceRequest, tables: Tables) -> ServicePlan:
    """Plan a service; UserError where the model cannot be served there at all."""
    found = anatomy(request.config)
    if not found.causal:
        raise UserError(f"{request.name} does not write text: it has no causal layers", where="MODEL",
                        fix="serve a decoder")
    device = request.cluster.device
    weights = WEIGHT_BYTES[request.weights] * found.total
    cache = CACHE_BYTES[request.cache] * cache_tokens(found, request.context)
    count = request.cluster.count or _fewest(device, weights + cache, request.name)
    room = USABLE * count * device.memory_bytes - weights - count * CONTEXT_BYTES
    if room < cache:
        usable = USABLE * count * device.memory_bytes / 1e9
        raise UserError(f"{request.name} needs {(weights + cache) / 1e9:.1f} GB with one request of "
                        f"{request.context:,} tokens; {count} x {device.title} have {usable:.1f} GB to use",
                        where="--hardware", fix="take more devices, a shorter --context, or --weights int8")
    answers = min(MOST_ANSWERS, int(room // cache))
    per_hour, used = rates(device, request.region, request.given, tables)
    peak, moved = (tables.assumptions[n] for n in ("serving_peak_share", "serving_bandwidth_share"))
    used = [Used(a.name, a.value, a.unit, f"{a.source}, {a.date}") for a in (peak, moved)] + used
    rate = peak.value * (count * device.peak("bf16"))
    flow = moved.value * (count * device.bandwidth)
    step = _step(found, request, answers, rate, flow, cache)
    prompt = request.context - request.written
    prefill = flops(request.config, prompt).read * prompt / rate if prompt else Interval.of(0)
    each = prefill + step.seconds * (request.written / answers)
    capacity = 1 / each
    replicas = Interval(*(float(max(1, math.ceil(request.rps / value)))
                          for value in (capacity.high, capacity.expected, capacity.low)))
    devices = replicas * count
    power = devices * per_hour.watts * (1.0 + per_hour.host_share) * per_hour.pue * 1e-3
    return ServicePlan(
        request=request, device=device, per_replica=count, weights=weights, cache_per_request=cache, answers=answers,
        step=step, prefill_s=prefill, rps_per_replica=capacity, replicas=replicas, energy_kw=power,
        usd_per_hour=None if per_hour.usd_per_hour is None else devices * per_hour.usd_per_hour,
        co2e_kg_per_hour=power * per_hour.kg_per_kwh, assumptions=tuple(used))


def _step(found: Anatomy, request: ServiceRequest, answers: int, rate: Interval, flow: Interval, cache: float) -> Step:
    """At the middle of an average answer: caches hold the prompt and half of what is written."""
    middle = request.context - request.written // 2
    per_token = flops(request.config, middle).decode
    read = WEIGHT_BYTES[request.weights] * _read(found, answers) + answers * cache * middle / request.context
    return Step(answers=answers, compute_s=Interval.of(answers * per_token) / rate,
                bandwidth_s=Interval.of(read) / flow)


def _read(found: Anatomy, answers: int) -> float:
    """Parameters that a step reads: of experts those that at least one of the answers chose, on average."""
    experts = found.parameters["experts"]
    if not experts:
        return found.total
    config = found.config
    missed = (1 - config.active_experts / config.experts) ** answers
    return found.total - experts + experts * (1 - missed)


def _fewest(device: Device, needed: float, name: str) -> int:
    count = 1
    while count <= MOST_DEVICES:
        if USABLE * count * device.memory_bytes - count * CONTEXT_BYTES >= needed:
            return count
        count *= 2
    raise UserError(f"{name} does not fit {MOST_DEVICES} x {device.title}", where="--hardware",
                    fix="choose devices with more memory or a smaller model")
