"""Identity: what decides whether a finished artifact can stand for a stage.

It is a digest of the stage's kind, its semantics version, its config without the fields that equal their default,
the digests of the payloads behind its references, its seed, and whatever a stage says about inputs from outside
(`fingerprint`). Device, threads and workers are no part of it, nor are the names of stages and folders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from gristmill.core.hashing import digest
from gristmill.core.seeds import derive_seed
from gristmill.recipe.shape import child, field_types, is_config, literal_values, reference_of


def stage_seed(recipe_seed: int, stage: str) -> int:
    """The seed of one stage: the recipe's seed joined with the stage's name."""
    return derive_seed(recipe_seed, stage)


def fingerprint(config: Any) -> Any:
    """What a stage says about inputs besides its references (files, the standard library); None if it has none.

    Such a stage has a method `fingerprint() -> JSON value` that tells one state of those inputs from another.
    """
    return config.fingerprint() if hasattr(config, "fingerprint") else None


def identity(config: Any, seed: int, inputs: Mapping[str, str], outside: Any = None) -> str:
    """The identity (SHA-256, hex) of running `config`.

    seed: from `stage_seed`. inputs: reference text -> digest of the payload behind it. outside: from `fingerprint`.
    """
    cls = type(config)
    return digest({
        "kind": cls.kind, "semantics_version": cls.semantics_version, "config": _essential(config, cls, inputs),
        "seed": seed, **({} if outside is None else {"outside": outside}),
    })


def _essential(value: Any, annotation: Any, inputs: Mapping[str, str]) -> Any:
    if is_config(type(value)):
        kept = {}
        for field in dataclasses.fields(value):
            if not field.init:
                continue
            current, kind = getattr(value, field.name), field_types(type(value))[field.name]
            # A discriminator stays although it has a default: two kinds of source with equal fields are not the same.
            if current != _default(field) or len(literal_values(kind)) == 1 or (current and reference_of(kind)):
                kept[field.name] = _essential(current, kind, inputs)
        return kept
    if isinstance(value, dict):
        return {str(key): _essential(item, child(annotation, value, key), inputs) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_essential(item, child(annotation, value, i), inputs) for i, item in enumerate(value)]
    if isinstance(value, str) and value and annotation is not None and reference_of(annotation):
        return {"digest": inputs[value]}
    return value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
