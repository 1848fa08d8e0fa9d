"""From answers under way to response bodies: collected, merged into one stream, and ended when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gristmill.serving.engine_thread import Answer, TokenInfo
from gristmill.serving.errors import ApiError
from gristmill.serving.wire import DONE, PING, Frame, event, usage

PING_SECONDS = 15.0
"""Silence after which a stream says that it lives."""
T = TypeVar("T")
Describe = Callable[[Sequence[TokenInfo], int], dict[str, Any]]
"""(tokens, offset of their text) -> the `logprobs` of a choice."""


class AnswerStream(StreamingResponse):
    """Server-sent events whose answers end with the response, even if it fails before the first event."""

    def __init__(self, chunks: AsyncIterator[bytes], answers: list[Answer]) -> None:
        super().__init__(chunks, media_type="text/event-stream",
                         headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self.answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for answer in self.answers:
                answer.cancel()


async def stream(http: Request, seconds: float, answers: list[Answer], frame: Frame,
                 describe: Describe | None, say_usage: bool, prompt_tokens: int) -> AsyncIterator[bytes]:
    """Server-sent events; leaving this generator in any way frees the slots."""
    async with guarded(http, seconds, answers):
        try:
            if frame.chat:
                for index in range(len(answers)):
                    yield frame.chunk([frame.delta(index, "", None, None, role=True)], None, say_usage)
            offsets = [0] * len(answers)
            async for index, piece in merged(answers):
                if piece is None:
                    yield PING
                    continue
                shown = describe(piece.tokens, offsets[index]) if describe and piece.tokens else None
                offsets[index] += len(piece.text)
                if not frame.chat:
                    yield frame.chunk([frame.delta(index, piece.text, piece.finish, shown)], None, say_usage)
                    continue
                if piece.text or shown:
                    yield frame.chunk([frame.delta(index, piece.text, None, shown)], None, say_usage)
                if piece.finish:
                    yield frame.chunk([frame.delta(index, None, piece.finish, None)], None, say_usage)
            if say_usage:
                yield frame.chunk([], usage(prompt_tokens, sum(a.completion_tokens for a in answers)), True)
        except ApiError as error:
            yield event(error.body())
        yield DONE


async def watched(http: Request, seconds: float, answers: list[Answer], work: Awaitable[T]) -> T:
    """`work`, given up (and the slots freed) when the client leaves."""
    async with guarded(http, seconds, answers):
        return await work


@asynccontextmanager
async def guarded(http: Request, seconds: float, answers: list[Answer]) -> AsyncIterator[None]:
    """While inside, a leaving client or the time limit ends `answers`; afterwards none is left in the engine."""
    async def watch() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass
        for answer in answers:
            answer.cancel()

    def too_late() -> None:
        for answer in answers:
            answer.cut()

    watcher = asyncio.create_task(watch())
    timer = asyncio.get_running_loop().call_later(seconds, too_late)
    try:
        yield
    finally:
        timer.cancel()
        watcher.cancel()
        for answer in answers:
            answer.cancel()


async def gather(answers: Sequence[Answer]) -> list[tuple[str, list[TokenInfo], str]]:
    """(text, tokens, finish reason) of each answer; raises ApiError if the engine failed."""
    bodies = []
    for answer in answers:
        text: list[str] = []
        tokens: list[TokenInfo] = []
        finish = "stop"
        async for piece in answer:
            text.append(piece.text)
            tokens += piece.tokens
            finish = piece.finish or finish
        bodies.append(("".join(text), tokens, finish))
    return bodies


async def merged(answers: Sequence[Answer]) -> AsyncIterator[tuple[int, Any]]:
    """(index, Piece) in the order of arrival; (0, None) when nothing came for a while."""
    queue: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()

    async def pump(index: int, answer: Answer) -> None:
        try:
            async for piece in answer:
                queue.put_nowait((index, piece))
        except Exception as error:
            queue.put_nowait((index, error))

    pumps = [asyncio.create_task(pump(i, answer)) for i, answer in enumerate(answers)]
    open_answers = len(answers)
    try:
        while open_answers:
            try:
                index, piece = await asyncio.wait_for(queue.get(), PING_SECONDS)
            except TimeoutError:
                yield 0, None
                continue
            if isinstance(piece, Exception):
                raise piece
            open_answers -= piece.finish is not None
            yield index, piece
    finally:
        for task in pumps:
            task.cancel()
