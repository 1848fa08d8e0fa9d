"""A small server that speaks the OpenAI chat API, as friendly or unfriendly as a test wants it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


def completion(text: str, finish: str = "stop", prompt_tokens: int = 10, completion_tokens: int = 5) -> Reply:
    """A good answer."""
    return 200, {}, json.dumps({
        "model": "tiny-1", "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}}).encode()


def error(status: int, message: str = "no", **headers: str) -> Reply:
    """An error as such servers send it."""
    return status, headers, json.dumps({"error": {"message": message}}).encode()


class ChatServer:
    """Answers each request with `answer(body)`; keeps the bodies and headers that came."""

    def __init__(self, answer: Callable[[dict[str, Any]], Reply | None]) -> None:
        self.answer, self.bodies, self.headers = answer, [], []
        self.most_at_once = self.now = 0
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.bodies.append(body)
                    server.headers.append(dict(self.headers) | {"path": self.path})
                    server.now += 1
                    server.most_at_once = max(server.most_at_once, server.now)
                try:
                    reply = server.answer(body)
                finally:
                    with lock:
                        server.now -= 1
                if reply is None:  # hang up
                    self.close_connection = True
                    return
                status, headers, data = reply
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(data)

            def log_message(self, *about: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def reworded(body: dict[str, Any]) -> Reply:
    """A paraphrase of a kind: the text's words turned round, which depends on the seed too."""
    text = body["messages"][0]["content"].split("\n\n", 1)[1]
    words = text.split()
    at = body["seed"] % max(len(words), 1)
    return completion(" ".join([*reversed(words[at:]), *words[:at]]), prompt_tokens=len(words) + 20,
                      completion_tokens=len(words))


def slowly(seconds: float) -> Callable[[dict[str, Any]], Reply]:
    """`reworded` after a while."""
    def answer(body: dict[str, Any]) -> Reply:
        time.sleep(seconds)
        return reworded(body)

    return answer
