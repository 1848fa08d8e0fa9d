"""The loss on held-out text, as nats a token and bits a byte."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from gristmill.objectives import CausalLM, Objective
from gristmill.tokens import EvaluationBatches, TokenShards
from gristmill.training.compile import eager
from gristmill.training.device import Compute


@torch.no_grad()
def validate(model: nn.Module, batches: Iterable[Mapping[str, Any]], compute: Compute,
             objective: Objective | None = None) -> dict[str, float]:
    """Mean loss (nats a target) over `batches`, the share of targets that were the likeliest token (`accuracy`), the
    number of targets (`tokens`), and the mean of every further term under its name. objective: default causal LM."""
    objective = objective or CausalLM()
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for batch in batches:
        here = {name: tensor.to(compute.device) for name, tensor in batch.items()}
        with eager(), compute.autocast():
            terms = objective.terms(model, here)
        for name, count in objective.counts(batch).items():
            counts[name] = counts.get(name, 0) + count
        for name, value in terms.sums.items():
            sums[name] = sums.get(name, 0.0) + float(value)
        sums["accuracy"] = sums.get("accuracy", 0.0) + float(terms.metrics["accuracy"][0])
    units = {**counts, "accuracy": counts["loss"]}
    return {name: value / max(units[name], 1) for name, value in sums.items()} | {"tokens": counts["loss"]}


def validate_text(model: nn.Module, shards: TokenShards, context: int, batch: int, tokens: int,
                  compute: Compute) -> dict[str, float]:
    """`validate` on the first whole documents of `shards` that fit into `tokens`, with bits per byte of their text."""
    batches = EvaluationBatches(shards, context, batch, limit_tokens=tokens)
    scores = validate(model, batches, compute)
    return {**scores, "bits_per_byte": bits_per_byte(scores, batches.total_bytes)}


def bits_per_byte(scores: Mapping[str, float], total_bytes: int) -> float:
    """The summed loss in bits over the bytes of the text."""
    return scores["loss"] * scores["tokens"] / (math.log(2) * total_bytes)
