"""The shapes of OpenAI's answers: whole, in chunks, and with log-probabilities."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gristmill.serving.engine_thread import TokenInfo

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def finite(logprob: float) -> float:
    """JSON has no minus infinity; OpenAI writes -9999.0."""
    return logprob if math.isfinite(logprob) else -9999.0


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens}


def chat_logprobs(tokenizer: Any, tokens: Iterable[TokenInfo], top: int) -> dict[str, Any]:
    """The `logprobs` of a chat choice."""
    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        return {"token": tokenizer.decode([token]), "logprob": finite(logprob or 0.0),
                "bytes": list(tokenizer.token_bytes(token))}

    return {"content": [entry(t.token, t.logprob) | {"top_logprobs": [entry(i, p) for i, p in t.top[:top]]}
                        for t in tokens], "refusal": None}


def completion_logprobs(
    tokenizer: Any, tokens: Sequence[TokenInfo], top: int, offset: int
) -> dict[str, Any]:
    """The `logprobs` of a completions choice."""
    shape: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for info in tokens:
        text = tokenizer.decode([info.token])
        shape["tokens"].append(text)
        shape["text_offset"].append(offset)
        if info.logprob is None:
            shape["token_logprobs"].append(None)
            shape["top_logprobs"].append(None)
        else:
            # Likeliest last: where two tokens have the same text, the likelier one stays.
            likely = {tokenizer.decode([i]): finite(p) for i, p in reversed(info.top[:top])}
            shape["token_logprobs"].append(finite(info.logprob))
            shape["top_logprobs"].append(likely)
        offset += len(text)
    return shape


@dataclass(frozen=True)
class Frame:
    """What all parts of one response share."""

    model: str
    fingerprint: str
    chat: bool
    id: str = field(default="")
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{'chatcmpl' if self.chat else 'cmpl'}-{secrets.token_hex(12)}")

    def whole(self, choices: list[dict[str, Any]], used: dict[str, Any]) -> dict[str, Any]:
        return self._head("chat.completion" if self.chat else "text_completion") | {"choices": choices, "usage": used}

    def chunk(self, choices: list[dict[str, Any]], used: dict[str, Any] | None, say_usage: bool) -> bytes:
        """A streamed part; with `say_usage` every chunk carries `usage`, null but in the last."""
        body = self._head("chat.completion.chunk" if self.chat else "text_completion") | {"choices": choices}
        return event(body | {"usage": used} if say_usage else body)

    def choice(self, index: int, text: str, finish: str | None, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        if self.chat:
            return {"index": index, "message": {"role": "assistant", "content": text, "refusal": None},
                    "logprobs": logprobs, "finish_reason": finish}
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def delta(self, index: int, text: str | None, finish: str | None, logprobs: dict[str, Any] | None,
              role: bool = False) -> dict[str, Any]:
        if not self.chat:
            return {"index": index, "text": text or "", "logprobs": logprobs, "finish_reason": finish}
        delta: dict[str, Any] = {"role": "assistant"} if role else {}
        if text is not None:
            delta["content"] = text
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model,
                "system_fingerprint": self.fingerprint}
