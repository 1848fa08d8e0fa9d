"""`--set stages.base.budget.steps=50`: single values of a recipe replaced from the command line."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from gristmill.core.errors import UserError
from gristmill.recipe.errors import Problem, RecipeError, dotted, listed, nearest, shown
from gristmill.recipe.loading import Document, KeyPath, parse_scalar_or_flow
from gristmill.recipe.shape import child, config_for

TOP = ("name", "seed", "description", "stages")


def parse_override(text: str) -> tuple[KeyPath, Any]:
    """`path=value` -> key path and value; the value is YAML, so `[1, 2]`, `{a: 1}`, `null` and `"5"` work."""
    path, separator, value = text.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise UserError(f"`{text}` is no override", where="--set",
                        fix="write --set path.to.field=value, for example --set stages.base.budget.steps=50")
    return tuple(keys), parse_scalar_or_flow(value, f"--set {path.strip()}")


def apply_overrides(document: Document, overrides: Iterable[str] | Mapping[str, Any]) -> Document:
    """A copy of `document` with the overrides in place; unknown places are refused with the nearest name.

    Python callers may give a mapping of dotted path -> value. Where a config class lists `alternatives`
    (fields of which only one may be given), setting one removes the others.
    """
    if isinstance(overrides, Mapping):
        pairs = [(tuple(path.split(".")), value, f"set {path}") for path, value in overrides.items()]
    else:
        pairs = [(*parse_override(text), f"--set {text}") for text in overrides]
    if not pairs:
        return document
    value = copy.deepcopy(document.value)
    positions = dict(document.positions)
    problems = []
    for path, new, where in pairs:
        problem = _put(value, path, new, where, positions)
        if problem is not None:
            problems.append(problem)
    if problems:
        raise RecipeError(problems, document.origin)
    return Document(value, document.origin, positions)


def _put(root: Any, path: KeyPath, new: Any, where: str, positions: dict[KeyPath, str]) -> Problem | None:
    if not isinstance(root, dict):
        return Problem(where, dotted(path), "the recipe is no mapping")
    if path[0] not in TOP:
        return _no_such(where, path[:1], str(path[0]), TOP)
    current: Any = root
    annotation: Any = None
    walked: KeyPath = ()
    for key in path[:-1]:
        following, problem = _step(current, key, walked, where)
        if problem is not None:
            return problem
        if walked == ("stages",):
            annotation = _stage_annotation(following)
        elif annotation is not None:
            annotation = child(annotation, current, _key(current, key))
        walked = (*walked, _key(current, key))
        if following is None:
            following = {}
            current[_key(current, key)] = following
        current = following
    last = path[-1]
    if walked == ("stages",) and last not in current:
        return _no_such(where, (*walked, last), str(last), current)
    if isinstance(current, list):
        index = _key(current, last)
        if not isinstance(index, int) or not 0 <= index < len(current):
            return Problem(
                where, dotted((*walked, last)), f"a list of {len(current)} stands here; give an index from 0"
            )
        current[index] = new
        positions[(*walked, index)] = where
        return None
    if not isinstance(current, dict):
        return Problem(where, dotted(walked), f"{shown(current)} stands here, which has nothing inside to set")
    cls = config_for(annotation, current) if annotation is not None else None
    for other in getattr(cls, "alternatives", ()):
        if last in cls.alternatives and other != last:  # type: ignore[union-attr]
            current.pop(other, None)
    current[str(last)] = new
    full = (*walked, str(last))
    for old in [p for p in positions if p[: len(full)] == full]:
        del positions[old]
    positions[full] = where
    return None


def _key(current: Any, key: str | int) -> str | int:
    return int(key) if isinstance(current, list) and str(key).isdigit() else str(key)


def _step(current: Any, key: str | int, walked: KeyPath, where: str) -> tuple[Any, Problem | None]:
    at = (*walked, key)
    if isinstance(current, list):
        index = _key(current, key)
        if not isinstance(index, int) or index >= len(current):
            return None, Problem(where, dotted(at), f"a list of {len(current)} stands here; give an index from 0")
        return current[index], None
    if not isinstance(current, dict):
        return None, Problem(where, dotted(walked), f"{shown(current)} stands here, which has nothing inside to set")
    if walked == ("stages",) and key not in current:
        return None, _no_such(where, at, str(key), current)
    return current.get(str(key)), None


def _no_such(where: str, path: KeyPath, word: str, choices: Iterable[str]) -> Problem:
    hint = nearest(word, choices)
    return Problem(
        where, dotted(path), f"there is nothing of this name to set{hint}{' ' if hint else '; '}{listed(choices)}"
    )


def _stage_annotation(body: Any) -> Any:
    from gristmill.recipe.registry import STAGES, stage_class

    kind = body.get("uses") if isinstance(body, dict) else None
    return stage_class(kind) if isinstance(kind, str) and kind in STAGES else None
