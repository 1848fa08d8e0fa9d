from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gristmill.generation import Sampling
from gristmill.serving.engine_thread import Answer, EngineThread
from gristmill.serving.errors import ApiError
from gristmill.serving.settings import Limits
from tests.serving.scripted import ScriptedEngine, scripted_model
from tests.shared import HANG

ANSWER = "Return the text of the file."


class Rig:
    """An engine thread over a scripted engine."""

    def __init__(self, folder: Path, limits: Limits, answer: str = ANSWER, hold: int | None = None) -> None:
        self.engines: list[ScriptedEngine] = []

        def make_engine(model: Any, slots: int) -> ScriptedEngine:
            self.engines.append(ScriptedEngine(model.tokenizer, slots, answer, 0.001, hold))
            return self.engines[-1]

        self.thread = EngineThread(lambda: scripted_model(folder), limits, make_engine=make_engine)
        self.thread.start()

    async def ready(self) -> None:
        await until(lambda: self.thread.state == "ready")

    def ask(self, n: int = 1, stop: tuple[str, ...] = (), prompt: str = "x", **sampling: Any) -> list[Answer]:
        tokenizer = self.thread.model.tokenizer
        chosen = Sampling(stop_ids=tuple(tokenizer.stop_ids), **{"max_tokens": 400} | sampling)
        return self.thread.submit([(tokenizer.encode(prompt), chosen, stop)] * n)


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


async def read(answer: Answer) -> tuple[str, str]:
    pieces = [piece async for piece in answer]
    return "".join(piece.text for piece in pieces), str(pieces[-1].finish)


@pytest.fixture
def rig(tokenizer_folder: Path) -> Any:
    rigs: list[Rig] = []

    def make(**told: Any) -> Rig:
        script = {k: told.pop(k) for k in ("answer", "hold") if k in told}
        rigs.append(Rig(tokenizer_folder, Limits(**told), **script))
        return rigs[-1]

    yield make
    for made in rigs:
        made.thread.close()
        assert not made.thread._thread.is_alive()


def test_more_requests_than_slots_are_served_in_turn(rig: Any) -> None:
    async def play() -> None:
        one = rig(concurrent=2)
        await one.ready()
        assert await asyncio.gather(*map(read, one.ask(7))) == [(ANSWER, "stop")] * 7
        assert one.engines[0].most_live == 2
        assert one.thread.running == one.thread.waiting == 0

    asyncio.run(play())


def test_cancelling_frees_the_slot_at_once_running_or_waiting(rig: Any) -> None:
    async def play() -> None:
        one = rig(concurrent=1, answer=ANSWER * 20, hold=8)
        await one.ready()
        running, waiting, last = one.ask(3)
        await until(lambda: running.completion_tokens > 2)
        waiting.cancel()
        running.cancel()
        running.cancel()
        assert (await read(running))[1] == (await read(waiting))[1] == "cancelled"
        await until(lambda: last.completion_tokens > 0)
        assert one.engines[0].submitted == 2  # the waiting one never reached the engine
        last.cut()
        text, finish = await read(last)
        assert finish == "length"
        assert ANSWER.startswith(text[:5])

    asyncio.run(play())


def test_a_full_queue_refuses_all_or_nothing(rig: Any) -> None:
    async def play() -> None:
        one = rig(concurrent=2, queue=1, hold=3)
        await one.ready()
        with pytest.raises(ApiError) as caught:
            one.ask(4)
        assert (caught.value.status, caught.value.code) == (429, "queue_full")
        assert one.thread.waiting == 0
        answers = one.ask(3)
        with pytest.raises(ApiError) as caught:
            one.ask(1)
        assert int(caught.value.headers()["retry-after"]) >= 1
        for answer in answers:
            answer.cancel()

    asyncio.run(play())


def test_a_failing_engine_fails_its_requests_and_is_made_anew(rig: Any) -> None:
    async def play() -> None:
        one = rig(concurrent=2)
        await one.ready()
        bad, bystander, waiting = [*one.ask(1, prompt="EXPLODE"), *one.ask(2)]
        results = await asyncio.gather(read(bad), read(bystander), read(waiting), return_exceptions=True)
        assert [getattr(result, "status", result) for result in results] == [500, 500, (ANSWER, "stop")]
        assert len(one.engines) == 2
        assert (await read(one.ask()[0]))[0] == ANSWER

    asyncio.run(play())


@pytest.mark.parametrize("stop", ["text", " the file.", "R", "urn the te"])
def test_stop_strings_never_show_even_across_tokens(rig: Any, stop: str) -> None:
    async def play() -> None:
        one = rig()
        await one.ready()
        answer = one.ask(stop=(stop, "never there"))[0]
        assert await read(answer) == (ANSWER[: ANSWER.index(stop)], "stop")
        await until(lambda: not one.engines[0].live)

    asyncio.run(play())


def test_text_held_back_for_a_stop_string_comes_out_at_the_end(rig: Any) -> None:
    async def play() -> None:
        one = rig()
        await one.ready()
        assert (await read(one.ask(stop=("file.NO",))[0])) == (ANSWER, "stop")

    asyncio.run(play())


def test_characters_of_several_tokens_arrive_whole(rig: Any) -> None:
    async def play() -> None:
        words = "日本語 🎉 héllo"
        one = rig(answer=words)
        await one.ready()
        pieces = [piece.text async for piece in one.ask()[0]]
        assert "".join(pieces) == words
        assert not any("\ufffd" in piece for piece in pieces)

    asyncio.run(play())


def test_a_model_that_cannot_be_loaded_is_reported() -> None:
    def broken() -> Any:
        raise ValueError("no weights here")

    failures: list[BaseException] = []
    thread = EngineThread(broken, Limits(), on_failed=failures.append)
    with pytest.raises(ApiError) as caught:
        thread.submit([])
    assert caught.value.code == "loading"
    thread.start()
    thread._thread.join(HANG)
    assert thread.state == "failed"
    assert "no weights here" in str(failures[0])
    with pytest.raises(ApiError) as caught:
        thread.check_open()
    assert caught.value.code == "load_failed"
