"""Functions of Python source text: signature, docstring, body. Read with `ast`, never executed."""

from __future__ import annotations

import ast
import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class PythonFunction:
    """One `def` or `async def`.

    signature: the `def ...:` line(s) as one line, decorators left out. docstring: cleaned as `inspect.cleandoc` does.
    summary: its first line with text. body: the statements after the docstring, indented by 4 spaces (deeper lines
    keep their relative indentation; text inside multi-line strings is untouched where it is not indented that far).
    source: the whole `def`, dedented. line: where it begins, from 1.
    """

    name: str
    qualified_name: str
    signature: str
    docstring: str
    summary: str
    body: str
    source: str
    line: int


def functions(text: str) -> list[PythonFunction]:
    """Every function and method of a module in the order of the text; [] for text that does not parse."""
    tree = parse(text)
    if tree is None:
        return []
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    try:
        found = [_describe(node, qualified, lines) for node, qualified in _walk(tree)]
    except RecursionError:
        return []
    return sorted((f for f in found if f is not None), key=lambda f: f.line)


def parse(text: str) -> ast.Module | None:
    """The syntax tree of a module, or None for whatever Python refuses to parse (for any reason)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in somebody's text is not our warning
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return None


def _walk(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    """Functions with their qualified names; without recursion, since foreign trees can be deep."""
    waiting: list[tuple[ast.AST, str]] = [(tree, "")]
    while waiting:
        node, prefix = waiting.pop()
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield child, prefix + child.name
                inner = f"{prefix}{child.name}.<locals>."
            elif isinstance(child, ast.ClassDef):
                inner = f"{prefix}{child.name}."
            if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
                waiting.append((child, inner))


def _describe(node: ast.FunctionDef | ast.AsyncFunctionDef, qualified: str, lines: list[str]) -> PythonFunction | None:
    """None for functions that share their line with other code: they cannot be cut out by lines."""
    end = node.end_lineno or node.lineno
    source_lines = lines[node.lineno - 1 : end]
    indent = source_lines[0][: node.col_offset]
    if indent.strip():
        return None
    documented = ast.get_docstring(node, clean=False)
    rest = node.body[1:] if documented is not None else node.body
    if (rest and rest[0].lineno == node.lineno) or node.body[0].lineno == node.lineno:
        return None
    body = ""
    if rest:
        first = min([rest[0].lineno, *(d.lineno for d in getattr(rest[0], "decorator_list", []))])
        after = node.body[0].end_lineno if documented is not None else _signature_end(node, lines)
        while first - 1 > (after or 0) and lines[first - 2].strip().startswith("#"):
            first -= 1  # comments in front of the first statement belong to it
        body_lines = lines[first - 1 : end]
        if body_lines[0][: rest[0].col_offset].strip() and not body_lines[0].lstrip().startswith(("#", "@")):
            return None
        body = _indented(body_lines, lines[rest[0].lineno - 1][: rest[0].col_offset])
    clean = inspect.cleandoc(documented) if documented is not None else ""
    summary = next((line.strip() for line in clean.split("\n") if line.strip()), "")
    return PythonFunction(
        name=node.name, qualified_name=qualified, signature=_signature(node), docstring=clean, summary=summary,
        body=body, source=_without(source_lines, indent), line=node.lineno,
    )


def _signature_end(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Number of the line on which the signature ends: the last of its parts, up to the colon."""
    parts: list[ast.AST] = [node.args, *([node.returns] if node.returns else [])]
    ends = (getattr(n, "end_lineno", None) or 0 for part in parts for n in ast.walk(part))
    last = max(node.lineno, *ends)
    while last < node.body[0].lineno - 1 and not lines[last - 1].split("#")[0].rstrip().endswith(":"):
        last += 1
    return last


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    kind = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return " ".join(f"{kind} {node.name}({ast.unparse(node.args)}){returns}:".split())


def _without(lines: list[str], indent: str) -> str:
    return "\n".join(line.removeprefix(indent) if line.startswith(indent) else line.lstrip() for line in lines)


def _indented(lines: list[str], indent: str) -> str:
    moved = ("    " + line.removeprefix(indent) if line.startswith(indent) else line for line in lines)
    return "\n".join(line if line.strip() else "" for line in moved).rstrip()
