"""The loss on held-out text, as nats a token and bits a byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn

from gristmill.objectives import CausalLM, Objective
from gristmill.tokens import EvaluationBatches, TokenShards
from gristmill.training.compile import eager
from gristmill.training.device import Compute
from gristmill.training.micro_batch import Metrics, Sums
from gristmill.training.parallel.world import World
from gristmill.training.reading import nothing

Score = Callable[[Mapping[str, Any]], tuple[Sums, Metrics]]
"""The sums and metrics of a batch."""


@torch.no_grad()
def validate(model: nn.Module, batches: Iterable[Mapping[str, Any]], compute: Compute,
             objective: Objective | None = None, *, score: Score | None = None,
             world: World | None = None, rows: int | None = None) -> dict[str, float]:
    """Mean loss (nats a target) over `batches`, the share of targets that were the likeliest token (`accuracy`), the
    number of targets (`tokens`), and the mean of every further term under its name.

    objective: default causal LM. world: the rows of every batch are dealt to its data ranks, and whole ones to the
    processes that share rows in training. score: what gives the sums of a batch instead of the model, where this
    process holds only a part of it. rows: of a batch that a process runs at once, default all; the same sums up to
    rounding.
    """
    objective = objective or CausalLM()
    readers = (0, 1) if world is None else (world.data_rank, world.data_size)
    if world is not None and score is None:
        shared = world.layout.context
        readers = (readers[0] * shared + world.place("context"), readers[1] * shared)
    score = score or _scored_by(model, objective, compute)
    sums: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for batch in batches:
        shares = [_share(batch, at, readers[1]) for at in range(readers[1])]
        largest = max(len(share["input_ids"]) for share in shares)
        parts = [_parts(share, rows or largest, largest) for share in shares]
        # Part by part: some terms, such as the balance of experts, do not add over rows.
        for part in chain.from_iterable(parts):
            for name, count in objective.counts(part).items():
                counts[name] = counts.get(name, 0) + count
        for part in parts[readers[0]]:
            with eager(model):
                found, metrics = score(part)
            for name, value in {**found, "accuracy": metrics["accuracy"][0]}.items():
                sums[name] = sums.get(name, 0.0) + value.double()
    if world is not None and world.size > 1 and sums:
        together = world.sum(torch.stack([value.to(world.device) for value in sums.values()]), "updates")
        sums = dict(zip(sums, together, strict=True))
    units = {**counts, "accuracy": counts["loss"]}
    return {name: float(value) / max(units[name], 1) for name, value in sums.items()} | {"tokens": counts["loss"]}


def _scored_by(model: nn.Module, objective: Objective, compute: Compute) -> Score:
    def score(batch: Mapping[str, Any]) -> tuple[Sums, Metrics]:
        here = {name: tensor.to(compute.device) for name, tensor in batch.items()}
        with compute.autocast():
            terms = objective.terms(model, here)
        return terms.sums, terms.metrics

    return score


def _share(batch: Mapping[str, Any], reader: int, readers: int) -> dict[str, Any]:
    """A reader's rows of a batch; padding where there are too few for all."""
    rows = len(batch["input_ids"])
    edges = [rows * at // readers for at in (reader, reader + 1)]
    return {name: tensor[slice(*edges)] for name, tensor in batch.items()} if edges[0] < edges[1] else dict(
        nothing(batch))


def _parts(batch: Mapping[str, Any], rows: int, largest: int) -> list[dict[str, Any]]:
    """A reader's batch, `rows` or fewer at a time; as many parts for all readers, the `largest` of whose shares is
    known: they may wait for each other."""
    parts = -(-largest // rows)
    return [_share(batch, at, parts) for at in range(parts)]


def validate_text(model: nn.Module, shards: TokenShards, context: int, batch: int, tokens: int,
                  compute: Compute) -> dict[str, float]:
    """`validate` on the first whole documents of `shards` that fit into `tokens`, with bits per byte of their text."""
    batches = EvaluationBatches(shards, context, batch, limit_tokens=tokens)
    scores = validate(model, batches, compute)
    return {**scores, "bits_per_byte": bits_per_byte(scores, batches.total_bytes)}


def bits_per_byte(scores: Mapping[str, float], total_bytes: int) -> float:
    """The summed loss in bits over the bytes of the text."""
    return scores["loss"] * scores["tokens"] / (math.log(2) * total_bytes)
