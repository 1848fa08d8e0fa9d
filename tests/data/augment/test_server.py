import email.utils
import json
import socket
import threading
import time

import pytest

from gristmill.core.errors import UserError
from gristmill.core.writer import Request
from gristmill.data.augment import server as module
from gristmill.data.augment.server import Server, ServerWriter
from tests.data.augment.chat_server import completion, error
from tests.shared import HANG

REQUEST = Request("Say it.\n\nA text.", 42, 50, 0.5, 0.9)


def writer(url: str, **options) -> ServerWriter:
    slept: list[float] = []
    made = ServerWriter(Server(base_url=url, model="tiny", **{"timeout": HANG, "retries": 2, **options}),
                        sleep=slept.append)
    made.slept = slept
    return made


def replies(*given):
    """Answer with one after the other, the last one for ever."""
    left = list(given)

    def answer(body):
        reply = left.pop(0) if len(left) > 1 else left[0]
        return reply() if callable(reply) else reply

    return answer


def test_what_is_asked_and_what_is_read(serve, monkeypatch):
    monkeypatch.setenv("TINY_KEY", "secret")
    server = serve(replies(completion("Words.", prompt_tokens=7, completion_tokens=3)))
    made = writer(server.url, key_env="TINY_KEY", extra={"min_p": 0.1}, max_tokens_field="max_completion_tokens")
    answer = made.write([REQUEST])[0]
    assert (answer.text, answer.finish, answer.prompt_tokens, answer.completion_tokens, answer.model) == (
        "Words.", "stop", 7, 3, "tiny-1")
    assert server.bodies == [{"model": "tiny", "messages": [{"role": "user", "content": REQUEST.prompt}],
                              "temperature": 0.5, "top_p": 0.9, "seed": 42, "max_completion_tokens": 50, "min_p": 0.1}]
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert server.headers[0]["path"] == "/v1/chat/completions"


def test_fields_that_a_server_does_not_take_are_left_out(serve):
    server = serve(replies(completion("Words.")))
    writer(server.url, leave_out=["seed", "top_p"]).write([REQUEST])
    assert set(server.bodies[0]) == {"model", "messages", "temperature", "max_tokens"}


def test_half_a_surrogate_pair_is_no_text(serve):
    assert writer(serve(replies(completion("a\ud83d b"))).url).write([REQUEST])[0].text == "a? b"


def test_a_missing_key_is_told_before_anything_is_asked():
    with pytest.raises(UserError, match="NO_SUCH_KEY is not set"):
        writer("http://127.0.0.1:9", key_env="NO_SUCH_KEY")


@pytest.mark.parametrize("bad", [
    error(500), error(429), error(503), error(408), (200, {}, b"not json"), (200, {}, b"{}"),
    (200, {}, b'{"choices": []}'),
    (200, {}, b'{"choices": [{"message": {"content": null}}]}'), (200, {}, b"[" * 100_000), None])
def test_what_can_pass_is_tried_again(serve, bad):
    server = serve(replies(bad, bad, completion("Words.")))
    made = writer(server.url)
    assert made.write([REQUEST])[0].text == "Words."
    assert len(server.bodies) == made.tries == 3
    assert 0.3 < made.slept[0] < 0.7  # half a second and one, a quarter more or less
    assert 0.7 < made.slept[1] < 1.3


def test_what_does_not_pass_fails_with_its_reason(serve):
    made = writer(serve(replies(error(500, "out of memory"))).url)
    answer = made.write([REQUEST])[0]
    assert answer.finish == "failed"
    assert answer.detail == "HTTP 500: out of memory (3 tries)"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        refused = writer(f"http://127.0.0.1:{closed.getsockname()[1]}/v1", retries=0).write([REQUEST])[0]
    assert refused.finish == "failed"
    assert "Refused" in refused.detail


def test_the_pause_that_the_server_asks_for(serve):
    later = email.utils.formatdate(time.time() + 3600, usegmt=True)
    server = serve(replies(error(429, Retry_After="0.2"), completion("Words.")))
    made = writer(server.url)
    waited, now = [], [0.0]
    made.pace._clock, made.pace._last = lambda: now[0], 0.0

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    made.pace._sleep = sleep
    assert made.write([REQUEST])[0].text == "Words."
    assert waited == [0.2]
    assert made.slept == []
    assert 3000 < module._retry_after(later) <= 3600
    assert module._retry_after("soon") is None
    assert module._retry_after("-5") == 0


@pytest.mark.parametrize(("reply", "said"), [
    (error(401, "bad key"), "refuses the key: bad key"), (error(403), "refuses the key"),
    (error(404, "no model"), "no such model or path: no model"),
    ((302, {"Location": "http://10.0.0.1/x"}, b""), "sends us elsewhere \\(http://10.0.0.1/x\\)")])
def test_what_no_request_would_survive(serve, reply, said):
    server = serve(replies(reply))
    with pytest.raises(UserError, match=said):
        writer(server.url).write([REQUEST])
    assert len(server.bodies) == 1


@pytest.mark.parametrize(("reply", "finish", "detail"), [
    (error(400, "maximum context length is 5"), "does_not_fit", "HTTP 400: maximum context length is 5"),
    (error(400, "bad words"), "refused", "HTTP 400: bad words"),
    (completion("", finish="content_filter"), "refused", "the server's filter"),
    (completion("Half", finish="length"), "length", "")])
def test_what_one_request_does_not_survive(serve, reply, finish, detail):
    answer = writer(serve(replies(reply)).url).write([REQUEST])[0]
    assert (answer.finish, answer.detail) == (finish, detail)


def test_a_silent_server_is_left(serve):
    done = threading.Event()
    server = serve(lambda body: done.wait(HANG) and None)
    answer = writer(server.url, timeout=1, retries=0).write([REQUEST])[0]
    done.set()
    assert answer.detail == "TimeoutError: no answer in 1 seconds (1 tries)"


def test_a_dripping_server_is_left_too():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        stop = threading.Event()

        def drip() -> None:
            connection, _ = listening.accept()
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while not stop.wait(0.05):
                try:
                    connection.sendall(b"X-A: b\r\n"[:1])
                except OSError:
                    return

        threading.Thread(target=drip, daemon=True).start()
        answer = writer(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", timeout=1, retries=0).write([REQUEST])[0]
        stop.set()
    assert "no answer in 1 seconds" in answer.detail


def test_a_giant_answer_is_not_read(serve, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_ANSWER", 1 << 20)
    server = serve(replies((200, {}, json.dumps({"choices": [{"message": {"content": "x" * (2 << 20)}}]}).encode())))
    answer = writer(server.url, retries=0).write([REQUEST])[0]
    assert answer.finish == "failed"
    assert "more than 1 MiB" in answer.detail


@pytest.mark.parametrize(("wrong", "field"), [
    ({"base_url": "ftp://x"}, "base_url"), ({"base_url": "http://a:b@x"}, "base_url"), ({"base_url": "x"}, "base_url"),
    ({"timeout": 0}, "timeout"), ({"concurrency": 0}, "concurrency"), ({"extra": {"seed": 1}}, "extra"),
    ({"model": ""}, "model")])
def test_wrong_settings(wrong, field):
    with pytest.raises(ValueError, match=field):
        Server(**{"base_url": "http://x/v1", "model": "m", **wrong})


def test_an_address_is_no_part_of_identity_and_what_changes_answers_is():
    def identity(**options):
        return ServerWriter(Server(**{"base_url": "http://a/v1", "model": "m", **options})).identity

    assert identity() == identity(base_url="http://b/v1", timeout=9, concurrency=2)
    assert len({identity(), identity(model="n"), identity(extra={"min_p": 0.1}), identity(extra={"min_p": 1}),
                identity(leave_out=["seed"])}) == 5
