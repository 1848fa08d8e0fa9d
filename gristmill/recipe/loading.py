"""Reading a recipe's YAML: plain values, and the line on which every one of them stands.

Scalars follow YAML 1.2: `yes`, `on` and `1:30` are text, `1e-4` is a number. Where such a word meets a field of
another type, the message explains it (recipe/explain.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gristmill.core.errors import UserError

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_NODES = 100_000

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_OCTAL_LOOKING = re.compile(r"[-+]?0[0-9]+\Z")
_PREFIXED = re.compile(r"0(x[0-9a-fA-F]+|o[0-7]+)\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z")
_PLAIN_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:bool",
               "tag:yaml.org,2002:null", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"}


@dataclass(frozen=True)
class Document:
    """A parsed recipe before it is typed.

    value: mappings, lists and scalars. origin: what to call it in messages. positions: key path -> `file:line`.
    text: the source as written, empty where there was none.
    """

    value: Any
    origin: str
    positions: dict[KeyPath, str] = field(default_factory=dict)
    text: str = ""

    def where(self, path: KeyPath) -> str:
        """`file:line` of `path`, or of the nearest thing around it that has a line."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.positions:
                return self.positions[path[:length]]
        return self.origin


def read_yaml(path: Path) -> Document:
    """Read a YAML file; a missing, unreadable or broken one is a UserError with its line."""
    path = Path(path)
    if path.is_dir():
        raise UserError("this is a folder, not a recipe", where=str(path), fix="name the recipe's YAML file")
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        near = sorted(p.name for p in path.parent.glob("*.y*ml"))[:8] if path.parent.is_dir() else []
        fix = f"files there: {', '.join(near)}" if near else "check the path"
        raise UserError("this recipe does not exist", where=str(path), fix=fix) from error
    except OSError as error:
        raise UserError(f"cannot read this recipe: {error.strerror}", where=str(path)) from error
    if len(data) > MAX_BYTES:
        raise UserError(f"{len(data)} bytes is too large for a recipe (at most {MAX_BYTES})", where=str(path))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"byte {error.start} is not UTF-8", where=f"{path}:{line}",
                        fix="save the file as UTF-8") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, origin: str) -> Document:
    """Parse YAML text; see the module's docstring for the rules."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise UserError("the recipe is empty", where=origin, fix="give it `name:` and `stages:`")
        builder = _Builder(origin)
        value = builder.build(node, ())
    except yaml.MarkedYAMLError as error:
        raise _yaml_error(error, origin) from error
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML: {' '.join(str(error).split())}", where=origin) from error
    except RecursionError as error:
        raise UserError("nested too deep for a recipe", where=origin) from error
    finally:
        loader.dispose()
    return Document(value, origin, builder.positions, text)


def parse_scalar_or_flow(text: str, origin: str) -> Any:
    """The value of `--set path=TEXT`: one YAML value by the same rules; empty text is null."""
    if not text.strip():
        return None
    return parse_yaml(text, origin).value


def _yaml_error(error: yaml.MarkedYAMLError, origin: str) -> UserError:
    mark = error.problem_mark or error.context_mark
    where = f"{origin}:{mark.line + 1}" if mark else origin
    problem = " ".join(part for part in (error.context, error.problem) if part)
    fix = None
    if "'\\t'" in problem:
        fix = "indent with spaces, not tabs"
    elif "expected a single document" in problem:
        fix = "keep one recipe in a file: remove the line `---` between them"
    elif "mapping values are not allowed" in problem:
        fix = "put text that contains `: ` in quotes"
    return UserError(f"not valid YAML: {problem}", where=where, fix=fix)


class _Builder:
    """Turns YAML nodes into values while noting where each stands."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.positions: dict[KeyPath, str] = {}
        self.count = 0
        self.open: set[int] = set()

    def at(self, node: yaml.Node) -> str:
        return f"{self.origin}:{node.start_mark.line + 1}"

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self.count += 1
        if self.count > MAX_NODES:
            raise UserError(f"more than {MAX_NODES} values (do aliases multiply?)", where=self.at(node),
                            fix="write the recipe without nested aliases")
        if node.tag not in _PLAIN_TAGS and not (
                isinstance(node, yaml.ScalarNode) and node.tag.startswith("tag:yaml.org,2002:") and node.style is None):
            raise UserError(f"the tag `{node.tag.replace('tag:yaml.org,2002:', '!!')}` is not allowed in a recipe",
                            where=self.at(node), fix="remove the tag; plain values only")
        self.positions.setdefault(path, self.at(node))
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if id(node) in self.open:
            raise UserError("an alias that contains itself", where=self.at(node), fix="write the value out")
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
            assert isinstance(node, yaml.MappingNode)
            return self.mapping(node, path)
        finally:
            self.open.discard(id(node))

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        value: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError("a key must be plain text", where=self.at(key_node))
            key = key_node.value
            if key == "<<" and key_node.style is None:
                raise UserError("merge keys (`<<`) are not part of YAML 1.2", where=self.at(key_node),
                                fix="repeat the fields, or share the whole value with an anchor and an alias")
            if key in lines:
                raise UserError(f"the key `{key}` stands twice (first on line {lines[key]})", where=self.at(key_node),
                                fix="remove one of them")
            lines[key] = key_node.start_mark.line + 1
            self.positions[(*path, key)] = self.at(key_node)
            value[key] = self.build(value_node, (*path, key))
        return value

    def scalar(self, node: yaml.ScalarNode) -> Any:
        text = node.value
        if node.style is not None or (node.tag == "tag:yaml.org,2002:str" and _explicit_str(node)):
            return text
        if text in ("", "~", "null", "Null", "NULL"):
            return None
        if text in ("true", "True", "TRUE"):
            return True
        if text in ("false", "False", "FALSE"):
            return False
        if _OCTAL_LOOKING.match(text):
            raise UserError(f"`{text}` reads as octal to some and as decimal to others", where=self.at(node),
                            fix=f"write {int(text)} for the number or \"{text}\" for the text")
        if _NOT_FINITE.match(text):
            raise UserError(f"`{text}` is not a finite number", where=self.at(node), fix="give a finite number")
        if _INTEGER.match(text):
            if len(text) > 30:
                raise UserError("this number has too many digits", where=self.at(node))
            return int(text)
        if _PREFIXED.match(text):
            return int(text, 0)
        if _FLOAT.match(text):
            number = float(text)
            if number in (float("inf"), float("-inf")):
                raise UserError(f"`{text}` is too large a number", where=self.at(node))
            return number
        return text


def _explicit_str(node: yaml.ScalarNode) -> bool:
    """`!!str 5` has the tag of text although its plain form would not resolve to text."""
    implicit = yaml.SafeLoader.yaml_implicit_resolvers
    for tag, pattern in [*implicit.get(node.value[:1], []), *implicit.get(None, [])]:
        if pattern.match(node.value):
            return tag != "tag:yaml.org,2002:str"
    return False
