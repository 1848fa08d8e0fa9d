from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from gristmill.core.errors import MachineError, UserError
from gristmill.serving.server import bind, serve
from gristmill.serving.settings import Settings
from tests.processes import start
from tests.serving.scripted import main
from tests.shared import HANG

CHAT = {"messages": [{"role": "user", "content": "x"}]}
KEY = "a-long-secret-key"


def test_a_port_in_use_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]

        def never() -> Any:
            raise AssertionError("the model was loaded")

        with pytest.raises(MachineError, match=f"port {port} .*in use") as caught:
            serve(tmp_path / "model", Settings(port=port, state_dir=tmp_path), open_model=never)
        assert f"--port {port + 1}" in str(caught.value) or "--port" in str(caught.value)
    bind("127.0.0.1", port).close()


def test_an_unknown_host_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model folder"):
        serve(tmp_path / "missing", Settings(port=0))
    with pytest.raises(MachineError):
        bind("no.such.host.invalid", 0)


def test_health_answers_while_the_model_loads(scripted: Callable[..., Any], tmp_path: Path) -> None:
    running = scripted(loaded=str(tmp_path / "loaded"), wait=False)
    running.wait_until(lambda: reachable(running.url))
    with running.client() as client:
        health = client.get("/health")
        assert (health.status_code, health.json()) == (503, {"status": "loading"})
        refused = client.post("/v1/chat/completions", json=CHAT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "loading")
        assert "retry-after" in refused.headers
        (tmp_path / "loaded").touch()
        running.wait_until(lambda: running.health() == "ready")
        assert client.get("/health").status_code == 200


def reachable(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=HANG, trust_env=False).status_code in (200, 503)
    except httpx.TransportError:
        return False


def test_sigterm_lets_running_answers_finish_and_refuses_new_ones(scripted: Callable[..., Any],
                                                                  tmp_path: Path) -> None:
    running = scripted("Return the text of the file. " * 4, hold=3, gate=str(tmp_path / "gate"))
    body = CHAT | {"stream": True}
    with running.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        running.process.tell(signal.SIGTERM)
        running.wait_until(lambda: running.health() == "draining")
        refused = httpx.post(f"{running.url}/v1/chat/completions", json=CHAT, timeout=HANG, trust_env=False)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert int(refused.headers["retry-after"]) > 0
        (tmp_path / "gate").touch()
        events = [line for line in lines if line.startswith("data: ")]
    assert events[-1] == "data: [DONE]"
    assert json.loads(events[-2][6:])["choices"][0]["finish_reason"] == "stop"
    assert running.process.ended() == 0


def test_what_runs_too_long_after_sigterm_is_cut_with_a_reason(scripted: Callable[..., Any]) -> None:
    running = scripted(hold=3, drain_seconds=0.5)
    body = CHAT | {"stream": True}
    with running.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        running.process.tell(signal.SIGTERM)
        events = [line for line in lines if line.startswith("data: ")]
    assert json.loads(events[-2][6:])["choices"][0]["finish_reason"] == "length"
    assert running.process.ended() == 0


def test_a_time_limit_ends_requests(scripted: Callable[..., Any]) -> None:
    running = scripted(hold=3, limits={"request_seconds": 0.5})
    with running.client() as client:
        body = client.post("/v1/chat/completions", json=CHAT).json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] <= 3


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_frees_its_slot(scripted: Callable[..., Any], streamed: bool) -> None:
    running = scripted(hold=2, limits={"concurrent": 1, "queue": 1})
    address = httpx.URL(running.url)
    body = json.dumps(CHAT | {"stream": streamed}).encode()
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nhost: {address.host}:{address.port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n").encode()
    connections = []
    for _ in range(2):
        connection = socket.create_connection((address.host, address.port or 80))
        connection.sendall(head + body)
        connections.append(connection)
    running.wait_until(lambda: running.metric("requests_running") == 1 and running.metric("requests_waiting") == 1)
    for connection in connections:
        connection.close()
    running.wait_until(lambda: running.metric("requests_running") == running.metric("requests_waiting") == 0)
    with running.client() as client:
        assert 'answers_total{reason="cancelled"} 2' in client.get("/metrics").text


def test_the_manifest_tells_all_but_the_keys(scripted: Callable[..., Any]) -> None:
    running = scripted(keys=[KEY])
    running.wait_until(lambda: any(running.state_dir.glob("deployment-*.json")))
    path = next(running.state_dir.glob("deployment-*.json"))
    manifest = json.loads(path.read_text())
    assert manifest["model"]["name"] == "tiny"
    assert manifest["url"] == running.url
    assert manifest["versions"]["torch"]
    assert manifest["settings"]["limits"]["concurrent"] == 8
    assert KEY not in path.read_text()
    assert manifest["settings"]["keys"] == 1
    assert running.stop() == 0
    assert "stopped" in json.loads(path.read_text())
    assert KEY not in running.errors


def test_a_folder_that_is_no_model_ends_the_server_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    told = {"folder": str(tmp_path), "state_dir": str(tmp_path / "state")}
    done = start(main, json.dumps(told))
    assert done.ended() in (2, 70), done.err
    assert "Traceback" not in done.err
