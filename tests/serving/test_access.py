from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from gristmill.serving.api import create_app
from gristmill.serving.engine_thread import EngineThread
from gristmill.serving.settings import Limits, Settings, hash_keys

KEY = "a-long-secret-key"
LOCAL = "http://127.0.0.1:8000"


def client_for(settings: Settings, **more: Any) -> TestClient:
    engine = EngineThread(lambda: None, settings.limits)  # never started: the model "loads" for ever
    return TestClient(create_app(engine, settings), base_url=LOCAL, follow_redirects=False, **more)


@pytest.fixture
def keyed(tmp_path: Path) -> TestClient:
    return client_for(Settings(key_digests=hash_keys([KEY], environment=False), state_dir=tmp_path))


def paths(routes: list[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(method, path) of every route, mounted apps included; parameters filled with something."""
    for route in routes:
        if isinstance(route, Mount):
            yield "GET", f"{prefix}{route.path}/anything"
            yield from paths(route.routes or [], prefix + route.path)
        elif isinstance(route, (Route, WebSocketRoute)):
            path = prefix + route.path.replace("{", "").replace("}", "").replace(":path", "")
            for method in getattr(route, "methods", None) or {"GET"}:
                yield method, path
        else:
            raise AssertionError(f"a kind of route that this test does not know: {route!r}")


def test_every_route_but_health_and_login_needs_a_key(tokenizer_folder: Path, tmp_path: Path) -> None:
    from gristmill.serving.studio.page import mount

    settings = Settings(key_digests=hash_keys([KEY], environment=False), state_dir=tmp_path)
    engine = EngineThread(lambda: None, settings.limits)
    app = create_app(engine, settings)
    mount(app, engine, settings)
    client = TestClient(app, base_url=LOCAL, follow_redirects=False)
    found = set(paths(app.routes))
    assert len(found) > 15
    assert {path for _, path in found} >= {"/v1/chat/completions", "/v1/completions", "/v1/models", "/metrics",
                                           "/chat/", "/openapi.json", "/health", "/login"}
    for method, path in sorted(found):
        for headers in ({}, {"authorization": "Bearer wrong-key-123"}, {"cookie": "gristmill_session=guess"}):
            status = client.request(method, path, headers=headers).status_code
            assert (status != 401) == (path in ("/health", "/login")) or (path == "/login" and method == "POST"), path
    for path in ("/nothing", "/v1/nothing", "//v1/models", "/health/", "/login/x", "/HEALTH"):
        assert client.get(path).status_code == 401, path
    with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect("/chat/_nicegui_ws/socket.io/"):
        pass
    assert refused.value.code == 1008


def test_a_key_opens_the_api_and_errors_have_openais_shape(keyed: TestClient) -> None:
    assert keyed.get("/v1/models", headers={"authorization": f"Bearer {KEY}"}).status_code == 503  # loading
    refused = keyed.get("/v1/models", headers={"authorization": "Bearer nope-nope-nope"})
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert refused.headers["www-authenticate"] == "Bearer"
    unknown = keyed.get("/v1/nothing", headers={"authorization": f"Bearer {KEY}"})
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "invalid_request_error")
    assert keyed.put("/health").status_code == 405


def test_the_page_is_opened_by_a_session_which_the_api_does_not_take(keyed: TestClient) -> None:
    assert keyed.post("/login", data={"key": "wrong-key-wrong"}).status_code == 401
    entered = keyed.post("/login", data={"key": KEY})
    assert entered.status_code == 303
    cookie = entered.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "gristmill_session="))
    assert KEY not in cookie
    assert keyed.get("/").headers["location"] == "/chat/"
    assert keyed.get("/v1/models").status_code == 401
    assert keyed.post("/logout").status_code == 303
    keyed.cookies.set("gristmill_session", cookie.split("gristmill_session=")[1].split(";")[0])
    assert keyed.get("/").status_code == 401
    assert keyed.get("/chat/", headers={"accept": "text/html"}).headers["location"] == "/login"


def test_without_keys_foreign_hosts_and_origins_are_refused(tmp_path: Path) -> None:
    client = client_for(Settings(state_dir=tmp_path, page=False))
    assert client.get("/health").status_code == 503
    assert client.get("/health", headers={"host": "evil.example:8000"}).status_code == 403
    assert client.get("/health", headers={"host": "bad host"}).status_code == 400
    assert client.get("/health", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.get("/health", headers={"origin": LOCAL}).status_code == 503
    assert client.post("/v1/chat/completions", headers={"origin": "null"}).status_code == 403


def test_security_headers_and_request_ids(keyed: TestClient) -> None:
    response = keyed.get("/health", headers={"x-request-id": "abc-1.2"})
    assert response.headers["x-request-id"] == "abc-1.2"
    assert keyed.get("/health", headers={"x-request-id": "a\tb"}).headers["x-request-id"] != "a\tb"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert not [name for name in response.headers if name.startswith("access-control-")]
    assert keyed.options("/v1/models", headers={"origin": LOCAL}).status_code == 401


def test_a_text_plain_post_from_a_form_is_refused(scripted: Any) -> None:
    with scripted().client() as client:
        body = b'{"messages": [{"role": "user", "content": "x"}]}'
        refused = client.post("/v1/chat/completions", content=body, headers={"content-type": "text/plain"})
    assert refused.status_code == 415


def test_sessions_are_bounded_and_forgotten() -> None:
    from gristmill.serving.access import Sessions

    sessions = Sessions(most=3)
    tokens = [sessions.open() for _ in range(4)]
    assert [sessions.holds(token) for token in tokens] == [False, True, True, True]
    sessions.close(tokens[3])
    assert not sessions.holds(tokens[3])
    assert not sessions.holds("")


def test_limits_must_make_sense() -> None:
    with pytest.raises(ValueError, match="body_bytes"):
        Limits(body_bytes=0)
