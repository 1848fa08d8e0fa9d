"""The shape of config classes: which type stands at which key, and how to say it in words."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from gristmill.core.config import Reference

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a mapping",
          list: "a list", tuple: "a list", type(None): "nothing"}


def field_types(cls: Any) -> dict[str, Any]:
    """Field name -> annotation (with its `Annotated` extras) of a config class."""
    return _field_types(cls)


@functools.cache
def _field_types(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def is_config(annotation: Any) -> bool:
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def bare(annotation: Any) -> Any:
    """The annotation without `Annotated`."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def members(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, `None` left out; `Annotated` is kept on each."""
    inner = bare(annotation)
    if get_origin(inner) in (Union, types.UnionType):
        return [m for part in get_args(inner) for m in members(part)]
    return [] if inner is type(None) or inner is None else [annotation]


def accepts_none(annotation: Any) -> bool:
    inner = bare(annotation)
    if get_origin(inner) in (Union, types.UnionType):
        return any(accepts_none(part) for part in get_args(inner))
    return inner is type(None) or inner is None


def reference_of(annotation: Any) -> Reference | None:
    """The Reference mark of an annotation or of one of its alternatives."""
    for member in members(annotation):
        if get_origin(member) is Annotated:
            for extra in get_args(member)[1:]:
                if isinstance(extra, Reference):
                    return extra
    return None


def literal_values(annotation: Any) -> tuple[Any, ...]:
    """The choices of a Literal, else nothing."""
    inner = bare(annotation)
    return get_args(inner) if get_origin(inner) is Literal else ()


def discriminator(classes: list[type]) -> str | None:
    """The field whose Literal tells the config classes of a union apart."""
    if len(classes) < 2:
        return None
    for name in field_types(classes[0]):
        choices = [literal_values(field_types(c).get(name)) for c in classes]
        if all(choices) and len({v for values in choices for v in values}) == sum(map(len, choices)):
            return name
    return None


def config_for(annotation: Any, value: Any) -> type | None:
    """The config class that a mapping at `annotation` is meant to be; None if it cannot be told."""
    if is_config(type(value)):
        return type(value)
    classes = [bare(m) for m in members(annotation) if is_config(bare(m))]
    if len(classes) == 1:
        return classes[0]
    field = discriminator(classes)
    if field and isinstance(value, dict) and field in value:
        return next((c for c in classes if value[field] in literal_values(field_types(c)[field])), None)
    return None


def child(annotation: Any, value: Any, key: str | int) -> Any:
    """The annotation of `value[key]`, or None where the shape says nothing."""
    if isinstance(value, dict) or is_config(type(value)):
        cls = config_for(annotation, value)
        if cls is not None:
            return field_types(cls).get(str(key))
        for member in members(annotation):
            if get_origin(bare(member)) is dict:
                return get_args(bare(member))[1]
    if isinstance(value, (list, tuple)):
        for member in members(annotation):
            arguments = get_args(bare(member))
            if get_origin(bare(member)) is list and arguments:
                return arguments[0]
            if get_origin(bare(member)) is tuple and arguments:
                if len(arguments) == 2 and arguments[1] is Ellipsis:
                    return arguments[0]
                return arguments[int(key)] if int(key) < len(arguments) else None
    return None


def in_words(annotation: Any) -> str:
    """What may stand here, for a message: `a whole number or auto`."""
    said: list[str] = []
    for member in members(annotation):
        word = _one_in_words(member)
        if word not in said:
            said.append(word)
    if not said:
        return "any value"
    return " or ".join(said)


def _one_in_words(annotation: Any) -> str:
    reference = reference_of(annotation)
    if reference:
        return f"the name of a {' or '.join(reference.kinds)}"
    inner = bare(annotation)
    if literal_values(inner):
        return "one of " + ", ".join(f"`{v}`" for v in literal_values(inner))
    if is_config(inner):
        return f"a mapping with {', '.join(field_types(inner))}" if field_types(inner) else "an empty mapping"
    origin = get_origin(inner)
    if origin is list and get_args(inner):
        return f"a list ({in_words(get_args(inner)[0])} each)"
    return _WORDS.get(origin or inner, getattr(inner, "__name__", str(inner)))
