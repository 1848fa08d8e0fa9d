"""A conversation as data: turns, variants of answers, and what of it fits into the model's context."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

LEAST_ROOM = 32
"""Tokens that must remain for the answer; older turns are left out until they do."""


@dataclass
class Reply:
    """One answer to a question; asking again adds another beside it."""

    text: str = ""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: Literal["waiting", "writing", "done", "stopped", "failed"] = "waiting"
    problem: str = ""
    tokens: int = 0
    seconds: float = 0.0
    """From the first token to the last."""
    first_token: float = 0.0
    finish: str = ""
    rating: Literal[-1, 0, 1] = 0
    seed: int = 0
    messages: list[dict[str, str]] = field(default_factory=list)
    """What the model was asked, as it was asked."""
    sampling: dict[str, float] = field(default_factory=dict)
    left_out: int = 0
    """Messages that the context had no room for."""

    @property
    def rate(self) -> float:
        """Tokens a second after the first one; 0 where there is nothing to measure."""
        return (self.tokens - 1) / self.seconds if self.tokens > 1 and self.seconds > 0 else 0.0


@dataclass
class Turn:
    """A question and its answers, of which one is shown."""

    question: str
    replies: list[Reply] = field(default_factory=list)
    shown: int = 0

    @property
    def reply(self) -> Reply:
        return self.replies[self.shown]

    def ask_again(self) -> Reply:
        self.replies.append(Reply())
        self.shown = len(self.replies) - 1
        return self.reply


@dataclass
class Options:
    """The panel's values."""

    system: str = ""
    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 256
    seed: int | None = None


@dataclass
class Conversation:
    """Everything a chat page remembers."""

    options: Options = field(default_factory=Options)
    turns: list[Turn] = field(default_factory=list)
    id: str = field(default_factory=lambda: secrets.token_hex(8))

    def messages(self, turn: Turn, skip: int = 0) -> list[dict[str, str]]:
        """What the model is asked for `turn`: system prompt and shown turns before it, less the first `skip`."""
        messages = [{"role": "system", "content": self.options.system}] if self.options.system.strip() else []
        for earlier in self.turns[: self.turns.index(turn)][skip:]:
            if earlier.reply.text:
                messages += [{"role": "user", "content": earlier.question},
                             {"role": "assistant", "content": earlier.reply.text}]
        return [*messages, {"role": "user", "content": turn.question}]

    def fitted(
        self, turn: Turn, encode: Callable[[list[dict[str, str]]], list[int]], context: int
    ) -> tuple[list[dict[str, str]], list[int], int]:
        """(messages, prompt ids, turns left out): the oldest turns go first until the answer has room.

        Raises ValueError if the question alone is too long.
        """
        before = self.turns.index(turn)
        for skip in range(before + 1):
            messages = self.messages(turn, skip)
            ids = encode(messages)
            if len(ids) + min(LEAST_ROOM, context // 4) <= context:
                return messages, ids, skip
        raise ValueError(f"This message has {len(ids)} tokens, but the model reads at most {context} with its answer.")

    def cut_from(self, turn: Turn) -> None:
        """Forget `turn` and all after it."""
        del self.turns[self.turns.index(turn):]

    def clear(self) -> None:
        self.turns.clear()
        self.id = secrets.token_hex(8)
