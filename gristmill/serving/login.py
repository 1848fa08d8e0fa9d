"""The chat page's own way in: a form that takes an API key and gives the browser a session cookie."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from gristmill.serving.access import COOKIE, PAGE, SESSION_SECONDS, Sessions, session_token
from gristmill.serving.body import read_body
from gristmill.serving.settings import Settings


def add_login(app: FastAPI, settings: Settings, sessions: Sessions) -> None:
    """Routes /, /login and /logout."""
    page = (Path(__file__).parent / "studio" / "login.html").read_text(encoding="utf-8")

    async def root() -> Response:
        return RedirectResponse(PAGE + "/", 307)

    async def show_login() -> Response:
        if not settings.key_digests:
            return RedirectResponse(PAGE + "/", 303)
        return HTMLResponse(page.replace("{{note}}", ""))

    async def login(request: Request) -> Response:
        form = parse_qs((await read_body(request, 4096)).decode("utf-8", "replace"), max_num_fields=4)
        if not settings.accepts(form.get("key", [""])[0].strip()):
            await asyncio.sleep(0.3)
            return HTMLResponse(page.replace("{{note}}", "This key is not known here."), 401)
        response = RedirectResponse(PAGE + "/", 303)
        response.set_cookie(COOKIE, sessions.open(), max_age=SESSION_SECONDS, httponly=True, samesite="strict",
                            secure=request.url.scheme == "https")
        return response

    async def logout(request: Request) -> Response:
        sessions.close(session_token(request.headers))
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE)
        return response

    app.add_api_route("/", root, methods=["GET"], include_in_schema=False)
    app.add_api_route("/login", show_login, methods=["GET"], include_in_schema=False)
    app.add_api_route("/login", login, methods=["POST"], include_in_schema=False)
    app.add_api_route("/logout", logout, methods=["POST"], include_in_schema=False)
