"""Reading the config.json of a public decoder, one checked value after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gristmill.core.errors import UserError
from gristmill.models.config import DecoderConfig

WHERE = "config.json"


def number(public: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """A value that must be a number; `default` where it is missing or null. UserError for anything else."""
    value = public.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{name} is {value!r}", where=WHERE, fix="every size in config.json must be a number")
    return value


def refuse(public: Mapping[str, Any], harmless: Mapping[str, tuple[Any, ...]]) -> None:
    """UserError for an option that changes the computation; `harmless`: the values with which it does not."""
    for name, values in harmless.items():
        if public.get(name) not in values:
            raise UserError(f"{name} = {public[name]!r} is not supported", where=WHERE,
                            fix=f"supported: {values[0]!r} or leaving it out")


def rope(public: Mapping[str, Any], theta: float = 10_000.0) -> tuple[float, dict[str, Any] | None]:
    """(theta, scaling) from the older (`rope_theta`, `rope_scaling`) or the newer form (`rope_parameters`)."""
    newer = dict(public.get("rope_parameters") or {})
    stated = public.get("rope_theta")
    theta = float(newer.pop("rope_theta", theta if stated is None else stated))
    scaling = newer or dict(public.get("rope_scaling") or {})
    kind, context = scaling.get("rope_type") or scaling.get("type"), public.get("max_position_embeddings")
    old = scaling.get("original_max_position_embeddings")
    if kind == "yarn" and scaling.get("factor") is None and context and old:
        scaling["factor"] = context / old
    if kind in ("llama3", "yarn") and old is None:
        scaling["original_max_position_embeddings"] = context
    return theta, scaling or None


def scaling_to_public(config: DecoderConfig) -> dict[str, Any] | None:
    """The rope scaling of a config as a dictionary of its own: who reads it may add to it."""
    return None if config.rope_scaling is None else dict(config.rope_scaling)


def decoder(**fields: Any) -> DecoderConfig:
    """A config of these values; UserError where they make no model."""
    try:
        return DecoderConfig(**fields)
    except (ValueError, TypeError) as error:
        raise UserError(str(error), where=WHERE, fix="correct config.json") from error


TRAINING_ONLY = ("dropout", "stochastic_depth")
"""Fields that change nothing after training and have no public name; written under ours where they are not zero."""


def training_only(config: DecoderConfig) -> dict[str, float]:
    """What config.json says of them."""
    return {name: getattr(config, name) for name in TRAINING_ONLY if getattr(config, name)}


def read_training_only(public: Mapping[str, Any]) -> dict[str, float]:
    """The inverse."""
    return {name: number(public, name, 0.0) for name in TRAINING_ONLY}
