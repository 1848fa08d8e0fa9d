"""A writer behind an OpenAI-compatible server: `POST {base_url}/chat/completions`.

Redirects are not followed, answers are bounded in size and time, and no proxy is used. What can pass is tried again
after a growing pause, or after the one the server asks for; what cannot ends the stage with a reason.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import os
import re
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any, Literal

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.core.hashing import digest
from gristmill.core.seeds import fraction
from gristmill.core.writer import Answer, Request
from gristmill.data.augment.pace import Pace

LARGEST_ANSWER = 16 << 20
"""Bytes of one answer that are read; a text of 100,000 tokens is below 1 MB."""
LONGEST_PAUSE = 300.0
"""Seconds between two tries at most, also where the server asks for more."""
AROUND_A_MESSAGE = 32
"""Tokens of a chat template around one message, at most."""
_AGAIN = (408, 409, 425, 429)
_TOO_LONG = re.compile(r"context|too long|too large|maximum.{0,20}(?:length|token)", re.IGNORECASE)
_RESERVED = ("model", "messages", "seed", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stream", "n")


@config
class Server:
    """A model that an OpenAI-compatible server serves (vLLM, llama.cpp, `gristmill serve`, a provider's)."""

    kind: Literal["server"] = "server"
    """server."""
    base_url: str
    """Its address up to the version, e.g. http://127.0.0.1:8000/v1."""
    model: str
    """The model's name there. Answers are kept under it: a server that changes address is not asked again."""
    key_env: str = ""
    """The environment variable that holds the key, where one is needed."""
    concurrency: int = 4
    """Requests at the same time, 1 to 256."""
    requests_per_second: float = 0
    """Most requests a second; 0 is no limit."""
    tokens_per_minute: float = 0
    """Most tokens a minute, prompts and answers; 0 is no limit."""
    timeout: float = 120
    """Seconds that one answer may take, 1 to 3600."""
    retries: int = 5
    """Further tries of a request that failed, 0 to 20."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the limit of an answer's tokens."""
    leave_out: list[Literal["seed", "temperature", "top_p"]] = field(default_factory=list)
    """Fields that the server does not take."""
    extra: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Further fields of each request, e.g. {repetition_penalty: 1.05}."""

    def __post_init__(self) -> None:
        address = urllib.parse.urlsplit(self.base_url)
        require(address.scheme in ("http", "https") and bool(address.hostname), "base_url",
                "must begin with http:// or https:// and name a host")
        require(address.username is None and not address.query and not address.fragment, "base_url",
                "must hold neither a password, a query nor a fragment; a key comes from `key_env`")
        require(bool(self.model), "model", "name the model")
        require(1 <= self.concurrency <= 256, "concurrency", "must be from 1 to 256")
        require(self.requests_per_second >= 0, "requests_per_second", "must not be negative")
        require(self.tokens_per_minute >= 0, "tokens_per_minute", "must not be negative")
        require(1 <= self.timeout <= 3600, "timeout", "must be from 1 to 3600 seconds")
        require(0 <= self.retries <= 20, "retries", "must be from 0 to 20")
        taken = [name for name in self.extra if name in _RESERVED]
        require(not taken, "extra", f"{', '.join(taken)} cannot be set here")


class ServerWriter:
    """The writer that asks a server; one connection a request, so that threads share nothing."""

    batch = 1

    def __init__(self, server: Server, *, clock: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        """UserError where the environment lacks the key."""
        self.server, self.name, self.concurrency = server, server.model, server.concurrency
        self.identity = digest(["server", server.model, server.max_tokens_field, sorted(server.leave_out),
                                {name: repr(value) for name, value in server.extra.items()}])
        self.key = os.environ.get(server.key_env, "").strip() if server.key_env else ""
        if server.key_env and not self.key:
            raise UserError(f"the environment variable {server.key_env} is not set", where="writer.key_env",
                            fix=f"export {server.key_env}=... before the run")
        self.pace = Pace(server.requests_per_second, server.tokens_per_minute, clock, sleep)
        self.tries = 0
        """Requests that went out, those tried again included."""
        self._sleep = sleep
        self._lock = threading.Lock()

    def most_prompt_tokens(self, prompt: str) -> int:
        """No tokenizer makes more tokens than bytes."""
        return len(prompt.encode("utf-8", "replace")) + AROUND_A_MESSAGE

    def words(self) -> tuple[list[str], Any]:
        """A server does not show its embeddings."""
        raise UserError("a server does not show its embeddings", where=self.name, fix="name a local model")

    def write(self, requests: Sequence[Request]) -> list[Answer]:
        """One request after another. UserError for a wrong key, model name or address."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Answer:
        # Rates are kept by an estimate (four characters a token); the answer says what it really was.
        about = len(request.prompt) // 4 + AROUND_A_MESSAGE + request.max_tokens
        detail = ""
        for attempt in range(self.server.retries + 1):
            self.pace.wait(about)
            with self._lock:
                self.tries += 1
            answer, detail, wait = self._try(request)
            if answer is not None:
                self.pace.settle(about, answer.prompt_tokens + answer.completion_tokens)
                return answer
            self.pace.settle(about, 0)
            if attempt < self.server.retries:
                spread = 0.75 + 0.5 * fraction(request.seed, "pause", attempt)
                pause = min(LONGEST_PAUSE, wait if wait is not None else spread * 2**attempt * 0.5)
                if wait is not None:
                    self.pace.pause(pause)
                else:
                    self._sleep(pause)
        return Answer("", "failed", detail=f"{detail} ({self.server.retries + 1} tries)")

    def _try(self, request: Request) -> tuple[Answer | None, str, float | None]:
        """(answer, why there is none, seconds that the server asks to wait)."""
        server = self.server
        fields = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed}
        body = json.dumps({
            "model": server.model, "messages": [{"role": "user", "content": request.prompt}],
            **{name: value for name, value in fields.items() if name not in server.leave_out},
            server.max_tokens_field: request.max_tokens, **server.extra}).encode()
        try:
            status, headers, data = post(f"{server.base_url.rstrip('/')}/chat/completions", body, self.key,
                                         server.timeout)
        except (OSError, http.client.HTTPException, TooLarge) as error:
            return None, f"{type(error).__name__}: {error}".rstrip(": "), None
        if status == 200:
            answer = read_answer(data, server.model)
            return answer, "the server's answer is no chat completion", None
        said = _message(data)
        if status in _AGAIN or status >= 500:
            return None, f"HTTP {status}: {said}", _retry_after(headers.get("Retry-After"))
        where = f"{server.base_url} (HTTP {status})"
        if 300 <= status < 400:
            raise UserError(f"the server sends us elsewhere ({headers.get('Location', '')[:200]})", where=where,
                            fix="redirects are not followed: name the final address as base_url")
        if status in (401, 403):
            raise UserError(f"the server refuses the key: {said}", where=where,
                            fix="check the key in the variable that `key_env` names")
        if status == 404:
            raise UserError(f"there is no such model or path: {said}", where=where,
                            fix="check `model`, and that base_url ends where /chat/completions begins (often /v1)")
        return Answer("", "does_not_fit" if _TOO_LONG.search(said) else "refused",
                      detail=f"HTTP {status}: {said}"), "", None


class TooLarge(Exception):
    """An answer beyond `LARGEST_ANSWER`."""


def post(url: str, body: bytes, key: str, timeout: float) -> tuple[int, http.client.HTTPMessage, bytes]:
    """(status, headers, body) of one POST; everything together takes at most `timeout` seconds.

    Raises OSError (TimeoutError among them), HTTPException, TooLarge.
    """
    address = urllib.parse.urlsplit(url)
    host = address.hostname or ""
    connection: http.client.HTTPConnection
    if address.scheme == "https":
        connection = http.client.HTTPSConnection(host, address.port, timeout=timeout,
                                                 context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(host, address.port, timeout=timeout)
    late = threading.Event()

    def stop() -> None:  # a server that drips must not hold us longer than one that is silent
        late.set()
        with contextlib.suppress(OSError, AttributeError):
            connection.sock.shutdown(2)

    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "gristmill"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    watch = threading.Timer(timeout, stop)
    watch.daemon = True
    watch.start()
    try:
        connection.request("POST", address.path, body, headers)
        response = connection.getresponse()
        data = response.read(LARGEST_ANSWER + 1)
        if len(data) > LARGEST_ANSWER:
            raise TooLarge(f"the answer has more than {LARGEST_ANSWER >> 20} MiB")
        if late.is_set():
            raise TimeoutError(f"no answer in {timeout:g} seconds")
        return response.status, response.headers, data
    except (OSError, http.client.HTTPException) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise TimeoutError(f"no answer in {timeout:g} seconds") from error
        raise
    finally:
        watch.cancel()
        connection.close()


def read_answer(data: bytes, model: str) -> Answer | None:
    """The answer in a chat completion, or None if it is none."""
    try:
        value = json.loads(data)
        choice = value["choices"][0]
        text, finish = choice["message"].get("content"), choice.get("finish_reason") or "stop"
        usage = value.get("usage") or {}
        asked, written = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        if finish == "content_filter" or choice["message"].get("refusal"):
            return Answer("", "refused", asked, written, str(value.get("model") or model),
                          str(choice["message"].get("refusal") or "the server's filter")[:400])
        if not isinstance(text, str) or min(asked, written) < 0:
            return None
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no text
        return Answer(text, "length" if finish == "length" else "stop", asked, written,
                      str(value.get("model") or model))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _message(data: bytes) -> str:
    """What an error body says, in a line."""
    try:
        value = json.loads(data)
        value = value.get("error", value) if isinstance(value, dict) else value
        said = value.get("message", value) if isinstance(value, dict) else value
    except (ValueError, RecursionError):
        said = data[:400].decode("utf-8", "replace")
    return " ".join(str(said).split())[:300]


def _retry_after(value: str | None) -> float | None:
    """Seconds, of either form that RFC 9110 (section 10.2.3) allows."""
    if not value:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None
