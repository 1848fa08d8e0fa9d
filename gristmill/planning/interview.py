"""The questions behind a goal: what may be answered, and what an answer means; the same for options and prompts."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from gristmill.core.errors import UserError
from gristmill.planning.goal import Goal
from gristmill.planning.inputs import number

Ask = Callable[["Question"], str | None]
"""Puts a question to somebody and gives the answer as typed; None where nobody answers."""


@dataclass(frozen=True)
class Question:
    """One field of the goal."""

    field: str
    option: str
    text: str
    default: str

    @property
    def choices(self) -> tuple[str, ...]:
        """What may be answered; empty where it is a number or a list."""
        return tuple(c for c in get_args(get_type_hints(Goal)[self.field]) if isinstance(c, str))

    def read(self, answer: str) -> Any:
        """The answer as a value of the goal; UserError that says what may be answered."""
        answer = answer.strip()
        if self.choices:
            if answer not in self.choices:
                raise UserError(f"{answer!r} is no answer to: {self.text}", where=self.option,
                                fix=f"choose one of {', '.join(self.choices)}")
            return answer
        if self.field == "languages":
            value: Any = tuple(dict.fromkeys(code for code in answer.replace(",", " ").split()))
        elif answer and not answer.strip("0."):
            value = 0.0
        else:
            value = number(answer, self.option)
        if self.field == "examples":
            if not float(value).is_integer():
                raise UserError(f"{answer!r} is no whole number", where=self.option)
            value = int(value)
        try:
            Goal(**{self.field: value})
        except ValueError as error:
            raise UserError(str(error).partition(": ")[2], where=self.option) from error
        return value


QUESTIONS = (
    Question("purpose", "--purpose", "What shall it do? chat: answer questions; write: go on with text or code; "
             "classify: label texts; learn: show how a model is made", "chat"),
    Question("domain", "--domain", "What is it about? general; special: a field with words of its own; code",
             "general"),
    Question("languages", "--languages", "Which languages? ISO 639-1 codes, as in en,de", "en"),
    Question("quality", "--quality", "How good must it be? try: does it work at all; good: useful; best: as good as "
             "the budget allows", "good"),
    Question("text_mb", "--text-mb", "How much raw text do you have, in megabytes?", "0"),
    Question("examples", "--examples", "How many examples do you have: questions with answers, or labelled texts?",
             "0"),
    Question("budget_usd", "--budget-usd", "How many US dollars for computing? 0: only this machine", "0"),
    Question("days", "--days", "In how many days must it be ready?", "7"),
    Question("privacy", "--privacy", "How private? open: texts may go to others; private: they stay with you; own: "
             "besides, no weights of others", "private"),
)


def interview(given: Mapping[str, str | None], known: Mapping[str, str], ask: Ask | None = None
              ) -> tuple[Goal, tuple[str, ...]]:
    """(the goal, names of the fields that nobody answered).

    given: options as typed. known: what was measured from files, in place of an answer. ask: None where nobody can be
    asked; a wrong answer to it is not taken, so that it must come again itself.
    """
    values: dict[str, Any] = {}
    assumed = []
    for question in QUESTIONS:
        answer = given.get(question.field)
        if answer is None:
            answer = known.get(question.field)
        if answer is None and ask is not None:
            answer = ask(question)
        if answer is None:
            assumed.append(question.field)
            answer = question.default
        values[question.field] = question.read(answer)
    return Goal(**values), tuple(assumed)


def measured_text(texts: str) -> str:
    """Megabytes below a file, folder or pattern, as text; UserError where there is nothing."""
    path = Path(texts).expanduser()
    if path.is_dir():
        files = [p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")]
    elif path.is_file():
        files = [path]
    else:
        files = [Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file()]
    size = sum(p.stat().st_size for p in files)
    if not size:
        raise UserError("there is no text here", where=texts, fix="name a folder, a file or a pattern with --texts")
    return repr(max(size / 1e6, 1e-6))


def measured_examples(conversations: str) -> str:
    """Rows of a .jsonl or .json file, as text; UserError where there is no such file."""
    path = Path(conversations).expanduser()
    if not path.is_file():
        raise UserError("this file is missing", where=conversations, fix="name a .jsonl file with --conversations")
    text = path.read_text("utf-8", errors="replace")
    if text.lstrip()[:1] == "[":
        try:
            return str(len(json.loads(text)))
        except json.JSONDecodeError as error:
            raise UserError(f"this is no JSON ({error})", where=conversations) from error
    return str(sum(bool(line.strip()) for line in text.split("\n")))
