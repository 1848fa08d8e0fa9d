"""Reading request bodies with a bound."""

from __future__ import annotations

from fastapi import Request

from gristmill.serving.errors import ApiError


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body; ApiError 413 as soon as it is known to be longer than `limit` bytes."""
    too_long = ApiError(413, f"The body is longer than {limit} bytes.", code="body_too_large")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise too_long
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_long
        parts.append(part)
    return b"".join(parts)
