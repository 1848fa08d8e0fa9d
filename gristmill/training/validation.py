"""The loss on held-out text, as nats a token and bits a byte."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from gristmill.objectives import CausalLM
from gristmill.tokens import EvaluationBatches, TokenShards
from gristmill.training.compile import eager
from gristmill.training.device import Compute


@torch.no_grad()
def validate(model: nn.Module, batches: Iterable[Mapping[str, Any]], compute: Compute) -> dict[str, float]:
    """Mean loss (nats a token), next-token accuracy and the number of targets over `batches`."""
    objective, total, correct, count = CausalLM(), 0.0, 0.0, 0
    for batch in batches:
        here = {name: tensor.to(compute.device) for name, tensor in batch.items()}
        with eager(), compute.autocast():
            terms = objective.terms(model, here)
        total += float(terms.sums["loss"])
        correct += float(terms.metrics["accuracy"][0])
        count += objective.counts(batch)["loss"]
    return {"loss": total / max(count, 1), "accuracy": correct / max(count, 1), "tokens": count}


def validate_text(model: nn.Module, shards: TokenShards, context: int, batch: int, tokens: int,
                  compute: Compute) -> dict[str, float]:
    """`validate` on the first whole documents of `shards` that fit into `tokens`, with bits per byte of their text."""
    batches = EvaluationBatches(shards, context, batch, limit_tokens=tokens)
    scores = validate(model, batches, compute)
    return {**scores, "bits_per_byte": scores["loss"] * scores["tokens"] / (math.log(2) * batches.total_bytes)}
