"""Running a foreign chat template: Jinja's sandbox, with limits on steps and on the size of every value.

Jinja's own sandbox keeps a template from Python's inside. What it leaves open is closed here: loops that never seem to
end, text that doubles until memory is gone, and anything random or of today's date, which would change ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from gristmill.core.errors import UserError

MAX_TEMPLATE = 256 * 1024
MAX_TEXT = 16 * 1024 * 1024
MAX_STEPS = 500_000
"""Turns of loops and calls in one rendering; a long conversation takes some thousands."""

REFUSED_METHODS = frozenset(
    {"center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map", "translate", "maketrans", "to_bytes"})
REFUSED_FILTERS = ("random", "center", "format", "batch", "slice", "wordwrap", "urlize", "xmlattr", "pprint")

_steps: ContextVar[list[int]] = ContextVar("steps")


class Refused(Exception):
    """The template called raise_exception, or wanted more than it may have."""


class Template:
    """A chat template, compiled once. Raises UserError where it is too long or no valid Jinja."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_TEMPLATE:
            raise UserError(f"the chat template is longer than {MAX_TEMPLATE} characters")
        try:
            self._template = _environment().from_string(source)
        except (jinja2.TemplateError, RecursionError, SyntaxError) as error:
            raise UserError(f"the chat template is no valid Jinja ({error})") from error

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text. Raises UserError where the template refuses, fails, or breaks a limit."""
        token, pieces, length = _steps.set([0]), [], 0
        try:
            for piece in self._template.generate(variables):
                length += len(piece)
                _check_size(length)
                pieces.append(piece)
        except Refused as error:
            raise UserError(f"the chat template refuses this conversation: {error}") from error
        except Exception as error:  # whatever a foreign template does wrong
            raise UserError(f"the chat template fails on this conversation ({error!r})") from error
        finally:
            _steps.reset(token)
        return "".join(pieces)


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` of public templates: its content, as it is."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Limits(NodeTransformer):
    """Loops are counted, and `a ~ b` becomes a call that looks at sizes first."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "counted", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        pieces = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(pieces, "concatenated", [], [], None, None, lineno=node.lineno)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def _parse(self, source: str, name: Any, filename: Any) -> nodes.Template:
        return _Limits().visit(super()._parse(source, name, filename))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, (str, bytes, int)) and attr in REFUSED_METHODS:
            return False  # they can make huge values of small ones
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """Give `str.format` no special way in: it is refused like the others."""
        return

    def call(self, context: Any, called: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        _count()
        owner, name = getattr(called, "__self__", None), getattr(called, "__name__", "")
        if isinstance(owner, str) and name == "replace" and len(args) >= 2:
            _check_replace(owner, *args[:2])
        if isinstance(owner, str) and name == "join" and args:
            return _joined(args[0], owner)
        return super().call(context, called, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if operator == "+" and not numbers:
            _check_size(_size(left) + _size(right))
        elif operator == "%" and not numbers:
            raise Refused("the template formats text with %")
        elif operator in ("*", "**") and not (
            numbers and abs(left) < 1e9 and abs(right) < (64 if operator == "**" else 1e9)
        ):
            raise Refused(f"the template computes {operator} with values that are too large")
        return super().call_binop(context, operator, left, right)


def _environment() -> _Environment:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    for name in REFUSED_FILTERS:
        del environment.filters[name]
    del environment.globals["lipsum"]
    replace, indent = environment.filters["replace"], environment.filters["indent"]
    environment.filters |= {
        "counted": _counted, "concatenated": lambda parts: _joined(parts, ""), "tojson": _to_json,
        "join": _join_filter, "replace": _guarded_replace(replace), "indent": _guarded_indent(indent),
    }
    environment.globals["raise_exception"] = _raise
    return environment


def _count() -> None:
    counter = _steps.get()
    counter[0] += 1
    if counter[0] > MAX_STEPS:
        raise Refused(f"the template takes more than {MAX_STEPS} steps")


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _count()
        yield value


def _raise(message: str) -> None:
    raise Refused(str(message))


def _size(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes, Sequence)) else 0


def _check_size(size: int) -> None:
    if size > MAX_TEXT:
        raise Refused(f"the template makes more than {MAX_TEXT} characters")


def _check_replace(text: str, old: Any, new: Any) -> None:
    _check_size(len(text) + text.count(str(old)) * len(str(new)))


def _joined(parts: Iterable[Any], separator: str) -> str:
    texts = [str(part) for part in _counted(parts)]
    _check_size(sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


def _join_filter(value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
    if attribute is not None:
        value = [item[attribute] for item in value]
    return _joined(value, str(d))


def _guarded_replace(replace: Callable[..., Any]) -> Callable[..., Any]:
    @jinja2.pass_eval_context
    def guarded(context: Any, s: Any, old: Any, new: Any, count: int | None = None) -> Any:
        _check_replace(str(s), old, new)
        return replace(context, s, old, new, count)

    return guarded


def _guarded_indent(indent: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(s: Any, width: Any = 4, first: bool = False, blank: bool = False) -> Any:
        _check_size(len(str(s)) + (str(s).count("\n") + 1) * (width if isinstance(width, int) else len(str(width))))
        return indent(s, width, first, blank)

    return guarded


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
             sort_keys: bool = False) -> str:
    """JSON as public templates expect it: not escaped for HTML."""
    if indent is not None and not 0 <= int(indent) <= 16:
        raise Refused("the template indents JSON too far")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
