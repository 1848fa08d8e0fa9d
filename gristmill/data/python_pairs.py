"""Questions and answers made from a documented function: what does it do, and how is it written.

Fine-tuning learns from these pairs and evaluation asks them of held-out functions, so the wording lives here once.
Every kind has a few wordings; which one a function gets is a pure function of its name and signature. Prompts are
short: a small model has to read them within a few hundred tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gristmill.core.seeds import fraction
from gristmill.data.python_code import PythonFunction

EXPLAIN = (
    "What does this Python function do?\n\n{code}",
    "Explain this function in one line:\n\n{code}",
    "{code}\n\nWhat is this function for?",
    "Write the first line of the docstring of this function.\n\n{code}",
)
"""Wordings of the question about a function; {code} is its source without the docstring."""

COMPLETE = (
    "Write the body of this Python function.\n\n{code}",
    "Complete this function:\n\n{code}",
    "Implement this Python function. Answer with its body only.\n\n{code}",
)
"""Wordings of the request for a body; {code} is the signature and the first line of the docstring."""

CODE_CHARACTERS = 480
"""Most characters of a body shown in a question; it is cut after a whole line."""
LINE_CHARACTERS = 200
"""Most characters of a body's first line that is too long to be shown whole."""


@dataclass(frozen=True)
class Pair:
    """messages: the conversation up to the question ({"role", "content"}). answer: what the assistant should say."""

    messages: list[dict[str, str]]
    answer: str


def explain_pair(function: PythonFunction) -> Pair:
    """A question about a function (signature and the beginning of its body) -> its documented first line."""
    code = function.signature
    if function.body.strip():
        code = f"{code}\n{shortened(function.body, CODE_CHARACTERS)}"
    question = _wording(EXPLAIN, "explain", function).replace("{code}", code)
    return Pair([{"role": "user", "content": question}], function.summary)


def complete_pair(function: PythonFunction) -> Pair:
    """Signature and documented first line -> the body, indented by four spaces."""
    question = _wording(COMPLETE, "complete", function).replace("{code}", stub(function))
    return Pair([{"role": "user", "content": question}], function.body.rstrip())


def stub(function: PythonFunction) -> str:
    """The signature and, where there is one, the first line of the docstring: how a module's text shows it."""
    if not function.summary:
        return function.signature
    summary = function.summary.replace("\\", "\\\\").replace('"""', "'''")
    if summary.endswith('"'):
        summary += " "
    return f'{function.signature}\n    """{summary}"""'


def shortened(code: str, characters: int) -> str:
    """The first whole lines of `code` that fit into `characters`, then a line `...` where something is left out."""
    code = code.rstrip()
    if len(code) <= characters:
        return code
    lines = code[: characters + 1].split("\n")[:-1]
    lines = lines or [code[: min(characters, LINE_CHARACTERS)]]
    return "\n".join([*lines, "    ..."])


def _wording(wordings: Sequence[str], kind: str, function: PythonFunction) -> str:
    place = fraction("wording", kind, function.qualified_name, function.signature)
    return wordings[int(place * len(wordings))]
