"""The same prompts to every model, greedy, side by side: for a person to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.core.progress import Bar
from gristmill.data.python_pairs import complete_pair, explain_pair, stub
from gristmill.evaluation.subject import Subject
from gristmill.evaluation.tasks.base import Record, Setting, Summary

TEXTS = ["import os\n", "def __init__(self", "class Queue:\n", "The function returns"]
QUESTIONS = ["What is a list in Python?", "Write a function that adds two numbers."]


@dataclass(frozen=True)
class Prompt:
    """text: what every model continues; or messages: what chat models are asked, with `text` for the others."""

    text: str
    messages: list[dict[str, str]] | None = None
    documented: str = ""


@config
class Samples:
    """What the models say to fixed prompts."""

    kind: Literal["samples"] = "samples"
    texts: list[str] = field(default_factory=lambda: list(TEXTS))
    """Beginnings of texts that every model continues."""
    questions: list[str] = field(default_factory=lambda: list(QUESTIONS))
    """Questions; models that were not tuned on conversations get them as plain text."""
    functions: int = 2
    """Held-out functions that are asked about and asked for."""
    max_tokens: int = 64
    """Longest answer."""
    repetition_penalty: float = 1.15
    """Greedy answers of small models go round in circles without it; 1 switches it off."""

    def __post_init__(self) -> None:
        require(self.repetition_penalty > 0, "repetition_penalty", "must be positive")
        require(self.functions >= 0, "functions", "must not be negative")
        require(self.max_tokens >= 1, "max_tokens", "must be at least 1")

    def data(self, setting: Setting) -> list[Prompt]:
        prompts = []
        for item in setting.functions[: self.functions] if self.functions else []:
            explain, complete = explain_pair(item.function), complete_pair(item.function)
            prompts.append(Prompt(explain.messages[-1]["content"] + "\n\n", explain.messages, explain.answer))
            prompts.append(Prompt(stub(item.function) + "\n", complete.messages, complete.answer))
        prompts += [Prompt(t) for t in self.texts]
        return prompts + [Prompt(f"{q}\n\n", [{"role": "user", "content": q}]) for q in self.questions]

    def work(self, data: list[Prompt]) -> tuple[float, str]:
        return float(len(data)), "prompts"

    def measure(self, subject: Subject, data: list[Prompt], setting: Setting, bar: Bar) -> Record:
        """Greedy answers; a prompt longer than the context is kept, with the reason in place of an answer."""
        from gristmill.generation import Sampling

        asked = []
        for prompt in data:
            messages = prompt.messages if subject.prompting == "chat" else None
            asked.append(subject.ask(messages, prompt.text) if messages else
                         subject.document_prefix + subject.tokenizer.encode(prompt.text))
        fits = [len(ids) < subject.context for ids in asked]
        if not any(fits) and asked:
            raise UserError(f"no prompt of `samples` fits the context of {subject.context} tokens",
                            where=subject.name, fix="give shorter prompts")
        sampling = Sampling(max_tokens=self.max_tokens, temperature=0.0, stop_ids=subject.stop_ids,
                            repetition_penalty=self.repetition_penalty)
        kept = [ids for ids, fit in zip(asked, fits, strict=True) if fit]
        written = iter(subject.write(kept, [sampling] * len(kept), bar))
        return {"outputs": [next(written).text if fit else f"(a prompt of {len(ids)} tokens does not fit the context)"
                            for ids, fit in zip(asked, fits, strict=True)]}

    def measure_baselines(self, data: list[Prompt], setting: Setting) -> Record:
        return {}

    def summarise(self, data: list[Prompt], records: Mapping[str, Record], baselines: Record,
                  setting: Setting) -> Summary:
        """One entry a prompt."""
        return Summary(samples=[
            {"prompt": p.messages[-1]["content"] if p.messages else p.text, "question": p.messages is not None,
             "documented": p.documented, "outputs": {name: r["outputs"][n] for name, r in records.items()}}
            for n, p in enumerate(data)])
