"""What an early room may ask of a language model: requests in, answers out, with no word of how the model runs.

The data room asks models for paraphrases, yet it stands before the rooms that know models. A stage therefore gets a
function that opens a writer (`StageContext.open_writer`); the pipeline says what opens. A server is a writer as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Finish = Literal["stop", "length", "refused", "does_not_fit", "failed"]


@dataclass(frozen=True)
class Request:
    """One message of a user's, and how the answer is sampled."""

    prompt: str
    seed: int
    max_tokens: int
    temperature: float
    top_p: float = 1.0


@dataclass(frozen=True)
class Answer:
    """What came of a request."""

    text: str
    finish: Finish
    """stop: the answer is whole. length: it was cut at max_tokens. refused: by a filter of the server's. does_not_fit:
    the prompt is too long for the model. failed: no answer could be had now; another time it might."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""
    """The model as it calls itself."""
    detail: str = ""
    """Why there is no text, where there is none."""


class Writer(Protocol):
    """A language model that answers requests."""

    name: str
    """What to call it in records: a model's name or an artifact's."""
    identity: str
    """Tells its answers from those of other models; the address of a server is no part of it."""
    concurrency: int
    """How many calls of `write` may run at once, each from a thread of its own."""
    batch: int
    """How many requests one call should bring."""

    def write(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers in the order of the requests. Errors are raised only for what no other request would survive."""

    def most_prompt_tokens(self, prompt: str) -> int:
        """At least as many tokens as the prompt has; for budgets."""

    def words(self) -> tuple[list[str], Any]:
        """Whole words among its tokens, and their input embeddings, float32 (words, dim)."""


__all__ = ["Answer", "Finish", "Request", "Writer"]
