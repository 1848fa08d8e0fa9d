"""The typed recipe: from YAML, a mapping or Python objects to checked stage configs."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path, PurePath
from typing import Any

from gristmill.core.config import to_plain
from gristmill.core.errors import GristmillError
from gristmill.recipe.errors import Problem, RecipeError, dotted, listed, nearest, shown
from gristmill.recipe.loading import Document, KeyPath, read_yaml
from gristmill.recipe.overrides import TOP, apply_overrides
from gristmill.recipe.references import NAME, check_references, graph, topological_order
from gristmill.recipe.registry import STAGES, stage_class

NAME_RULE = "letters, digits, `.`, `_` and `-`, at most 64, beginning with a letter, a digit or `_`"


@dataclass(frozen=True)
class Recipe:
    """The whole life of a model: named stages, their configs and a seed."""

    name: str
    stages: Mapping[str, Any]
    """Stage name -> config object (an instance of a stage class), in the order of the file."""
    seed: int = 0
    description: str = ""
    document: Document | None = field(default=None, compare=False, repr=False)
    """Where it was read from, for messages and for the copy beside the run."""

    def needs(self) -> dict[str, list[str]]:
        """Stage -> the stages of this recipe that it refers to."""
        return graph(self.stages)

    def order(self) -> list[str]:
        """The stages in the order in which they run."""
        return topological_order(self.needs())

    def to_plain(self) -> dict[str, Any]:
        """The recipe as a mapping that `load_recipe` reads back to an equal recipe."""
        stages = {name: {"uses": type(config).kind, **to_plain(config)} for name, config in self.stages.items()}
        said = {"description": self.description} if self.description else {}
        return {"name": self.name, "seed": self.seed, **said, "stages": stages}


def load_recipe(source: str | os.PathLike[str] | Mapping[str, Any] | Recipe,
                overrides: Iterable[str] | Mapping[str, Any] = ()) -> Recipe:
    """Read and check a recipe from a file, a mapping or a Recipe.

    overrides: texts `path=value`, or a mapping of dotted path -> value.
    Raises RecipeError with every problem at once, each with its line.
    """
    if isinstance(source, Recipe):
        document = Document(_plain(source.to_plain()), source.document.origin if source.document else "recipe")
    elif isinstance(source, Mapping):
        document = Document(_plain(source), "recipe")
    else:
        document = read_yaml(Path(source))
    return check_recipe(apply_overrides(document, overrides))


def check_recipe(document: Document) -> Recipe:
    """Type a parsed recipe; raises RecipeError with every problem."""
    problems: list[Problem] = []
    top = document.value
    if not isinstance(top, dict):
        raise RecipeError([Problem(document.where(()), "", f"a recipe is a mapping with {', '.join(TOP)}, "
                                                           f"but this is {shown(top)}")], document.origin)
    for key in top:
        if key not in TOP:
            hint = nearest(str(key), TOP)
            problems.append(
                Problem(document.where((key,)), key, f"unknown key{hint}{' ' if hint else '; '}{listed(TOP)}")
            )
    name, seed, description = top.get("name"), top.get("seed", 0), top.get("description", "")
    if "name" not in top:
        problems.append(Problem(document.where(()), "name", "required, but missing: the run's folder is called so"))
    elif not _is_name(name):
        problems.append(Problem(document.where(("name",)), "name", f"{shown(name)} cannot be a name; use {NAME_RULE}"))
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        problems.append(Problem(document.where(("seed",)), "seed",
                                f"expected a whole number from 0 to 2^63 - 1, got {shown(seed)}"))
    if not isinstance(description, str):
        problems.append(
            Problem(document.where(("description",)), "description", f"expected text, got {shown(description)}")
        )
    bodies = top.get("stages")
    if not isinstance(bodies, dict) or not bodies:
        what = (
            "required, but missing"
            if "stages" not in top
            else f"expected at least one named stage, got {shown(bodies)}"
        )
        problems.append(Problem(document.where(("stages",)), "stages", f"{what}; for example "
                                                                       "`corpus: {uses: data, sources: [...]}`"))
        bodies = {}
    stages, produces = _stages(bodies, document, problems)
    problems += check_references(stages, produces, document)
    if problems:
        raise RecipeError(problems, document.origin)
    return Recipe(name=str(name), stages=stages, seed=seed, description=description, document=document)


def _stages(
    bodies: dict[str, Any], document: Document, problems: list[Problem]
) -> tuple[dict[str, Any], dict[str, str]]:
    stages: dict[str, Any] = {}
    produces: dict[str, str] = {}
    for name, body in bodies.items():
        path: KeyPath = ("stages", name)
        where = document.where(path)
        if not _is_name(name):
            problems.append(Problem(where, dotted(path), f"cannot be a stage's name; use {NAME_RULE}"))
        if not isinstance(body, dict):
            problems.append(Problem(where, dotted(path), f"expected a mapping with `uses`, got {shown(body)}"))
            continue
        kind = body.get("uses")
        if not isinstance(kind, str) or kind not in STAGES:
            place = (*path, "uses") if "uses" in body else path
            hint = nearest(str(kind), STAGES) if kind else ""
            what = f"unknown stage kind {shown(kind)}" if "uses" in body else "required, but missing"
            problems.append(Problem(document.where(place), dotted((*path, "uses")),
                                    f"{what}{hint}{' ' if hint else '; '}{listed(STAGES)}"))
            continue
        try:
            cls = stage_class(kind)
            produces[name] = cls.produces
            stages[name] = _typed(cls, {k: v for k, v in body.items() if k != "uses"}, path, document, problems)
        except GristmillError as error:
            from gristmill.recipe.explain import from_own_error

            problems.append(from_own_error(error, path, document))
    return {n: s for n, s in stages.items() if s is not None}, produces


@functools.cache
def adapter(cls: type) -> Any:
    """pydantic's reader of a stage class; the class itself stays a plain dataclass."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _typed(cls: type, body: dict[str, Any], path: KeyPath, document: Document, problems: list[Problem]) -> Any:
    from pydantic import ValidationError

    from gristmill.recipe.explain import explain

    try:
        text = json.dumps(body, allow_nan=False)
    except (TypeError, ValueError) as error:
        problems.append(Problem(document.where(path), dotted(path), f"a value cannot be stored as JSON: {error}"))
        return None
    try:
        return adapter(cls).validate_json(text, strict=True)
    except ValidationError as error:
        problems += explain(error, cls, body, path, document)
        return None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(NAME, value) is not None


def _plain(value: Any) -> Any:
    """Python values as YAML would have given them; stage objects become mappings with `uses`."""
    if is_dataclass(value) and not isinstance(value, type):
        cls: Any = type(value)
        kind = {"uses": cls.kind} if hasattr(cls, "produces") else {}
        return {**kind, **_plain(to_plain(value))}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, PurePath) else value
