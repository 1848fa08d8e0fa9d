"""Reading what a model wrote as the body of a function: where it ends, whether Python accepts it, whether it does
anything. Nothing that a model wrote is ever run."""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass

FENCE = re.compile(r"```[A-Za-z0-9]*\n(.*?)(?:```|\Z)", re.DOTALL)
DEDENTED = re.compile(r"[^\s)\]}#'\"]")
"""How a line at the left margin begins when the function above it is over."""


@dataclass(frozen=True)
class Verdict:
    """accepted: `ast.parse` takes the completed function, as one function and nothing else. trivial: it does, but the
    function does nothing. reason: why not, in a person's words."""

    accepted: bool
    trivial: bool
    reason: str


def judge(signature: str, answer: str) -> Verdict:
    """The verdict on `answer` as the body of `signature` (or as the whole function, if it repeats the `def`)."""
    text = without_fence(answer)
    whole = text.lstrip().startswith(("def ", "async def ", "@"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text if whole else f"{signature}\n{text}")
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        return Verdict(False, False, f"{type(error).__name__}: {getattr(error, 'msg', None) or error}")
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef | ast.AsyncFunctionDef):
        return Verdict(False, False, "not one function alone")
    return Verdict(True, is_trivial(tree.body[0]), "")


def is_trivial(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Does the body only document, pass, `...`, return nothing or a constant, or raise NotImplementedError?"""
    statements = [s for s in function.body if not isinstance(s, ast.Pass)
                  and not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    if len(statements) != 1:
        return not statements
    only = statements[0]
    if isinstance(only, ast.Return):
        return only.value is None or isinstance(only.value, ast.Constant)
    if isinstance(only, ast.Raise):
        raised = only.exc.func if isinstance(only.exc, ast.Call) else only.exc
        return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
    return False


def without_fence(text: str) -> str:
    """The content of the first code block, where an answer has one."""
    found = FENCE.search(text)
    return found.group(1) if found else text


def end_of_body(text: str) -> tuple[str, bool]:
    """(body, whether it ended): text that goes on like a module, cut where a line at the left margin begins
    something else. `text` starts at the beginning of a line. A closing bracket, a quote or a comment at the margin
    does not end a body."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if DEDENTED.match(line):
            return "\n".join(lines[:number]), True
    return text, False


def first_line(text: str) -> str:
    """The first line with text."""
    return next((line.strip() for line in text.split("\n") if line.strip()), "")


def token_f1(answer: str, truth: str) -> float:
    """Harmonic mean of precision and recall of words, counted with their repetitions, case ignored (as in
    Rajpurkar et al. 2016, "SQuAD", section 6.1). Two texts without words are equal."""
    a, b = (re.findall(r"\w+", text.lower()) for text in (answer, truth))
    if not a or not b:
        return float(a == b)
    common = sum(min(a.count(word), b.count(word)) for word in set(a))
    return 2 * common / (len(a) + len(b))
