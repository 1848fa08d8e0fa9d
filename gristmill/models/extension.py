"""A longer context for a trained model: its rotary positions are stretched, its weights stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from gristmill.core.errors import UserError
from gristmill.models.config import DecoderConfig
from gristmill.models.layers.rotary import Rotary

KINDS = ("yarn", "linear", "dynamic")
"""Scalings that a context alone, or a factor, describes."""


def extended_config(
    config: Any, context: int | None = None, rope_scaling: str | Mapping[str, Any] | None = None
) -> DecoderConfig:
    """The config of the same weights with another context, other rope scaling, or both.

    context: longest sequence from now on. rope_scaling: `yarn` (arXiv:2309.00071; also the default where the context
    grows) or `linear` (arXiv:2306.15595), whose factor follows from the two contexts, or `dynamic` (factor 2), which
    stretches what is longer than the trained context by as much as it needs; or a dictionary as in public configs,
    {"rope_type": ..., "factor": ...}; `none` stretches nothing. UserError where it cannot be done.
    """
    if not isinstance(config, DecoderConfig) or config.positions != "rotary":
        raise UserError(f"a {config.family} model has no rotary positions to stretch", where="context",
                        fix="train one with a longer context, or extend a llama, mistral, qwen or palm model")
    wanted = config.context if context is None else context
    trained = trained_context(config)
    if rope_scaling is None:
        rope_scaling = "yarn" if wanted > config.context else config.rope_scaling or "none"
    if isinstance(rope_scaling, str):
        rope_scaling = _of_kind(rope_scaling, wanted, trained)
    elif rope_scaling.get("rope_type", rope_scaling.get("type")) in ("yarn", "llama3"):
        rope_scaling = {"original_max_position_embeddings": trained, **rope_scaling}
    kind = (rope_scaling or {}).get("rope_type")
    if kind == "dynamic" and wanted != trained:
        raise UserError(f"dynamic scaling stretches what is longer than the trained context, so that this stays "
                        f"{trained}", where="context", fix="leave `context` out, or choose yarn or linear")
    try:
        return dataclasses.replace(config, context=wanted, rope_scaling=None if rope_scaling is None else
                                   dict(rope_scaling))
    except ValueError as error:
        name, _, problem = str(error).partition(": ")
        raise UserError(problem or name, where=name if problem else "rope_scaling") from error


def trained_context(config: DecoderConfig) -> int:
    """Longest sequence before any scaling."""
    scaling = config.rope_scaling or {}
    if scaling.get("rope_type") == "linear":
        return round(config.context / scaling["factor"])
    return int(scaling.get("original_max_position_embeddings", config.context))


def _of_kind(kind: str, wanted: int, trained: int) -> dict[str, Any] | None:
    if kind in ("none", "default"):
        return None
    if kind not in KINDS:
        raise UserError(f"rope scaling {kind!r} is not known", where="rope_scaling",
                        fix=f"choose one of {', '.join(KINDS)}, none, or give a dictionary as in public configs")
    if kind == "dynamic":
        return {"rope_type": "dynamic", "factor": 2.0}
    if wanted <= trained:
        raise UserError(f"a context of {wanted} needs no scaling: the model was trained on {trained}", where="context",
                        fix="raise `context`, or leave `rope_scaling` out")
    scaling = {"rope_type": kind, "factor": wanted / trained}
    return {**scaling, "original_max_position_embeddings": trained} if kind == "yarn" else scaling


def extend_context(
    model: Any, context: int | None = None, rope_scaling: str | Mapping[str, Any] | None = None
) -> Any:
    """The same model, in place, with another context or rope scaling (`extended_config`)."""
    config = extended_config(model.config, context, rope_scaling)
    model.config = config
    rotary = Rotary(config.head_dim, config.rope_theta, config.rope_scaling, config.context)
    rotary.build_tables(model.head_weight.device)
    model.rotary = rotary
    return model
