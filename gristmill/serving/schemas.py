"""The requests we take, checked field by field; everything else is refused by name.

Policy for fields, the same for both routes: *supported* ones are the fields of the classes below; *ignored* ones
change nothing that a client could notice (labels and storage wishes) and are accepted; *neutral* ones are not
supported but accepted at the value that asks for nothing (`frequency_penalty: 0`, `tools: []`); any other field is 400.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from gristmill.serving.errors import ApiError, invalid
from gristmill.serving.settings import Limits

IGNORED = frozenset({
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "parallel_tool_calls", "verbosity",
})
"""Accepted and without effect."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0), "presence_penalty": (None, 0), "logit_bias": (None, {}),
    "tools": (None, []), "tool_choice": (None, "none", "auto"), "functions": (None, []),
    "function_call": (None, "none", "auto"), "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]), "audio": (None,), "prediction": (None,), "reasoning_effort": (None, "none"),
    "web_search_options": (None,), "suffix": (None, ""), "best_of": (None, 1), "min_p": (None, 0),
}
"""Not supported; accepted only at a value that asks for nothing."""

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool = False
    """Accepted for OpenAI's clients; we never pad the stream."""


class SamplingFields(BaseModel):
    """What both routes share."""

    route: ClassVar[str] = ""
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    model: Annotated[str, Field(max_length=256)] | None = None
    """May be left out: a server serves one model."""
    n: Count | None = 1
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    """0 takes the most likely token."""
    top_p: Annotated[float, Field(ge=0, le=1)] | None = 1.0
    """0 means the same as temperature 0."""
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = 0
    """0: no bound. An extension to OpenAI's fields."""
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = 1.0
    """1: none. An extension to OpenAI's fields."""
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
    max_tokens: Count | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    @field_validator("*", mode="after")
    @classmethod
    def _text_is_unicode(cls, value: Any) -> Any:
        if isinstance(value, str):
            check_text(value)
        return value

    @property
    def stop_strings(self) -> list[str]:
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def wants_usage_chunk(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def check_limits(self, limits: Limits) -> None:
        """Refuse what exceeds `limits`; ApiError 400."""
        if (self.n or 1) > limits.choices:
            raise invalid(f"n is {self.n}; this server gives at most {limits.choices} choices", "n")
        if len(self.stop_strings) > limits.stop_strings:
            raise invalid(f"at most {limits.stop_strings} stop strings, not {len(self.stop_strings)}", "stop")
        for text in self.stop_strings:
            if not text or len(text) > limits.stop_length:
                raise invalid(f"a stop string needs 1 to {limits.stop_length} characters", "stop")
            try:
                check_text(text)
            except ValueError as error:
                raise invalid(str(error), "stop") from error
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options needs stream: true", "stream_options")


class TextPart(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn; `developer` counts as system."""

    model_config = ConfigDict(strict=True, extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None
    """Accepted and without effect."""
    refusal: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = None

    def plain(self) -> dict[str, str]:
        parts = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        check_text(parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": parts}


class ChatRequest(SamplingFields):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None

    route: ClassVar[str] = "/v1/chat/completions"

    def check_limits(self, limits: Limits) -> None:
        super().check_limits(limits)
        if len(self.messages) > limits.messages:
            raise invalid(f"at most {limits.messages} messages, not {len(self.messages)}", "messages")
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs needs logprobs: true", "top_logprobs")
        if (self.top_logprobs or 0) > limits.logprobs:
            raise invalid(f"top_logprobs is at most {limits.logprobs}", "top_logprobs")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise invalid("max_tokens and max_completion_tokens contradict each other; give one", "max_tokens")

    @property
    def token_budget(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


Request = TypeVar("Request", bound=SamplingFields)
TokenIds = list[Annotated[int, Field(ge=0, le=2**31 - 1)]]


class CompletionRequest(SamplingFields):
    """POST /v1/completions."""

    prompt: str | list[str] | TokenIds | list[TokenIds]
    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = 16
    """OpenAI's default; 0 only together with echo."""
    echo: bool | None = False
    logprobs: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """Alternatives a token; 0 gives the log-probability of the chosen ones only."""

    route: ClassVar[str] = "/v1/completions"

    def check_limits(self, limits: Limits) -> None:
        super().check_limits(limits)
        if not self.prompts:
            raise invalid("prompt is an empty list", "prompt")
        if len(self.prompts) > limits.prompts:
            raise invalid(f"at most {limits.prompts} prompts, not {len(self.prompts)}", "prompt")
        if (self.logprobs or 0) > limits.logprobs:
            raise invalid(f"logprobs is at most {limits.logprobs}", "logprobs")
        if self.max_tokens == 0 and not self.echo:
            raise invalid("max_tokens is 0, so nothing would come back; 0 is for echo only", "max_tokens")
        if self.echo and self.stream:
            raise invalid("echo cannot be streamed; set stream to false", "echo")
        for prompt in self.prompts:
            if isinstance(prompt, str):
                try:
                    check_text(prompt)
                except ValueError as error:
                    raise invalid(str(error), "prompt") from error

    @property
    def prompts(self) -> list[str | list[int]]:
        """Every prompt by itself: one text, several, one list of token ids, or several."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)  # type: ignore[arg-type]

    @property
    def token_budget(self) -> int | None:
        return self.max_tokens


def check_text(text: str) -> None:
    """Refuse half of a surrogate pair: JSON can spell it, UTF-8 and the tokenizer cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start} is half of a surrogate pair, which is no Unicode text") from error


def parse_json(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`; ApiError 400 for anything else, NaN and Infinity included."""
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not JSON")

    try:
        body = json.loads(raw.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise invalid(f"The body is not valid JSON: {reason}", code="invalid_json") from error
    if not isinstance(body, dict):
        raise invalid("The body must be a JSON object.", code="invalid_json")
    return body


def parse_request(kind: type[Request], raw: bytes, limits: Limits) -> Request:
    """`raw` as a checked request of `kind`; ApiError 400 that names the first wrong field."""
    body = parse_json(raw)
    kept = {}
    for name, value in body.items():
        if name in kind.model_fields:
            kept[name] = value
        elif name in NEUTRAL:
            if not any(value == neutral and type(value) is not bool for neutral in NEUTRAL[name]):
                raise invalid(f"{_shown(name)} is not supported by this server", name, "unsupported_parameter")
        elif name not in IGNORED:
            raise invalid(f"Unknown field {_shown(name)} for {kind.route}", _shown(name), "unknown_parameter")
    try:
        request = kind.model_validate(kept)
        request.check_limits(limits)
    except ValidationError as error:
        raise _translated(error) from error
    except RecursionError as error:
        raise invalid("The body is nested too deeply", code="invalid_json") from error
    return request


def _shown(name: str) -> str:
    return name[:64].encode("ascii", "backslashreplace").decode()


def _translated(error: ValidationError) -> ApiError:
    """The first problem of a pydantic error; where a union failed, the branch that got furthest into the value."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    problem = problems[0]
    location = [str(part) for part in problem["loc"]]
    field = location[0] if location else None
    branches = [p for p in problems if p["loc"] and str(p["loc"][0]) == field]
    message = "; or ".join(dict.fromkeys(p["msg"] for p in branches[:4]))
    code = "missing_required_parameter" if problem["type"] == "missing" else "invalid_value"
    param = ".".join(part for part in location if not part.startswith(("list[", "function-", "constrained")))
    return invalid(f"{param or 'body'}: {message}", param, code)
