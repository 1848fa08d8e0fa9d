"""From pydantic's errors to ours: one line each, with the choices, the nearest name and the usual traps of YAML."""

from __future__ import annotations

import re
from typing import Any, get_origin

from pydantic import ValidationError

from gristmill.core.errors import GristmillError
from gristmill.recipe.errors import Problem, dotted, listed, nearest, shown
from gristmill.recipe.loading import Document, KeyPath
from gristmill.recipe.shape import (
    accepts_none,
    bare,
    child,
    config_for,
    discriminator,
    field_types,
    in_words,
    is_config,
    literal_values,
    members,
)

_UNKNOWN = {"unexpected_keyword_argument", "extra_forbidden"}
_MISSING = {"missing", "missing_argument", "missing_keyword_only_argument"}
_YES = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def explain(
    error: ValidationError, cls: type, body: dict[str, Any], base: KeyPath, document: Document
) -> list[Problem]:
    """The problems of one stage. cls: its config class; body: its fields as read; base: where they stand."""
    problems: list[Problem] = []
    for detail in error.errors(include_url=False):
        problem = _one(dict(detail), cls, body, base, document)
        if problem is not None:
            problems.append(problem)
    if not problems:
        first = error.errors()[0]
        problems.append(Problem(document.where(base), dotted((*base, *first["loc"])), first["msg"]))
    return problems


def _one(detail: dict[str, Any], cls: type, body: Any, base: KeyPath, document: Document) -> Problem | None:
    annotation: Any = cls
    value, path = body, base
    loc = list(detail["loc"])
    while loc:
        alternatives = members(annotation)
        if len(alternatives) > 1:
            label = str(loc.pop(0))
            fitting = [m for m in alternatives if _fits(m, value)]
            if not fitting:
                return _mismatch(annotation, value, path, document)
            chosen = config_for(annotation, value)
            classes = [bare(m) for m in fitting if is_config(bare(m))]
            if len(classes) > 1 and chosen is None:
                return _which(classes, value, path, document)
            wanted = chosen if classes else fitting[0]
            if not _is_label(label, wanted):
                return None
            annotation = wanted
            continue
        key = loc.pop(0)
        if not loc and detail["type"] in _UNKNOWN:
            return _unknown(str(key), annotation, value, path, document)
        if not loc and detail["type"] in _MISSING:
            kind = in_words(child(annotation, value, key))
            return Problem(document.where(path), dotted((*path, key)), f"required, but missing: {kind}")
        following = child(annotation, value, key)
        if isinstance(value, dict):
            value = value.get(str(key))
        elif isinstance(value, (list, tuple)) and isinstance(key, int) and key < len(value):
            value = value[key]
        path, annotation = (*path, key), following
    if detail["type"] in ("value_error", "assertion_error"):
        cause = detail.get("ctx", {}).get("error") or detail["msg"]
        return _refused(str(cause), annotation, value, path, document)
    return _mismatch(annotation, value, path, document, detail["msg"])


def _fits(member: Any, value: Any) -> bool:
    inner = bare(member)
    if isinstance(value, dict):
        return is_config(inner) or inner is dict or get_origin(inner) is dict
    if isinstance(value, (list, tuple)):
        return inner in (list, tuple) or get_origin(inner) in (list, tuple)
    return False


def _is_label(label: str, member: Any) -> bool:
    inner = bare(member)
    name = inner.__name__ if is_config(inner) else getattr(get_origin(inner) or inner, "__name__", "")
    return label == name or label.startswith(f"{name}[") or label.endswith(f"{name}]") or f"{name}," in label


def _unknown(key: str, annotation: Any, value: Any, path: KeyPath, document: Document) -> Problem:
    cls = config_for(annotation, value)
    names = list(field_types(cls)) if cls else []
    hint = nearest(key, names)
    if not hint and cls:
        for name, kind in field_types(cls).items():
            inside = [bare(m) for m in members(kind) if is_config(bare(m))]
            if any(key in field_types(c) for c in inside):
                hint = f"; it belongs under `{name}`, as `{name}.{key}`;"
                break
    message = f"unknown key{hint}{' ' if hint else '; '}{listed(names)}"
    return Problem(document.where((*path, key)), dotted((*path, key)), message)


def _which(classes: list[type], value: Any, path: KeyPath, document: Document) -> Problem:
    """A mapping that none of the union's config classes claims."""
    field = discriminator(classes)
    if field is None:
        names = sorted({n for c in classes for n in field_types(c)})
        return Problem(document.where(path), dotted(path), f"fits none of its forms; {listed(names)}")
    choices = [str(v) for c in classes for v in literal_values(field_types(c)[field])]
    if not isinstance(value, dict) or field not in value:
        return Problem(document.where(path), dotted((*path, field)), f"required, but missing; {listed(choices)}")
    got = value[field]
    message = f"{shown(got)} is not known here{nearest(str(got), choices)}"
    return Problem(document.where((*path, field)), dotted((*path, field)),
                   f"{message}{' ' if message.endswith('?') else '; '}{listed(choices)}")


def _mismatch(annotation: Any, value: Any, path: KeyPath, document: Document, otherwise: str = "") -> Problem:
    where, name = document.where(path), dotted(path)
    if annotation is None:
        return Problem(where, name, otherwise or f"{shown(value)} does not fit")
    alternatives = members(annotation)
    classes = [bare(m) for m in alternatives if is_config(bare(m))]
    if len(classes) > 1 and (field := discriminator(classes)):
        if isinstance(value, dict):
            return _which(classes, value, path, document)
        choices = [str(v) for c in classes for v in literal_values(field_types(c)[field])]
        return Problem(where, name, f"expected a mapping with `{field}`, got {shown(value)}; {field} is one of: "
                                    f"{', '.join(choices)}")
    choices = [str(v) for m in alternatives for v in literal_values(m)]
    if choices and len(choices) and all(literal_values(m) for m in alternatives):
        hint = nearest(str(value), choices)
        return Problem(where, name, f"{shown(value)} is not known here{hint}{' ' if hint else '; '}{listed(choices)}")
    return Problem(where, name, f"expected {in_words(annotation)}, got {shown(value)}{_trap(annotation, value)}")


def _trap(annotation: Any, value: Any) -> str:
    """How a value that looks right came to be of another type."""
    kinds = {bare(m) for m in members(annotation)}
    if value is None:
        return "; leave the key out to get its default" if not accepts_none(annotation) else ""
    if isinstance(value, str):
        if bool in kinds and value.lower() in _YES:
            return f"; `{value}` is text in YAML 1.2: write {_YES[value.lower()]}"
        if kinds & {int, float}:
            plain = value.replace("_", "")
            if re.fullmatch(r"[-+]?\d+", plain) or (
                float in kinds and re.fullmatch(r"[-+]?\d*\.?\d+([eE][-+]?\d+)?", plain)
            ):
                return f"; write {plain}" + ("" if "_" in value else " without quotes")
        if any(k is list or get_origin(k) is list for k in kinds):
            return f"; write [{value}] for a list of one"
    if isinstance(value, bool):
        return f'; write "{str(value).lower()}" in quotes for the text' if str in kinds else ""
    if isinstance(value, float) and int in kinds and value.is_integer():
        return f"; write {int(value)}"
    if isinstance(value, (int, float)) and str in kinds:
        return f'; write "{value}" in quotes for the text'
    return ""


def _refused(cause: str, annotation: Any, value: Any, path: KeyPath, document: Document) -> Problem:
    """A range check of the config class itself: `field: problem`."""
    field, separator, problem = cause.partition(": ")
    if separator and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", field):
        cls = config_for(annotation, value)
        if cls and field.split(".")[0] in field_types(cls):
            inner = (*path, *field.split("."))
            current = value
            for part in field.split("."):
                current = current.get(part) if isinstance(current, dict) else None
            given = f", got {shown(current)}" if current is not None and not isinstance(current, (dict, list)) else ""
            return Problem(document.where(inner), dotted(inner), f"{problem}{given}")
        if path and field == str(path[-1]):
            return Problem(document.where(path), dotted(path), problem)
    return Problem(document.where(path), dotted(path), cause)


def from_own_error(error: GristmillError, base: KeyPath, document: Document) -> Problem:
    """An error that a config class raised by itself while it was checked."""
    fix = f"; {error.fix}" if error.fix else ""
    inside = f"{error.where}: " if error.where else ""
    return Problem(document.where(base), dotted(base), f"{inside}{error.what}{fix}")
