"""The HTTP routes: OpenAI's, health and metrics; every check that needs no model happens before the engine."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gristmill.core.errors import GristmillError
from gristmill.serving.access import Access, Sessions
from gristmill.serving.answers import AnswerStream, Describe, gather, stream, watched
from gristmill.serving.body import read_body
from gristmill.serving.engine_thread import Answer, EngineThread, TokenInfo, choice_samplings
from gristmill.serving.errors import ApiError, invalid
from gristmill.serving.login import add_login
from gristmill.serving.schemas import ChatRequest, CompletionRequest, SamplingFields, parse_request
from gristmill.serving.settings import Settings
from gristmill.serving.wire import Frame, chat_logprobs, completion_logprobs, usage

T = TypeVar("T")
RequestT = TypeVar("RequestT", bound=SamplingFields)


class Api:
    """The routes' shared state."""

    def __init__(self, engine: EngineThread, settings: Settings, digest: str = "") -> None:
        self.engine, self.settings, self.digest = engine, settings, digest
        self.started = int(time.time())

    @property
    def model_name(self) -> str:
        return str(self.engine.model.name)

    @property
    def fingerprint(self) -> str:
        """Changes when the weights do."""
        return f"gm-{self.digest[:16] or self.model_name}"

    async def parse(self, kind: type[RequestT], request: Request) -> RequestT:
        """The checked body; ApiError 413, 415, 400, 404 or 503."""
        self.engine.check_open()
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise ApiError(415, "Send the request as application/json.", code="unsupported_media_type")
        raw = await read_body(request, self.settings.limits.body_bytes)
        parsed = parse_request(kind, raw, self.settings.limits)
        if parsed.model is not None and parsed.model != self.model_name:
            raise unknown_model(parsed.model, self.model_name)
        return parsed

    def sampling(self, request: SamplingFields, prompt_tokens: int, budget: int | None, alternatives: int) -> Any:
        """The engine's Sampling; ApiError 400 where prompt and answer do not fit into the context."""
        from gristmill.generation import Sampling

        limits, room = self.settings.limits, self.engine.context - prompt_tokens
        if budget is not None and budget > limits.max_tokens:
            raise invalid(f"max_tokens is {budget}; this server gives at most {limits.max_tokens}", "max_tokens")
        if room < max(1, budget or 0):
            wanted = f"the prompt has {prompt_tokens} tokens" + (f" and max_tokens is {budget}" if budget else "")
            raise invalid(f"This model's context is {self.engine.context} tokens, but {wanted}; shorten the prompt or "
                          "lower max_tokens.", "max_tokens" if room > 0 else "prompt", "context_length_exceeded")
        greedy = request.temperature == 0 or request.top_p == 0
        seed = secrets.randbits(62) if request.seed is None else request.seed % 2**63
        return Sampling(
            max_tokens=budget or min(room, limits.max_tokens),
            temperature=0.0 if greedy else _default(request.temperature, 1.0),
            top_k=request.top_k or 0, top_p=1.0 if greedy else _default(request.top_p, 1.0),
            repetition_penalty=_default(request.repetition_penalty, 1.0), seed=seed, logprobs=alternatives,
            stop_ids=tuple(sorted(self.engine.model.tokenizer.stop_ids)),
        )

    def submit(self, prompts: Sequence[Sequence[int]], request: SamplingFields, alternatives: int,
               budget: int | None) -> list[Answer]:
        """n answers for every prompt, in order; all of them or none."""
        work: list[tuple[Sequence[int], Any, Sequence[str]]] = []
        for prompt in prompts:
            sampling = self.sampling(request, len(prompt), budget, alternatives)
            work += [(prompt, one, request.stop_strings) for one in choice_samplings(sampling, request.n or 1)]
        limits = self.settings.limits
        if len(work) > limits.concurrent + limits.queue:
            raise invalid(f"{len(work)} answers in one request; this server takes at most "
                          f"{limits.concurrent + limits.queue}", "n")
        return self.engine.submit(work)

    async def chat(self, http: Request) -> Response:
        request = await self.parse(ChatRequest, http)
        try:
            messages = [message.plain() for message in request.messages]
        except ValueError as error:
            raise invalid(str(error), "messages") from error
        tokenizer = self.engine.model.tokenizer
        prompt = await tokenise("messages", lambda: tokenizer.encode_chat(messages, add_generation_prompt=True))
        top = request.top_logprobs or 0
        answers = self.submit([prompt], request, top, request.token_budget)
        describe: Describe | None = None
        if request.logprobs:
            def describe(tokens: Sequence[TokenInfo], offset: int) -> dict[str, Any]:
                return chat_logprobs(tokenizer, tokens, top)
        return await self.respond(http, request, answers, Frame(self.model_name, self.fingerprint, True), describe)

    async def completions(self, http: Request) -> Response:
        request = await self.parse(CompletionRequest, http)
        tokenizer = self.engine.model.tokenizer
        prompts = []
        for prompt in request.prompts:
            ids = await tokenise("prompt", partial(prompt_ids, tokenizer, prompt))
            if not ids:
                raise invalid("the prompt is empty", "prompt")
            prompts.append(ids)
        top = request.logprobs or 0
        frame = Frame(self.model_name, self.fingerprint, False)
        if request.echo:
            return await self.echo(http, request, prompts, top, frame)
        answers = self.submit(prompts, request, top, request.token_budget)
        describe: Describe | None = None
        if request.logprobs is not None:
            def describe(tokens: Sequence[TokenInfo], offset: int) -> dict[str, Any]:
                return completion_logprobs(tokenizer, tokens, top, offset)
        return await self.respond(http, request, answers, frame, describe)

    async def echo(self, http: Request, request: CompletionRequest, prompts: list[list[int]], top: int,
                   frame: Frame) -> Response:
        """Prompts come back before their answers, with log-probabilities if asked for (lm-eval scores this way)."""
        tokenizer, n = self.engine.model.tokenizer, request.n or 1
        for prompt in prompts:
            if len(prompt) > self.engine.context:
                self.sampling(request, len(prompt), None, 0)
        scored: list[list[TokenInfo]] = []
        if request.logprobs is not None:
            scored = [await self.engine.call(partial(score_prompt, ids=ids, top=top)) for ids in prompts]
        bodies: list[tuple[str, list[TokenInfo], str]] = [("", [], "length")] * (len(prompts) * n)
        new_tokens = 0
        if request.max_tokens != 0:
            answers = self.submit(prompts, request, top, request.token_budget)
            bodies = await watched(http, self.settings.limits.request_seconds, answers, gather(answers))
            new_tokens = sum(answer.completion_tokens for answer in answers)
        choices = []
        for index, (text, tokens, finish) in enumerate(bodies):
            prompt_text = tokenizer.decode(prompts[index // n], skip_special=True)
            shown = None
            if request.logprobs is not None:
                shown = completion_logprobs(tokenizer, [*scored[index // n], *tokens], top, 0)
            choices.append(frame.choice(index, prompt_text + text, finish, shown))
        return JSONResponse(frame.whole(choices, usage(sum(map(len, prompts)), new_tokens)))

    async def respond(self, http: Request, request: SamplingFields, answers: list[Answer], frame: Frame,
                      describe: Describe | None) -> Response:
        """The answers as one JSON object or as a stream of events."""
        prompt_tokens = sum(answer.prompt_tokens for answer in answers[:: request.n or 1])
        if request.stream:
            chunks = stream(http, self.settings.limits.request_seconds, answers, frame, describe,
                            request.wants_usage_chunk, prompt_tokens)
            return AnswerStream(chunks, answers)
        bodies = await watched(http, self.settings.limits.request_seconds, answers, gather(answers))
        choices = [frame.choice(i, text, finish, describe(tokens, 0) if describe else None)
                   for i, (text, tokens, finish) in enumerate(bodies)]
        return JSONResponse(frame.whole(choices, usage(prompt_tokens, sum(a.completion_tokens for a in answers))))

    async def models(self) -> dict[str, Any]:
        self.engine.check_open()
        return {"object": "list", "data": [self.model_card()]}

    async def model(self, name: str) -> dict[str, Any]:
        self.engine.check_open()
        if name != self.model_name:
            raise unknown_model(name, self.model_name)
        return self.model_card()

    def model_card(self) -> dict[str, Any]:
        return {"id": self.model_name, "object": "model", "created": self.started, "owned_by": "gristmill",
                "context_length": self.engine.context}

    async def health(self) -> Response:
        state = self.engine.state
        return JSONResponse({"status": state}, 200 if state == "ready" else 503,
                            {} if state == "ready" else {"retry-after": "2"})

    async def metrics(self) -> Response:
        engine = self.engine
        text = engine.metrics.render(engine.running, engine.waiting, engine.state == "draining")
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def create_app(engine: EngineThread, settings: Settings, digest: str = "") -> FastAPI:
    """The API over a (possibly still loading) engine; the chat page is mounted by `studio.page.mount`.

    digest: of the weights, if known; clients see its beginning as `system_fingerprint`.
    """
    api, sessions = Api(engine, settings, digest), Sessions()
    app = FastAPI(title="Gristmill", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    app.state.api, app.state.engine, app.state.settings = api, engine, settings
    app.add_middleware(Access, settings=settings, sessions=sessions)

    def body(kind: type[SamplingFields]) -> dict[str, Any]:
        schema = kind.model_json_schema(ref_template=f"#/components/schemas/{kind.__name__}/$defs/{{model}}")
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(schema)}}}}

    app.add_api_route("/health", api.health, methods=["GET"])
    app.add_api_route("/metrics", api.metrics, methods=["GET"])
    app.add_api_route("/v1/models", api.models, methods=["GET"])
    app.add_api_route("/v1/models/{name:path}", api.model, methods=["GET"])
    app.add_api_route("/v1/completions", api.completions, methods=["POST"], openapi_extra=body(CompletionRequest))
    app.add_api_route("/v1/chat/completions", api.chat, methods=["POST"], openapi_extra=body(ChatRequest))
    if settings.page:
        add_login(app, settings, sessions)

    @app.exception_handler(ApiError)
    async def on_api_error(request: Request, error: ApiError) -> Response:
        return JSONResponse(error.body(), error.status, error.headers())

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        answer = ApiError(error.status_code, f"{error.detail}: {request.method} {request.url.path[:200]}",
                          code=str(error.detail).lower().replace(" ", "_"))
        return JSONResponse(answer.body(), error.status_code, dict(error.headers or {}))

    @app.exception_handler(ClientDisconnect)
    async def on_disconnect(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def on_any(request: Request, error: Exception) -> Response:
        answer = ApiError(500, "Something inside the server went wrong; its log says what.", kind="server_error",
                          code="internal_error")
        return JSONResponse(answer.body(), 500)

    return app


async def tokenise(field: str, work: Callable[[], T]) -> T:
    """Tokenisation off the event loop; what the tokenizer or its template refuses is the client's 400."""
    try:
        return await asyncio.to_thread(work)
    except GristmillError as error:
        raise invalid(error.what, field) from error


def prompt_ids(tokenizer: Any, prompt: str | list[int]) -> list[int]:
    """Ids of a completions prompt: text begins a document (an empty one too), ids are taken as they are."""
    if isinstance(prompt, str):
        start = tokenizer.document_start_id
        return tokenizer.encode_prompt(prompt) or [tokenizer.eos_id if start is None else start]
    for token in prompt:
        if token >= tokenizer.vocab_size:
            raise invalid(f"token id {token} is not in the vocabulary of {tokenizer.vocab_size}", "prompt")
    return prompt


def score_prompt(model: Any, ids: list[int], top: int) -> list[TokenInfo]:
    """Log-probabilities of a prompt's tokens, each given those before it."""
    import torch

    logits = model.logits([ids])[0]
    logprobs = torch.log_softmax(logits.float(), -1).cpu()
    best = torch.topk(logprobs, min(top, logprobs.shape[-1])) if top else None
    scored = [TokenInfo(ids[0], None)]
    for i, token in enumerate(ids[1:]):
        likely: tuple[tuple[int, float], ...] = ()
        if best is not None:
            likely = tuple(zip(best.indices[i].tolist(), best.values[i].tolist(), strict=True))
        scored.append(TokenInfo(token, float(logprobs[i, token]), likely))
    return scored


def unknown_model(name: str, served: str) -> ApiError:
    return ApiError(404, f"The model {name!r} does not exist here; this server has {served!r}.", param="model",
                    code="model_not_found")


def _default(value: float | None, default: float) -> float:
    return default if value is None else value


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without $defs: references replaced by what they mean."""
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(definitions[node["$ref"].rsplit("/", 1)[-1]])
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(item) for item in node] if isinstance(node, list) else node

    return resolve(schema)
