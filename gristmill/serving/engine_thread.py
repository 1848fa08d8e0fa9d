"""The one thread that drives the engine, and the asynchronous handles through which requests talk to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from gristmill.serving.errors import ApiError, draining, engine_failed, loading, overloaded
from gristmill.serving.metrics import Metrics
from gristmill.serving.settings import Limits

if TYPE_CHECKING:
    from gristmill.generation import Sampling

log = logging.getLogger("gristmill.serving")

State = Literal["loading", "ready", "draining", "failed"]


@dataclass(frozen=True)
class TokenInfo:
    """One token with its log-probability (nats; None: nothing predicts it) and the likeliest alternatives."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """What became final since the last piece: text that is safe to show, and the tokens behind it.

    finish: None while the answer goes on; "cancelled" when its reader left.
    """

    text: str
    tokens: tuple[TokenInfo, ...] = ()
    finish: Literal["stop", "length", "cancelled"] | None = None


class Answer:
    """One answer under way; made by `EngineThread.submit`, read on the event loop with `async for`."""

    def __init__(self, owner: EngineThread, prompt: Sequence[int], sampling: Sampling, stop: Sequence[str]) -> None:
        self.prompt, self.sampling, self.stop = list(prompt), sampling, tuple(stop)
        self.completion_tokens = 0
        self.began = time.monotonic()
        self.first_token: float | None = None
        """Seconds from submission to the first token."""
        self.seconds: float | None = None
        """Seconds from submission to the end."""
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        # What follows belongs to the engine thread alone.
        self._request: int | None = None
        self._text: Any = None
        self._held: list[TokenInfo] = []
        self._wanted_end: Literal["cancelled", "length"] | None = None
        self._over = False

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt)

    def cancel(self) -> None:
        """Nobody reads on: free the slot before the engine's next step. May be called twice, from any thread."""
        self._owner._end(self, "cancelled")

    def cut(self) -> None:
        """End now with what there is, finish reason "length"."""
        self._owner._end(self, "length")

    async def __aiter__(self) -> AsyncIterator[Piece]:
        while True:
            piece = await self._pieces.get()
            if isinstance(piece, Exception):
                raise piece
            yield piece
            if piece.finish is not None:
                return


class EngineThread:
    """Loads the model in the background, then steps the engine while there is work.

    open_model: gives the LanguageModel; runs in the thread. on_failed: called there if it raises.
    make_engine: (LanguageModel, slots) -> engine; called again after a failure.
    """

    def __init__(
        self, open_model: Callable[[], Any], limits: Limits, metrics: Metrics | None = None,
        on_failed: Callable[[BaseException], None] | None = None, make_engine: Callable[[Any, int], Any] | None = None,
    ) -> None:
        self.limits, self.metrics = limits, metrics or Metrics()
        self.model: Any = None
        """The LanguageModel, once ready."""
        self.state: State = "loading"
        self.failure: BaseException | None = None
        self._open, self._on_failed, self._engine_of = open_model, on_failed, make_engine or new_engine
        self._engine: Any = None
        self._wake = threading.Condition()
        self._waiting: deque[Answer] = deque()
        self._running: dict[int, Answer] = {}
        self._ending: list[Answer] = []
        self._jobs: deque[Callable[[], None]] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="gristmill-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together."""
        return int(self._engine.context)

    def check_open(self) -> None:
        """ApiError 503 unless requests are taken."""
        if self.state == "loading":
            raise loading()
        if self.state == "draining":
            raise draining()
        if self.state == "failed":
            raise ApiError(503, "The model could not be loaded; the server's log says why.",
                           kind="unavailable_error", code="load_failed")

    def submit(self, requests: Sequence[tuple[Sequence[int], Sampling, Sequence[str]]]) -> list[Answer]:
        """Take all of (prompt ids, sampling, stop strings) or none; ApiError 429 if the queue is too short.

        Call on the event loop that will read the answers.
        """
        answers = [Answer(self, prompt, sampling, stop) for prompt, sampling, stop in requests]
        with self._wake:
            self.check_open()
            free = self.limits.concurrent - len(self._running)
            if len(self._waiting) + len(answers) > self.limits.queue + free:
                raise overloaded(len(self._waiting))
            self._waiting.extend(answers)
            self._wake.notify()
        return answers

    async def call(self, work: Callable[[Any], Any]) -> Any:
        """`work(model)` in the engine thread, between two steps."""
        loop, done = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def finish(result: Any, error: Exception | None) -> None:
            if not done.done():
                done.set_exception(error) if error else done.set_result(result)

        def job() -> None:
            try:
                result, error = work(self.model), None
            except Exception as caught:
                log.exception("work in the engine thread failed")
                result, error = None, caught if isinstance(caught, ApiError) else engine_failed()
            loop.call_soon_threadsafe(finish, result, error)

        with self._wake:
            self.check_open()
            self._jobs.append(job)
            self._wake.notify()
        return await done

    def drain(self) -> None:
        """Take no new requests; running and waiting ones go on."""
        with self._wake:
            self.state = "draining"

    def cut_all(self) -> None:
        """End every answer now, finish reason "length"."""
        with self._wake:
            answers = [*self._waiting, *self._running.values()]
        for answer in answers:
            answer.cut()

    def close(self, timeout: float = 10.0) -> None:
        """Stop the thread; answers still under way are cut."""
        self.cut_all()
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _end(self, answer: Answer, how: Literal["cancelled", "length"]) -> None:
        with self._wake:
            if not answer._over and answer._wanted_end is None:
                answer._wanted_end = how
                self._ending.append(answer)
                self._wake.notify()

    def _run(self) -> None:
        try:
            self.model = self._open()
            self._make_engine()
        except BaseException as error:  # the server must learn of it whatever it was
            self.failure, self.state = error, "failed"
            log.error("the model could not be loaded: %s", error)
            if self._on_failed:
                self._on_failed(error)
            return
        with self._wake:
            if self.state == "loading":
                self.state = "ready"
        while True:
            with self._wake:
                while not (self._closed or self._waiting or self._running or self._ending or self._jobs):
                    self._wake.wait()
                if self._closed and not (self._ending or self._running or self._waiting):
                    return
                jobs, self._jobs = list(self._jobs), deque()
            for job in jobs:
                job()
            try:
                self._turn()
            except Exception:
                log.exception("the engine failed; it is made anew")
                self._fail_all()

    def _make_engine(self) -> None:
        self._engine = self._engine_of(self.model, self.limits.concurrent)

    def _turn(self) -> None:
        """Apply what was asked for, then one step of the engine."""
        self._apply_ends()
        with self._wake:
            admitted: list[Answer] = []
            while self._waiting and len(self._running) + len(admitted) < self.limits.concurrent:
                admitted.append(self._waiting.popleft())
        for answer in admitted:
            self._admit(answer)
        if not self._running:
            return
        out: dict[asyncio.AbstractEventLoop, list[tuple[Answer, Piece | Exception]]] = {}
        for event in self._engine.step():
            of = self._running.get(event.request)
            piece = self._digest(of, event) if of is not None else None
            if of is not None and piece is not None:
                out.setdefault(of._loop, []).append((of, piece))
        for loop, pieces in out.items():
            _post(loop, pieces)

    def _admit(self, answer: Answer) -> None:
        from gristmill.generation import TextStream

        answer._text = TextStream(self.model.tokenizer, list(answer.stop))
        try:
            answer._request = self._engine.submit(answer.prompt, answer.sampling)
        except Exception as error:
            log.exception("the engine refused a request")
            answer._over = True
            self.metrics.answer_ended("error", answer.prompt_tokens, 0, time.monotonic() - answer.began)
            _post(answer._loop, [(answer, error if isinstance(error, ApiError) else engine_failed())])
            return
        with self._wake:
            self._running[answer._request] = answer

    def _digest(self, answer: Answer, event: Any) -> Piece | None:
        """Turn a token event into the piece that may be shown; None while text is held back."""
        if answer.first_token is None:
            answer.first_token = time.monotonic() - answer.began
            self.metrics.answer_began(answer.first_token)
        finish = event.finish
        text = ""
        answer.completion_tokens += 1
        if finish != "stop":  # OpenAI's log-probabilities leave the stop token out
            answer._held.append(TokenInfo(event.token, event.logprob, tuple(event.top or ())))
        text += answer._text.push(event.token)
        if finish is not None:
            text += answer._text.flush()
        if answer._text.stopped:
            if finish is None:
                self._engine.cancel(event.request)
            finish = "stop"
            if not text:
                answer._held.clear()
        if finish is None and not text:
            return None
        piece = Piece(text, tuple(answer._held), finish)
        answer._held = []
        if finish is not None:
            self._finished(answer, finish)
        return piece

    def _apply_ends(self) -> None:
        with self._wake:
            ending, self._ending = self._ending, []
        for answer in ending:
            if answer._over:
                continue
            how = answer._wanted_end or "cancelled"
            text = ""
            if answer._request is not None:
                self._engine.cancel(answer._request)
                if how == "length":
                    text = answer._text.flush()
            else:
                with self._wake:
                    self._waiting.remove(answer)
            piece = Piece(text, tuple(answer._held), how)
            self._finished(answer, how)
            _post(answer._loop, [(answer, piece)])

    def _finished(self, answer: Answer, reason: str) -> None:
        answer._over = True
        answer.seconds = time.monotonic() - answer.began
        if answer._request is not None:
            with self._wake:
                self._running.pop(answer._request, None)
        self.metrics.answer_ended(reason, answer.prompt_tokens, answer.completion_tokens, answer.seconds)

    def _fail_all(self) -> None:
        """Tell every running answer that the engine failed; those that wait are served by the new engine."""
        self.metrics.engine_failed()
        with self._wake:
            failed = list(self._running.values())
        for answer in failed:
            self._finished(answer, "error")
            _post(answer._loop, [(answer, engine_failed())])
        try:
            self._make_engine()
        except Exception as error:
            log.exception("no new engine could be made")
            self.failure, self.state = error, "failed"
            if self._on_failed:
                self._on_failed(error)


def new_engine(model: Any, slots: int) -> Any:
    """The engine that offline generation uses, with as many slots as answers may run together."""
    from gristmill.generation import Engine

    return Engine(model.model, slots=slots, vocab_size=model.tokenizer.vocab_size)


def _post(loop: asyncio.AbstractEventLoop, pieces: list[tuple[Answer, Piece | Exception]]) -> None:
    def deliver() -> None:
        for answer, piece in pieces:
            answer._pieces.put_nowait(piece)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to read
        loop.call_soon_threadsafe(deliver)


def choice_samplings(sampling: Sampling, n: int) -> list[Sampling]:
    """`n` samplings for one prompt: the first keeps the seed, the others derive theirs from it."""
    from gristmill.core.seeds import derive_seed

    seed = sampling.seed if sampling.seed is not None else 0
    return [sampling, *(replace(sampling, seed=derive_seed(seed, "choice", i)) for i in range(1, n))]
