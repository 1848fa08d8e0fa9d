"""What is wrong with a recipe: every problem with its line, all at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gristmill.core.errors import UserError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. where: `file:line`. path: the dotted key. message: what, and how to mend it."""

    where: str
    path: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.path, self.message) if part)


class RecipeError(UserError):
    """A recipe cannot be run; `problems` are all of its faults, in the order of their lines."""

    def __init__(self, problems: Iterable[Problem], origin: str) -> None:
        unique = list(dict.fromkeys(problems))
        self.problems: list[Problem] = sorted(unique, key=_line)
        count = f"{len(self.problems)} problems" if len(self.problems) != 1 else "1 problem"
        super().__init__(f"{count} in this recipe; nothing was run", where=origin)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  {problem}" for problem in getattr(self, "problems", ()))])


def _line(problem: Problem) -> tuple[int, str]:
    tail = problem.where.rpartition(":")[2]
    return (int(tail) if tail.isdigit() else 10**9, problem.path)


def dotted(path: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in path)


def nearest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean `x`?` for the closest choice, small and capital letters alike, or nothing."""
    folded = {choice.casefold(): choice for choice in choices}
    close = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)
    return f"; did you mean `{folded[close[0]]}`?" if close else ""


def listed(choices: Iterable[str]) -> str:
    """`choices: a, b, c`, shortened when there are many."""
    names = [str(c) for c in choices]
    if not names:
        return "there are no choices here"
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"choices: {', '.join(names[:20])}{more}"


def shown(value: Any) -> str:
    """A value as a message shows it, with its type in words, cut to a line."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"the truth value `{str(value).lower()}`"
    if isinstance(value, (int, float)):
        return f"the number {value!r}"
    if isinstance(value, str):
        return f'the text "{_cut(value)}"'
    if isinstance(value, dict):
        return f"a mapping ({_cut(', '.join(map(str, value)) or 'empty')})"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return f"a {type(value).__name__}"


def _cut(text: str, length: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."
