"""References between stages: finding them in configs, checking them, and the order that follows from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gristmill.recipe.errors import Problem, dotted, nearest
from gristmill.recipe.loading import Document, KeyPath
from gristmill.recipe.shape import child, field_types, is_config, reference_of

NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}"
_VERSIONED = re.compile(rf"({NAME}/)?{NAME}@[0-9]+\Z")
_SLASHED = re.compile(rf"{NAME}/{NAME}\Z")


@dataclass(frozen=True)
class Found:
    """A reference in a config. path: the keys that lead to it; kinds: kinds of artifact that it accepts."""

    path: KeyPath
    text: str
    kinds: tuple[str, ...]


def find_references(config: Any) -> list[Found]:
    """All references in a config object, nested configs, lists and mappings included."""
    return list(_walk(config, type(config), ()))


def _walk(value: Any, annotation: Any, path: KeyPath) -> Iterator[Found]:
    if is_config(type(value)):
        for name, kind in field_types(type(value)).items():
            yield from _walk(getattr(value, name), kind, (*path, name))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _walk(item, child(annotation, value, i), (*path, i))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, child(annotation, value, key), (*path, key))
    elif isinstance(value, str) and value and annotation is not None:
        reference = reference_of(annotation)
        if reference is not None:
            yield Found(path, value, reference.kinds)


def graph(stages: Mapping[str, Any]) -> dict[str, list[str]]:
    """Stage -> the stages of the same recipe that it needs, in the order in which its config names them."""
    return {name: list(dict.fromkeys(f.text for f in find_references(config) if f.text in stages))
            for name, config in stages.items()}


def topological_order(needs: Mapping[str, list[str]]) -> list[str]:
    """Every stage after what it needs; otherwise as they stand in the file. The graph must have no cycle."""
    done: dict[str, None] = {}
    waiting = list(needs)
    while waiting:
        ready = next((name for name in waiting if all(n in done or n not in needs for n in needs[name])), None)
        if ready is None:
            raise ValueError(f"cycle: {' -> '.join(find_cycle(needs) or waiting)}")
        done[ready] = None
        waiting.remove(ready)
    return list(done)


def find_cycle(needs: Mapping[str, list[str]], among: set[str] | None = None) -> list[str] | None:
    """One cycle as a closed path [a, b, a], or None."""
    state: dict[str, int] = {}
    for start in needs:
        if state.get(start) or (among is not None and start not in among):
            continue
        path: list[str] = []
        stack: list[tuple[str, Iterator[str]]] = [(start, iter(needs[start]))]
        state[start] = 1
        path.append(start)
        while stack:
            name, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                state[name] = 2
                stack.pop()
                path.pop()
            elif following in needs and (among is None or following in among):
                if state.get(following) == 1:
                    return [*path[path.index(following):], following]
                if not state.get(following):
                    state[following] = 1
                    path.append(following)
                    stack.append((following, iter(needs[following])))
    return None


def closure(needs: Mapping[str, list[str]], target: str) -> set[str]:
    """`target` and everything that it needs, directly or not."""
    wanted, open_ = {target}, [target]
    while open_:
        for name in needs[open_.pop()]:
            if name in needs and name not in wanted:
                wanted.add(name)
                open_.append(name)
    return wanted


def check_references(stages: Mapping[str, Any], produces: Mapping[str, str], document: Document) -> list[Problem]:
    """Dangling references, references to the wrong kind, self references and cycles.

    stages: the configs that could be read; produces: stage -> kind of artifact, for every stage of the recipe.
    """
    problems: list[Problem] = []
    needs: dict[str, list[str]] = {name: [] for name in produces}
    for name, config in stages.items():
        for found in find_references(config):
            path = ("stages", name, *found.path)
            where, key = document.where(path), dotted(path)
            if found.text == name:
                problems.append(Problem(where, key, f"the stage `{name}` refers to itself; name another stage"))
            elif found.text in produces:
                if produces[found.text] not in found.kinds:
                    fitting = [n for n, kind in produces.items() if kind in found.kinds and n != name]
                    choices = f"stages that make one: {', '.join(fitting)}" if fitting else "no stage here makes one"
                    problems.append(Problem(where, key, f"`{found.text}` makes a {produces[found.text]}, but a "
                                                        f"{' or '.join(found.kinds)} is needed here; {choices}"))
                elif found.text not in needs[name]:
                    needs[name].append(found.text)
            elif (message := _dangling(found, name, produces)) is not None:
                problems.append(Problem(where, key, message))
    while (cycle := find_cycle(needs)) is not None:
        path = ("stages", cycle[0])
        problems.append(Problem(document.where(path), dotted(path),
                                f"stages need each other in a circle: {' -> '.join(cycle)}; remove one reference"))
        needs[cycle[0]] = [n for n in needs[cycle[0]] if n != cycle[1]]
    return problems


def _dangling(found: Found, stage: str, produces: Mapping[str, str]) -> str | None:
    """What is wrong with a reference to something outside the recipe, as far as that can be told from its text."""
    text = found.text
    if _VERSIONED.match(text) or _SLASHED.match(text):
        return None
    if text.startswith((".", "/", "~")) or "/" in text:
        if Path(text).expanduser().exists():
            return None
        return f"the path `{text}` does not exist; give an existing folder, or the name of a stage"
    if Path(text).is_dir():
        return None
    if "@" in text:
        return f"`{text}` is no artifact name; write name@version with a number, such as base@1"
    fitting = [n for n, kind in produces.items() if kind in found.kinds and n != stage]
    choices = f"stages that make a {' or '.join(found.kinds)}: {', '.join(fitting)}" if fitting else (
        f"no stage here makes a {' or '.join(found.kinds)}")
    hint = nearest(text, [n for n in produces if n != stage])
    return f"there is no stage `{text}`{hint}{' ' if hint else '; '}{choices}"
