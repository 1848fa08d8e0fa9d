"""Programs that say which completion is better; none of them runs what a model wrote."""

from __future__ import annotations

import ast
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """good: passes the check. trivial: passes, but says nothing. reason: what a person would want to know."""

    good: bool
    trivial: bool
    reason: str


def python_parses(signature: str, body: str) -> Verdict:
    """Does the completed function parse, as one function and nothing else, and does its body do something?

    signature: the `def` line. body: the model's text, with or without the `def` line repeated.
    """
    source = body if body.lstrip().startswith(("def ", "async def ", "@")) else f"{signature}\n{body}"
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Verdict(False, False, f"{type(error).__name__}: {getattr(error, 'msg', error)}")
    if len(tree.body) != 1 or not isinstance(tree.body[0], (ast.FunctionDef, ast.AsyncFunctionDef)):
        return Verdict(False, False, "not exactly one function")
    return Verdict(True, is_trivial(tree.body[0]), "parses")


def is_trivial(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """True for bodies that only document, pass, return a constant, or raise NotImplementedError."""
    statements = [
        s for s in function.body
        if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)) and not isinstance(s, ast.Pass)
    ]
    if not statements:
        return True
    if len(statements) > 1:
        return False
    only = statements[0]
    if isinstance(only, ast.Return):
        return only.value is None or isinstance(only.value, ast.Constant)
    if isinstance(only, ast.Raise):
        name = only.exc.func if isinstance(only.exc, ast.Call) else only.exc
        return isinstance(name, ast.Name) and name.id == "NotImplementedError"
    return False
