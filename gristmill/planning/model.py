"""The plan of a model: parameters by part, FLOPs of a token, cache of a token, weights in every precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gristmill.core.config import to_plain
from gristmill.core.errors import UserError
from gristmill.planning.anatomy import Anatomy, anatomy
from gristmill.planning.flops import Flops, cached, flops
from gristmill.planning.memory import WEIGHT_BYTES

CACHE_BYTES = {"fp32": 4, "bf16": 2, "fp8": 1}
"""Bytes of a number in the cache."""


def cache_numbers(found: Anatomy, side: str = "target") -> int:
    """Numbers that a cache keeps of one token: of the text that is written, or (`source`) of what an encoder read."""
    return sum(2 * layer.kv_dim for layer in found.attentions
               if layer.queries == "target" and layer.keys == side and found.causal)


def cache_tokens(found: Anatomy, context: int) -> float:
    """Numbers in the cache of a text of `context` tokens; layers with a window need no more than that."""
    return sum(2.0 * layer.kv_dim * cached(layer.pattern, context) for layer in found.attentions
               if layer.queries == layer.keys == "target" and found.causal)


@dataclass(frozen=True)
class ModelPlan:
    """Exact, but for the FLOPs of causal attention, which count half of all pairs."""

    name: str
    config: Any
    anatomy: Anatomy
    flops: Flops

    def as_json(self) -> dict[str, Any]:
        found, context = self.anatomy, self.flops.context
        numbers, source = cache_numbers(found), cache_numbers(found, "source") if found.two_stacks else 0
        return {
            "name": self.name, "family": self.config.family,
            "parameters": {"total": found.total, "active": found.active, "matmul": round(found.matmul_parameters),
                           "largest_block": found.largest_block,
                           **{part: count for part, count in found.parameters.items() if count}},
            "flops_per_token": self.flops.as_json(),
            "kv_cache_bytes_per_token": {name: size * numbers for name, size in CACHE_BYTES.items()},
            "kv_cache_bytes_per_source_token": {name: size * source for name, size in CACHE_BYTES.items()},
            "kv_cache_bytes_at_context": {name: size * cache_tokens(found, context)
                                          for name, size in CACHE_BYTES.items()},
            "weights_bytes": {name: size * found.total for name, size in WEIGHT_BYTES.items()},
            "config": to_plain(self.config),
        }


def plan_model(name: str, config: Any, context: int | None = None, targets: int | None = None,
               predicted: float = 1.0) -> ModelPlan:
    """Plan a model. context, targets, predicted: see `flops.flops`. UserError for rows without tokens."""
    for where, value in (("--context", context), ("--targets", targets)):
        if value is not None and value < 1:
            raise UserError(f"{value} tokens a row", where=where, fix="rows have at least one token")
    return ModelPlan(name, config, anatomy(config), flops(config, context, targets=targets, predicted=predicted))
