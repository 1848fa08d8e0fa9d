from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.serving.errors import ApiError
from gristmill.serving.schemas import NEUTRAL, ChatRequest, CompletionRequest, parse_request
from gristmill.serving.settings import Limits

LIMITS = Limits()
CHAT = {"messages": [{"role": "user", "content": "Hello"}]}
TEXT = {"prompt": "Hello"}
NUMBERS = ("n", "temperature", "top_p", "top_k", "repetition_penalty", "seed", "max_tokens", "max_completion_tokens",
           "top_logprobs", "logprobs")
WRONG = ["-1", "0", "1", "9223372036854775808", "-9223372036854775809", "NaN", "Infinity", "1e309", '"1"', "true",
         "null", "[]", "{}", "1.5", "1" * 5000]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8)


def parse(kind: Any, raw: str | bytes) -> Any:
    return parse_request(kind, raw.encode() if isinstance(raw, str) else raw, LIMITS)


@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest])
@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("literal", WRONG)
def test_numbers_are_in_range_or_refused_by_name(kind: Any, field: str, literal: str) -> None:
    base = CHAT | {"logprobs": True} if kind is ChatRequest else TEXT
    base = {k: v for k, v in base.items() if k != field}
    raw = json.dumps(base)[:-1] + f', "{field}": {literal}}}'
    request = refusal = None
    try:
        request = parse(kind, raw)
    except ApiError as error:
        refusal = error
    if refusal is not None:
        assert refusal.status == 400
        assert refusal.code == "invalid_json" or field in str(refusal.param) or field in refusal.message
        return
    value = getattr(request, field)
    assert literal in ("1", "0", "-1", "null", "1.5", "true")
    low = {"seed": -(2**63), "n": 1, "repetition_penalty": 1e-9, "max_completion_tokens": 1}.get(field, 0)
    assert value is None or low <= value <= 2**63 - 1
    if field != "logprobs" or kind is CompletionRequest:
        assert not isinstance(value, bool)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([ChatRequest, CompletionRequest]), st.dictionaries(
    st.sampled_from([*ChatRequest.model_fields, *CompletionRequest.model_fields, *NEUTRAL, "user", "bogus"]), VALUES))
def test_any_object_is_accepted_or_refused_in_openais_shape(kind: Any, body: dict[str, Any]) -> None:
    refusal = None
    try:
        parse(kind, json.dumps(body))
    except ApiError as error:
        refusal = error
    if refusal is not None:
        assert refusal.status == 400
        assert set(refusal.body()["error"]) == {"message", "type", "param", "code"}
        json.dumps(refusal.body()).encode()


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"nul", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000,
                                 b'{"messages": ' + b"[" * 50_000])
def test_broken_json_is_400(raw: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse(ChatRequest, raw)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_fields_that_ask_for_nothing_pass_and_real_wishes_do_not() -> None:
    neutral = {"frequency_penalty": 0, "presence_penalty": 0.0, "tools": [], "tool_choice": "none", "user": "me",
               "response_format": {"type": "text"}, "logit_bias": None, "metadata": {"a": "b"}, "store": False}
    parse(ChatRequest, json.dumps(CHAT | neutral))
    for field, value in [("tools", [{"type": "function"}]), ("response_format", {"type": "json_object"}),
                         ("logit_bias", {"1": 5}), ("frequency_penalty", 0.5), ("frequency_penalty", False)]:
        with pytest.raises(ApiError) as caught:
            parse(ChatRequest, json.dumps(CHAT | {field: value}))
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", field)
    with pytest.raises(ApiError) as caught:
        parse(CompletionRequest, json.dumps(TEXT | {"suffix": "end"}))
    assert caught.value.code == "unsupported_parameter"
    with pytest.raises(ApiError) as caught:
        parse(ChatRequest, json.dumps(CHAT | {"temprature": 1}))
    assert (caught.value.code, caught.value.param) == ("unknown_parameter", "temprature")


@pytest.mark.parametrize("change", [
    {"n": 9}, {"stop": ["a"] * 5}, {"stop": ""}, {"stop": "x" * 257}, {"stop": ["\ud800"]}, {"stream_options": {}},
    {"messages": []}, {"messages": [{"role": "tool", "content": "x"}]}, {"messages": [{"role": "user"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
    {"messages": [{"role": "user", "content": "x"}] * 513}, {"max_tokens": 3, "max_completion_tokens": 4},
    {"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 21}, {"model": 5}, {"stream": "yes"},
])
def test_requests_beyond_the_limits_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        parse(ChatRequest, json.dumps(CHAT | change))
    assert caught.value.status == 400


def test_message_parts_join_and_developer_is_system() -> None:
    request = parse(ChatRequest, json.dumps({"messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "He"}, {"type": "text", "text": "llo"}]}]}))
    assert [m.plain() for m in request.messages] == [{"role": "system", "content": "Be brief."},
                                                     {"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(("prompt", "prompts"), [
    ("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]]), ([[]], [[]]),
])
def test_every_form_of_prompt(prompt: Any, prompts: list[Any]) -> None:
    assert parse(CompletionRequest, json.dumps({"prompt": prompt})).prompts == prompts
