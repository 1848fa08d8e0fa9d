"""Configuration as plain, frozen dataclasses, and references between stages.

A config class is an ordinary dataclass: the training rooms need nothing but Python for it.
The recipe room reads the same classes through pydantic (unknown keys are refused there) and
turns the attribute docstrings into the JSON Schema of recipes.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def config(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass that pydantic reads with unknown keys forbidden.

    Range checks belong into `__post_init__`, through `require`; they hold with and without pydantic.
    """
    cls.__pydantic_config__ = {  # type: ignore[attr-defined]
        "extra": "forbid",
        "use_attribute_docstrings": True,
        "allow_inf_nan": False,
    }
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def require(condition: bool, field: str, problem: str) -> None:
    """Raise ValueError("field: problem") unless `condition` holds; for use in `__post_init__`."""
    if not condition:
        raise ValueError(f"{field}: {problem}")


@dataclasses.dataclass(frozen=True)
class Reference:
    """Marks a config field as the name of an artifact of one of `kinds`.

    The text is a stage of the same recipe, `name@version`, a path, or a hub id.
    """

    kinds: tuple[str, ...]


CorpusRef = Annotated[str, Reference(("corpus",))]
TokenizerRef = Annotated[str, Reference(("tokenizer",))]
ModelRef = Annotated[str, Reference(("model",))]
EvaluationRef = Annotated[str, Reference(("evaluation",))]
ClassifierRef = Annotated[str, Reference(("classifier",))]
NgramRef = Annotated[str, Reference(("ngram",))]
PagesRef = Annotated[str, Reference(("pages",))]


def to_plain(value: Any) -> Any:
    """A config (or any nesting of dataclasses, lists, dicts, paths) as JSON-ready values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    return value


def non_default(value: Any) -> Any:
    """Like `to_plain`, without the fields that equal their default: what identity is made of.

    Adding a field with a default therefore leaves the identity of old artifacts alone.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = {}
        for f in dataclasses.fields(value):
            current = getattr(value, f.name)
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            if (f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING) or current != default:
                kept[f.name] = non_default(current)
        return kept
    if isinstance(value, dict):
        return {str(k): non_default(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [non_default(v) for v in value]
    return value


__all__ = [
    "ClassifierRef", "CorpusRef", "EvaluationRef", "ModelRef", "NgramRef", "PagesRef", "Reference", "TokenizerRef",
    "config", "non_default", "require", "to_plain",
]
