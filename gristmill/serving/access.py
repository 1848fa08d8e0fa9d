"""Who gets in: keys, sessions, origins and hosts, checked before any route sees a request."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections import OrderedDict
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gristmill.serving.errors import ApiError
from gristmill.serving.settings import Settings, hash_key, is_loopback

log = logging.getLogger("gristmill.serving.access")

PUBLIC = frozenset({"/health", "/login"})
"""Paths that need no key. /login takes one."""
PAGE = "/chat"
"""Where the chat page is mounted; a browser's session opens it, and it alone."""
COOKIE = "gristmill_session"
MOST_HEADER_BYTES = 32 * 1024
SESSION_SECONDS = 7 * 24 * 3600
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HOST = re.compile(r"[A-Za-z0-9.\-:\[\]_]{1,255}")


class Sessions:
    """Browsers that showed a key; kept in memory as digests, the oldest forgotten first."""

    def __init__(self, most: int = 1000) -> None:
        self._most, self._until = most, OrderedDict[str, float]()

    def open(self) -> str:
        token = secrets.token_urlsafe(32)
        self._until[hash_key(token)] = time.monotonic() + SESSION_SECONDS
        while len(self._until) > self._most:
            self._until.popitem(last=False)
        return token

    def holds(self, token: str) -> bool:
        return self._until.get(hash_key(token), 0.0) > time.monotonic()

    def close(self, token: str) -> None:
        self._until.pop(hash_key(token), None)


class Access:
    """ASGI middleware around the whole app, the chat page and its websocket included.

    Adds a request id and security headers to every response. Without keys (loopback only) it refuses foreign
    Host headers, so that no web page reaches the server by re-pointing a name at 127.0.0.1 (DNS rebinding);
    requests that a page of another origin makes are refused always.
    """

    def __init__(self, app: ASGIApp, settings: Settings, sessions: Sessions) -> None:
        self.app, self.settings, self.sessions = app, settings, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        offered = headers.get("x-request-id", "")
        request_id = offered if _REQUEST_ID.fullmatch(offered) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        began, status = time.monotonic(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                self._decorate(MutableHeaders(scope=message), scope["path"], headers.get("host", ""), request_id)
            await send(message)

        try:
            self._check(scope, headers)
        except ApiError as error:
            await self._refuse(error, scope, headers, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)
        if scope["type"] == "http" and not scope["path"].startswith(PAGE + "/"):
            log.info(json.dumps({"request": request_id, "method": scope["method"], "path": scope["path"][:200],
                                 "status": status, "seconds": round(time.monotonic() - began, 4)}))

    def _check(self, scope: Scope, headers: Headers) -> None:
        if sum(len(name) + len(value) for name, value in headers.raw) > MOST_HEADER_BYTES:
            raise ApiError(431, f"The headers are longer than {MOST_HEADER_BYTES} bytes.", code="headers_too_large")
        host = headers.get("host", "")
        if not _HOST.fullmatch(host):
            raise ApiError(400, "The Host header is missing or malformed.")
        if not self.settings.key_digests and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            raise ApiError(403, f"This server has no API key and answers only to local names, not to {host!r}.",
                           kind="permission_error", code="foreign_host")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise ApiError(403, "Requests from pages of another origin are refused.",
                           kind="permission_error", code="foreign_origin")
        path = scope["path"]
        if path in PUBLIC or not self.settings.key_digests:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.settings.accepts(key.strip()):
            return
        if (path in ("/", "/logout", PAGE) or path.startswith(PAGE + "/")) and self.has_session(headers):
            return
        if scheme:
            raise ApiError(401, "Incorrect API key provided.", kind="authentication_error", code="invalid_api_key")
        raise ApiError(401, "No API key was given; send the header Authorization: Bearer YOUR_KEY.",
                       kind="authentication_error", code="missing_api_key")

    def has_session(self, headers: Headers) -> bool:
        token = session_token(headers)
        return bool(token) and self.sessions.holds(token)

    async def _refuse(self, error: ApiError, scope: Scope, headers: Headers, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": error.message[:120]})
            return
        extra = error.headers()
        body, status = json.dumps(error.body()).encode(), error.status
        wants_page = error.status == 401 and "text/html" in headers.get("accept", "") and scope["method"] == "GET"
        if wants_page and (scope["path"] == "/" or scope["path"].startswith(PAGE)):
            status, extra, body = 303, {"location": "/login"}, b""
        # The body was not read, so the connection cannot be used again.
        raw = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
               (b"connection", b"close"), *((k.encode(), v.encode()) for k, v in extra.items())]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    def _decorate(self, headers: MutableHeaders, path: str, host: str, request_id: str) -> None:
        headers["x-request-id"] = request_id
        headers["x-content-type-options"] = "nosniff"
        headers["x-frame-options"] = "DENY"
        headers["referrer-policy"] = "same-origin"
        headers["cross-origin-opener-policy"] = "same-origin"
        headers["cross-origin-resource-policy"] = "same-origin"
        headers.setdefault("cache-control", "no-store")
        if path.startswith(PAGE):
            # NiceGUI boots from an inline script; handlers in attributes (what an injected <img onerror> needs)
            # and every foreign host are forbidden all the same.
            safe_host = host if _HOST.fullmatch(host) else "localhost"
            policy = ("default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; script-src-attr 'none'; "
                      "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; "
                      f"connect-src 'self' ws://{safe_host} wss://{safe_host}; object-src 'none'; base-uri 'none'; "
                      "form-action 'self'; frame-ancestors 'none'")
        else:
            policy = ("default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
                      "frame-ancestors 'none'")
        headers["content-security-policy"] = policy


def session_token(headers: Any) -> str:
    """The session cookie's value, or ""."""
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""
