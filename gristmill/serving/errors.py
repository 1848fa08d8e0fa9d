"""Errors in the shape that OpenAI's clients expect."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """Becomes {"error": {message, type, param, code}} with an HTTP status."""

    def __init__(
        self, status: int, message: str, *, kind: str = "invalid_request_error", param: str | None = None,
        code: str | None = None, retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request itself is wrong."""
    return ApiError(400, message, param=param, code=code)


def loading() -> ApiError:
    return ApiError(503, "The model is still loading; ask again in a moment.", kind="unavailable_error",
                    code="loading", retry_after=2)


def draining() -> ApiError:
    return ApiError(503, "The server is shutting down and takes no new requests.", kind="unavailable_error",
                    code="draining", retry_after=5)


def overloaded(waiting: int) -> ApiError:
    return ApiError(429, f"All slots are busy and {waiting} answers wait already; ask again later.",
                    kind="rate_limit_error", code="queue_full", retry_after=max(1, min(30, waiting // 4)))


def engine_failed() -> ApiError:
    return ApiError(500, "The engine failed on this request; the server lives on. Its log says why.",
                    kind="server_error", code="engine_failed")
